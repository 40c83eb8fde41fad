"""The operations of `reference_ops`, each as one Triton kernel: at batch 1 the card waits for launches, at batch 64 for
memory, and both want few kernels. Rounding follows the reference, so that the two are interchangeable.

No kernel is specialised by a number of tokens or rows: each is compiled once per model.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from models.vlm.reference_ops import Quantised

FLOAT8_MAX = tl.constexpr(448.0)
LEAST_SCALE = tl.constexpr(1e-12)
FEW_TOKENS = 512  # below it, small blocks: they spread over the whole card


@triton.jit
def _store_float8(values, out, scales, row, width, at, inside):
    scale = tl.maximum(tl.max(tl.abs(values), 0), LEAST_SCALE) / FLOAT8_MAX
    tl.store(out + row * width + at, (values / scale).to(out.dtype.element_ty), inside)
    tl.store(scales + row, scale)


@triton.jit(do_not_specialize=["eps"])
def _rms_norm(
    stream, added, weight, out, scales, width, eps, ADD: tl.constexpr, FLOAT8: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    x = tl.load(stream + row * width + at, inside, 0.0)
    if ADD:
        more = tl.load(added + row * width + at, inside, 0.0)
        x += more.to(tl.float32)
        tl.store(stream + row * width + at, x, inside)
    root = tl.rsqrt(tl.sum(x * x, 0) / width + eps)
    normal = x * root * tl.load(weight + at, inside, 0.0).to(tl.float32)
    if FLOAT8:
        _store_float8(normal, out, scales, row, width, at, inside)
    else:
        tl.store(out + row * width + at, normal.to(out.dtype.element_ty), inside)


def add_rms_norm(
    stream: torch.Tensor, added: torch.Tensor | None, weight: torch.Tensor, eps: float, to_float8: bool = False
) -> torch.Tensor | Quantised:
    out, scales = _outputs(stream.shape, weight, to_float8)
    tokens, width = stream.shape
    block = triton.next_power_of_2(width)
    _rms_norm[(tokens,)](
        stream, stream if added is None else added, weight, out, scales, width, eps,
        ADD=added is not None, FLOAT8=to_float8, BLOCK=block, num_warps=_warps(block),
    )  # fmt: skip
    return (out, scales) if to_float8 else out


@triton.jit(do_not_specialize=["eps"])
def _layer_norm(stream, added, weight, bias, out, width, eps, ADD: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    x = tl.load(stream + row * width + at, inside, 0.0)
    if ADD:
        more = tl.load(added + row * width + at, inside, 0.0)
        x += more.to(tl.float32)
        tl.store(stream + row * width + at, x, inside)
    centred = tl.where(inside, x - tl.sum(x, 0) / width, 0.0)
    root = tl.rsqrt(tl.sum(centred * centred, 0) / width + eps)
    w, b = tl.load(weight + at, inside, 0.0).to(tl.float32), tl.load(bias + at, inside, 0.0).to(tl.float32)
    tl.store(out + row * width + at, (centred * root * w + b).to(out.dtype.element_ty), inside)


def add_layer_norm(
    stream: torch.Tensor, added: torch.Tensor | None, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> torch.Tensor:
    out = torch.empty_like(stream, dtype=weight.dtype)
    tokens, width = stream.shape
    block = triton.next_power_of_2(width)
    _layer_norm[(tokens,)](
        stream, stream if added is None else added, weight, bias, out, width, eps,
        ADD=added is not None, BLOCK=block, num_warps=_warps(block),
    )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["period", "eps"])
def _rotate(
    qkv, cos, sin, query, key, period, stride, eps,
    QUERIES: tl.constexpr, BOTH: tl.constexpr, SIZE: tl.constexpr, HALF: tl.constexpr, HEADS: tl.constexpr,
    NORM: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    at = tl.arange(0, HALF)
    half = SIZE // 2
    here = at < half
    inside = (head[:, None] < BOTH) & here[None, :]
    place = qkv + token.to(tl.int64) * stride + head[:, None] * SIZE + at[None, :]
    dtype = qkv.dtype.element_ty
    first, second = tl.load(place, inside, 0.0).to(tl.float32), tl.load(place + half, inside, 0.0).to(tl.float32)
    if NORM:
        root = tl.rsqrt((tl.sum(first * first, 1) + tl.sum(second * second, 1)) / SIZE + eps)[:, None]
        asks = head[:, None] < QUERIES
        w1 = tl.where(asks, tl.load(query + at, here, 0.0)[None, :], tl.load(key + at, here, 0.0)[None, :])
        w2 = tl.where(
            asks, tl.load(query + half + at, here, 0.0)[None, :], tl.load(key + half + at, here, 0.0)[None, :]
        )
        first = first * root * w1.to(tl.float32)
        second = second * root * w2.to(tl.float32)
    table = (token % period) * half + at
    c, s = tl.load(cos + table, here, 0.0)[None, :], tl.load(sin + table, here, 0.0)[None, :]
    tl.store(place, (first * c - second * s).to(dtype), inside)
    tl.store(place + half, (second * c + first * s).to(dtype), inside)


def rotate(
    qkv: torch.Tensor,
    heads: int,
    keys: int,
    cos: torch.Tensor,
    sin: torch.Tensor,
    norms: tuple[torch.Tensor, torch.Tensor, float] | None = None,
) -> None:
    tokens, stride = qkv.shape
    size = stride // (heads + 2 * keys)
    if not (qkv.is_contiguous() and cos.is_contiguous() and sin.is_contiguous()):
        raise ValueError("expected contiguous qkv and tables")
    query, key, eps = norms or (cos, cos, 0.0)
    block = 8
    _rotate[(tokens, triton.cdiv(heads + keys, block))](
        qkv, cos, sin, query, key, cos.shape[0], stride, eps,
        QUERIES=heads, BOTH=heads + keys, SIZE=size, HALF=triton.next_power_of_2(size // 2), HEADS=block,
        NORM=norms is not None, num_warps=1,
    )  # fmt: skip


@triton.jit
def _attend(q, k, v, seen, top, total, answer, scale):
    """One block of keys: scores, running maximum and sum, weighted values."""
    scores = tl.where(seen, tl.dot(q, tl.trans(k)) * scale, float("-inf"))
    higher = tl.maximum(top, tl.max(scores, 1))
    share = tl.exp2(scores - higher[:, None])
    shrink = tl.exp2(top - higher)
    total = total * shrink + tl.sum(share, 1)
    answer = answer * shrink[:, None] + tl.dot(share.to(v.dtype), v)
    return higher, total, answer


@triton.jit(do_not_specialize=["n", "queries", "longest", "questions"])
def _attention(
    qkv, prefix, lengths, out, n, queries, longest, questions, scale,
    HEADS: tl.constexpr, KEYS: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    PREFIX: tl.constexpr,
):  # fmt: skip
    GROUP: tl.constexpr = HEADS // KEYS  # queries that share a key: they lie side by side in one block
    row, key = tl.program_id(1) // KEYS, tl.program_id(1) % KEYS
    packed = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    query, head = packed // GROUP, key * GROUP + packed % GROUP
    asked = (query < queries)[:, None]
    token = n - queries + query
    at = tl.arange(0, SIZE)
    stride = (HEADS + 2 * KEYS) * SIZE
    own = qkv + row.to(tl.int64) * n * stride
    q = tl.load(own + token[:, None] * stride + head[:, None] * SIZE + at[None, :], asked, 0.0)
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    answer = tl.zeros((ROWS, SIZE), tl.float32)
    columns = tl.arange(0, COLUMNS)
    if PREFIX:
        question = row % questions
        length = tl.load(lengths + question)
        cached = prefix + (question * longest * KEYS + key) * SIZE + at[None, :]
        values = questions * longest * KEYS * SIZE
        for start in range(0, length, COLUMNS):
            place = start + columns
            real = (place < length)[:, None]
            k = tl.load(cached + place[:, None] * (KEYS * SIZE), real, 0.0)
            v = tl.load(cached + values + place[:, None] * (KEYS * SIZE), real, 0.0)
            top, total, answer = _attend(q, k, v, (place < length)[None, :], top, total, answer, scale)
    mine = own + (HEADS + key) * SIZE + at[None, :]
    latest = n - queries + (tl.program_id(0) * ROWS + ROWS - 1) // GROUP
    for start in range(0, tl.minimum(n, latest + 1), COLUMNS):
        place = start + columns
        real = (place < n)[:, None]
        k = tl.load(mine + place[:, None] * stride, real, 0.0)
        v = tl.load(mine + KEYS * SIZE + place[:, None] * stride, real, 0.0)
        top, total, answer = _attend(q, k, v, place[None, :] <= token[:, None], top, total, answer, scale)
    written = row.to(tl.int64) * queries * (HEADS * SIZE) + query[:, None] * (HEADS * SIZE) + head[:, None] * SIZE
    tl.store(out + written + at[None, :], (answer / total[:, None]).to(out.dtype.element_ty), asked)


def attention(
    qkv: torch.Tensor,
    prefix: torch.Tensor | None,
    lengths: torch.Tensor | None,
    rows: int,
    heads: int,
    keys: int,
    queries: int = 0,
) -> torch.Tensor:
    n, size = qkv.shape[0] // rows, qkv.shape[1] // (heads + 2 * keys)
    queries = queries or n
    questions, longest = prefix.shape[1:3] if prefix is not None else (1, 0)
    out = qkv.new_empty(rows * queries, heads * size)
    block = 16 if rows * queries < FEW_TOKENS else 64
    _attention[(triton.cdiv(queries * heads // keys, block), rows * keys)](
        qkv, qkv if prefix is None else prefix, qkv if lengths is None else lengths, out,
        n, queries, longest, questions, size**-0.5 * 1.4426950408889634,  # log2(e): exp2 is what the card has
        HEADS=heads, KEYS=keys, SIZE=size, ROWS=block, COLUMNS=64, PREFIX=prefix is not None, num_warps=4,
    )  # fmt: skip
    return out


@triton.jit
def _silu_mul(gate_up, out, scales, width, FLOAT8: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    gate = tl.load(gate_up + row * 2 * width + at, inside, 0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + at, inside, 0.0).to(tl.float32)
    product = gate * tl.sigmoid(gate) * up
    if FLOAT8:
        _store_float8(product, out, scales, row, width, at, inside)
    else:
        tl.store(out + row * width + at, product.to(out.dtype.element_ty), inside)


def silu_mul(gate_up: torch.Tensor, to_float8: bool = False) -> torch.Tensor | Quantised:
    tokens, width = gate_up.shape[0], gate_up.shape[1] // 2
    out, scales = _outputs((tokens, width), gate_up, to_float8)
    block = triton.next_power_of_2(width) if to_float8 else 1024  # a token's scale needs all of it at once
    _silu_mul[(tokens, triton.cdiv(width, block))](
        gate_up, out, scales, width, FLOAT8=to_float8, BLOCK=block, num_warps=_warps(block)
    )
    return (out, scales) if to_float8 else out


@triton.jit
def _quantise(values, out, scales, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    _store_float8(tl.load(values + row * width + at, inside, 0.0).to(tl.float32), out, scales, row, width, at, inside)


def quantise(rows: torch.Tensor) -> Quantised:
    out, scales = _outputs(rows.shape, rows, True)
    block = triton.next_power_of_2(rows.shape[1])
    _quantise[(rows.shape[0],)](rows, out, scales, rows.shape[1], BLOCK=block, num_warps=_warps(block))
    return out, scales


@triton.jit
def _yes_no(hidden, head, out, width, YES: tl.constexpr, ALL: tl.constexpr, FORMS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    form = tl.arange(0, FORMS)
    scores = tl.zeros((FORMS,), tl.float32)
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(hidden + row * width + at, at < width, 0.0).to(tl.float32)
        known = (form[:, None] < ALL) & (at[None, :] < width)
        w = tl.load(head + form[:, None] * width + at[None, :], known, 0.0).to(tl.float32)
        scores += tl.sum(w * x[None, :], 1)
    yes = tl.where(form < YES, scores, float("-inf"))
    no = tl.where((form >= YES) & (form < ALL), scores, float("-inf"))
    highest_yes, highest_no = tl.max(yes, 0), tl.max(no, 0)
    odds = highest_yes + tl.log(tl.sum(tl.exp(yes - highest_yes), 0))
    tl.store(out + row, odds - highest_no - tl.log(tl.sum(tl.exp(no - highest_no), 0)))


def yes_no(hidden: torch.Tensor, head: torch.Tensor, yes: int) -> torch.Tensor:
    rows, width = hidden.shape
    out = torch.empty(rows, dtype=torch.float32, device=hidden.device)
    forms = triton.next_power_of_2(head.shape[0])
    _yes_no[(rows,)](hidden, head, out, width, YES=yes, ALL=head.shape[0], FORMS=forms, BLOCK=512, num_warps=4)
    return out


def linear_gelu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return torch._addmm_activation(bias, x, weight.T, use_gelu=True)  # in the matrix product's own epilogue


def _outputs(shape: tuple[int, ...], like: torch.Tensor, to_float8: bool) -> Quantised:
    """Where a kernel writes, and its scales (unused without float8)."""
    dtype = torch.float8_e4m3fn if to_float8 else like.dtype
    out = torch.empty(shape, dtype=dtype, device=like.device)
    return out, torch.empty(shape[0], 1, dtype=torch.float32, device=like.device) if to_float8 else out


def _warps(block: int) -> int:
    return min(16, max(1, block // 1024))
