"""The operations of `reference_ops`, each as one Triton kernel: at batch 1 the card waits for launches, at batch 64 for
memory, and both want few kernels. Rounding follows the reference, so that the two are interchangeable.

No kernel is specialised by a number of tokens or rows: each is compiled once per model.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from models.fp8 import E4M3
from models.vlm.reference_ops import L2_EPS, Quantised

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
    stream: torch.Tensor, added: torch.Tensor | None, weight: torch.Tensor, eps: float, to: torch.dtype
) -> torch.Tensor | Quantised:
    out, scales = _outputs(stream.shape, stream.device, to)
    tokens, width = stream.shape
    block = triton.next_power_of_2(width)
    _rms_norm[(tokens,)](
        stream, stream if added is None else added, weight, out, scales, width, eps,
        ADD=added is not None, FLOAT8=to == E4M3, BLOCK=block, num_warps=_warps(block),
    )  # fmt: skip
    return (out, scales) if to == E4M3 else out


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
    tokens, size = qkv.shape[0], qkv.shape[1] // (heads + 2 * keys)
    if not (qkv.stride(1) == 1 and cos.is_contiguous() and sin.is_contiguous()):
        raise ValueError("expected qkv and tables that lie row by row")
    query, key, eps = norms or (cos, cos, 0.0)
    block = 8
    _rotate[(tokens, triton.cdiv(heads + keys, block))](
        qkv, cos, sin, query, key, cos.shape[0], qkv.stride(0), eps,
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
    qkv, prefix, lengths, out, n, queries, longest, questions, stride, scale,
    HEADS: tl.constexpr, KEYS: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    GROUP: tl.constexpr = HEADS // KEYS  # queries that share a key: they lie side by side in one block
    row, key = tl.program_id(1) // KEYS, tl.program_id(1) % KEYS
    packed = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    query, head = packed // GROUP, key * GROUP + packed % GROUP
    asked = (query < queries)[:, None]
    token = n - queries + query
    at = tl.arange(0, SIZE)
    own = qkv + row.to(tl.int64) * n * stride
    q = tl.load(own + token[:, None] * stride + head[:, None] * SIZE + at[None, :], asked, 0.0)
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    answer = tl.zeros((ROWS, SIZE), tl.float32)
    columns = tl.arange(0, COLUMNS)
    question = row % questions
    length = tl.load(lengths + question)
    kept = prefix + (question * longest * 2 * KEYS + key) * SIZE + at[None, :]
    for start in range(0, length, COLUMNS):
        place = start + columns
        real = (place < length)[:, None]
        k = tl.load(kept + place[:, None] * (2 * KEYS * SIZE), real, 0.0)
        v = tl.load(kept + KEYS * SIZE + place[:, None] * (2 * KEYS * SIZE), real, 0.0)
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
    prefix: torch.Tensor,
    lengths: torch.Tensor,
    rows: int,
    heads: int,
    keys: int,
    queries: int = 0,
) -> torch.Tensor:
    n, size = qkv.shape[0] // rows, qkv.shape[1] // (heads + 2 * keys)
    queries = queries or n
    questions, longest = prefix.shape[:2]
    out = qkv.new_empty(rows * queries, heads * size)
    block = 16 if rows * queries < FEW_TOKENS else 64
    wide = size > 128  # a block of keys and values fills the shared memory, an answer the registers
    _attention[(triton.cdiv(queries * heads // keys, block), rows * keys)](
        qkv, prefix, lengths, out, n, queries, longest, questions, qkv.stride(0),
        size**-0.5 * 1.4426950408889634,  # log2(e): exp2 is what the card has
        HEADS=heads, KEYS=keys, SIZE=size, ROWS=block, COLUMNS=32 if wide else 64,
        num_warps=8 if wide and block == 64 else 4,
    )  # fmt: skip
    return out


@triton.jit
def _gated(x, gate, out, stride, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    share = tl.sigmoid(tl.load(gate + row * stride + at, inside, 0.0).to(tl.float32))
    value = tl.load(x + row * width + at, inside, 0.0).to(tl.float32) * share
    tl.store(out + row * width + at, value.to(out.dtype.element_ty), inside)


def gated(x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    out, (tokens, width) = torch.empty_like(x), x.shape
    _gated[(tokens, triton.cdiv(width, 1024))](x, gate, out, gate.stride(0), width, BLOCK=1024, num_warps=1)
    return out


@triton.jit(do_not_specialize=["n", "questions"])
def _conv_silu(x, before, weight, out, n, questions, stride, channels, TAPS: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0)
    row, place = token // n, token % n
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < channels
    kept = before + (row % questions) * (TAPS - 1) * channels + at
    total = tl.zeros((BLOCK,), tl.float32)
    for tap in tl.static_range(TAPS):
        source = place + tap - (TAPS - 1)
        own = tl.load(x + (token + tap - (TAPS - 1)).to(tl.int64) * stride + at, inside & (source >= 0), 0.0)
        old = tl.load(kept + (source + TAPS - 1) * channels, inside & (source < 0), 0.0)
        taken = own.to(tl.float32) + old.to(tl.float32)
        total += taken * tl.load(weight + tap * channels + at, inside, 0.0).to(tl.float32)
    done = total * tl.sigmoid(total)
    tl.store(out + token.to(tl.int64) * channels + at, done.to(out.dtype.element_ty), inside)


def conv_silu(x: torch.Tensor, before: torch.Tensor, weight: torch.Tensor, rows: int) -> torch.Tensor:
    tokens, channels = x.shape
    out = torch.empty(tokens, channels, dtype=x.dtype, device=x.device)
    _conv_silu[(tokens, triton.cdiv(channels, 1024))](
        x, before, weight, out, tokens // rows, before.shape[0], x.stride(0), channels,
        TAPS=len(weight), BLOCK=1024, num_warps=1,
    )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["n", "questions", "stride"])
def _delta_rule(
    qkv, steps, rate, bias, before, after, out, n, questions, stride, scale, eps,
    HEADS: tl.constexpr, KEYS: tl.constexpr, SIZE: tl.constexpr, VALUE: tl.constexpr, COLUMNS: tl.constexpr,
    KEEP: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(1) // HEADS, tl.program_id(1) % HEADS
    key = head // (HEADS // KEYS)
    at = tl.arange(0, SIZE)
    value = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)  # columns of a memory know nothing of one another
    square = at[:, None] * VALUE + value[None, :]
    memory = tl.load(before + ((row % questions) * HEADS + head) * SIZE * VALUE + square)
    speed, shift = -tl.exp(tl.load(rate + head)), tl.load(bias + head)
    for place in range(n):
        token = row.to(tl.int64) * n + place
        own = qkv + token * (2 * KEYS * SIZE + HEADS * VALUE)
        q = tl.load(own + key * SIZE + at).to(tl.float32)
        k = tl.load(own + (KEYS + key) * SIZE + at).to(tl.float32)
        v = tl.load(own + 2 * KEYS * SIZE + head * VALUE + value).to(tl.float32)
        q = q * tl.rsqrt(tl.sum(q * q, 0) + eps) * scale
        k = k * tl.rsqrt(tl.sum(k * k, 0) + eps)
        learn = tl.sigmoid(tl.load(steps + token * stride + head).to(tl.float32))
        a = tl.load(steps + token * stride + HEADS + head).to(tl.float32) + shift
        memory *= tl.exp(speed * (tl.maximum(a, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(a)))))  # softplus, large or small
        new = learn * (v - tl.sum(memory * k[:, None], 0))
        memory += k[:, None] * new[None, :]
        said = tl.sum(memory * q[:, None], 0)
        tl.store(out + token * (HEADS * VALUE) + head * VALUE + value, said.to(out.dtype.element_ty))
    if KEEP:
        tl.store(after + (row.to(tl.int64) * HEADS + head) * SIZE * VALUE + square, memory)


def delta_rule(
    qkv: torch.Tensor,
    steps: torch.Tensor,
    rate: torch.Tensor,
    bias: torch.Tensor,
    before: torch.Tensor,
    rows: int,
    keys: int,
    after: torch.Tensor | None = None,
) -> torch.Tensor:
    questions, heads, size, value = before.shape
    columns = min(value, 16)
    if size & (size - 1) or value % columns:
        raise ValueError(f"expected keys of a power of two and values of a multiple of {columns}, got {size}, {value}")
    out = qkv.new_empty(len(qkv), heads * value)
    _delta_rule[(value // columns, rows * heads)](
        qkv, steps, rate, bias, before, before if after is None else after, out,
        len(qkv) // rows, questions, steps.stride(0), size**-0.5, L2_EPS,
        HEADS=heads, KEYS=keys, SIZE=size, VALUE=value, COLUMNS=columns, KEEP=after is not None, num_warps=1,
    )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["eps"])
def _gated_rms_norm(x, gate, weight, out, stride, size, eps, BLOCK: tl.constexpr):
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = tl.arange(0, BLOCK)
    inside = at < size
    place = (token * tl.num_programs(1) + head) * size + at
    value = tl.load(x + place, inside, 0.0).to(tl.float32)
    root = tl.rsqrt(tl.sum(value * value, 0) / size + eps)
    z = tl.load(gate + token * stride + head * size + at, inside, 0.0).to(tl.float32)
    normal = value * root * tl.load(weight + at, inside, 0.0).to(tl.float32)
    tl.store(out + place, (normal * z * tl.sigmoid(z)).to(out.dtype.element_ty), inside)


def gated_rms_norm(x: torch.Tensor, gate: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    out, size = torch.empty_like(x), len(weight)
    _gated_rms_norm[(len(x), x.shape[1] // size)](
        x, gate, weight, out, gate.stride(0), size, eps, BLOCK=triton.next_power_of_2(size), num_warps=1
    )
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


def silu_mul(gate_up: torch.Tensor, to: torch.dtype) -> torch.Tensor | Quantised:
    tokens, width = gate_up.shape[0], gate_up.shape[1] // 2
    out, scales = _outputs((tokens, width), gate_up.device, to)
    block = triton.next_power_of_2(width) if to == E4M3 else 1024  # a token's scale needs all of it at once
    _silu_mul[(tokens, triton.cdiv(width, block))](
        gate_up, out, scales, width, FLOAT8=to == E4M3, BLOCK=block, num_warps=_warps(block)
    )
    return (out, scales) if to == E4M3 else out


@triton.jit
def _quantise(values, out, scales, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    _store_float8(tl.load(values + row * width + at, inside, 0.0).to(tl.float32), out, scales, row, width, at, inside)


def quantise(rows: torch.Tensor) -> Quantised:
    out, scales = _outputs(rows.shape, rows.device, E4M3)
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


def _outputs(shape: tuple[int, ...], device: torch.device, to: torch.dtype) -> Quantised:
    """Where a kernel writes, and its scales (unused without float8)."""
    out = torch.empty(shape, dtype=to, device=device)
    return out, torch.empty(shape[0], 1, dtype=torch.float32, device=device) if to == E4M3 else out


def _warps(block: int) -> int:
    return min(16, max(1, block // 1024))
