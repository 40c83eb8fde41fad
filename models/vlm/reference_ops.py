"""The operations of the static forward in plain torch: what `fused_ops` computes on a card, written to be read.

What is added up over the layers (`stream`) is held in 32 bits, and each operation rounds once, at its end: that is
nearer to the exact answer than the library comes in 16 bits.

Tokens are flat: (rows * n, width), where a row is one picture with one question and n its tokens after the text prefix.
Every function has the same name, arguments and rounding in both modules.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from models.fp8 import E4M3, quantise

Quantised = tuple[torch.Tensor, torch.Tensor]  # float8 values (tokens, width), float32 scale per token (tokens, 1)

L2_EPS = 1e-6  # of the delta rule's keys and queries, fixed in the library

__all__ = [
    "add_layer_norm",
    "add_rms_norm",
    "attention",
    "conv_silu",
    "delta_rule",
    "gated",
    "gated_rms_norm",
    "linear_gelu",
    "quantise",
    "rotate",
    "silu_mul",
    "yes_no",
]


def add_rms_norm(
    stream: torch.Tensor, added: torch.Tensor | None, weight: torch.Tensor, eps: float, to: torch.dtype
) -> torch.Tensor | Quantised:
    """stream += added, in place; then its RMS norm. to: what it is given in; float8 comes with a scale per token."""
    if added is not None:
        stream += added
    return _given(stream * torch.rsqrt(stream.square().mean(-1, keepdim=True) + eps) * weight.float(), to)


def add_layer_norm(
    stream: torch.Tensor, added: torch.Tensor | None, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> torch.Tensor:
    """stream += added, in place; then its layer norm."""
    if added is not None:
        stream += added
    return functional.layer_norm(stream, stream.shape[-1:], weight.float(), bias.float(), eps).to(weight.dtype)


def rotate(
    qkv: torch.Tensor,
    heads: int,
    keys: int,
    cos: torch.Tensor,
    sin: torch.Tensor,
    norms: tuple[torch.Tensor, torch.Tensor, float] | None = None,
) -> None:
    """Rotary positions on queries and keys, in place; before it their RMS norm per head, if there is one.

    qkv: (tokens, (heads + 2 * keys) * size), or such columns of something wider. cos, sin: (period, size / 2) float32;
    token t takes row t % period. norms: weight for queries, for keys (size,), and epsilon.
    """
    tokens, size = qkv.shape[0], qkv.shape[1] // (heads + 2 * keys)
    both = qkv.view(tokens, -1, size)[:, : heads + keys]
    values = both.float()
    if norms:
        query, key, eps = norms
        weight = torch.cat((query.expand(heads, -1), key.expand(keys, -1)))
        values = values * torch.rsqrt(values.square().mean(-1, keepdim=True) + eps) * weight
    first, second = values.chunk(2, -1)
    repeats = tokens // cos.shape[0]
    cos, sin = (table.repeat(repeats, 1)[:, None] for table in (cos, sin))
    both.copy_(torch.cat((first * cos - second * sin, second * cos + first * sin), -1))


def attention(
    qkv: torch.Tensor,
    prefix: torch.Tensor,
    lengths: torch.Tensor,
    rows: int,
    heads: int,
    keys: int,
    queries: int = 0,
) -> torch.Tensor:
    """Causal attention of each row over the kept prefix of its question and over its own tokens.

    qkv: (rows * n, (heads + 2 * keys) * size), rotated, or such columns of something wider. prefix: (questions,
    longest, 2, keys, size), a key and a value per token; row r belongs to question r % questions. lengths:
    (questions,) int32. queries: only the last so many of each row are answered (0: all). Returns (rows * queries,
    heads * size).
    """
    n, size = qkv.shape[0] // rows, qkv.shape[1] // (heads + 2 * keys)
    queries = queries or n
    questions, longest = prefix.shape[:2]
    question = torch.arange(rows, device=qkv.device) % questions
    q, k, v = qkv.view(rows, n, -1, size).split([heads, keys, keys], 2)
    k, v = (torch.cat((kept, own), 1) for kept, own in zip(prefix[question].unbind(2), (k, v), strict=True))
    own = torch.ones(n, n, dtype=torch.bool, device=qkv.device).tril()[n - queries :].expand(rows, -1, -1)
    real = torch.arange(longest, device=qkv.device) < lengths[:, None]
    seen = torch.cat((real[question, None].expand(-1, queries, -1), own), 2)
    q, k, v = (part.transpose(1, 2) for part in (q[:, n - queries :], k, v))
    out = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None], enable_gqa=True)
    return out.transpose(1, 2).reshape(rows * queries, heads * size)


def gated(x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """x * sigmoid(gate). gate: of x's shape, columns of something wider."""
    return (x.float() * gate.float().sigmoid()).to(x.dtype)


def conv_silu(x: torch.Tensor, before: torch.Tensor, weight: torch.Tensor, rows: int) -> torch.Tensor:
    """silu of each channel's causal convolution over a row's tokens and the ones before them.

    x: (rows * n, channels), columns of something wider. before: (questions, taps - 1, channels), the text's last
    tokens; row r belongs to question r % questions. weight: (taps, channels). Returns (rows * n, channels).
    """
    question = torch.arange(rows, device=x.device) % before.shape[0]
    n, taps = len(x) // rows, len(weight)
    tokens = torch.cat((before[question], x.view(rows, n, -1)), 1).float()
    out = sum(tokens[:, tap : tap + n] * weight[tap].float() for tap in range(taps))
    return functional.silu(torch.as_tensor(out)).to(x.dtype).flatten(0, 1)


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
    """The gated delta rule of Gated DeltaNet (arXiv 2412.06464), token by token, in 32 bits.

    Each head has a memory M, (size of a key, size of a value), that starts as the text before has left it:

        M *= exp(-exp(rate) * softplus(a + bias));  M += k (sigmoid(b) * (v - k M));  output q M / sqrt(size)

    with k and q of length 1. qkv: (rows * n, 2 * keys * size + heads * value), where heads share `keys` in turn.
    steps: (rows * n, 2 * heads), b then a. rate, bias: (heads,) float32. before:
    (questions, heads, size, value) float32; row r belongs to question r % questions. after: takes the memory of the
    last token, (rows, heads, size, value). Returns (rows * n, heads * value).
    """
    questions, heads, size, value = before.shape
    n = len(qkv) // rows
    q, k, v = qkv.view(rows, n, -1).float().split([keys * size, keys * size, heads * value], 2)
    q, k = (part.view(rows, n, keys, size) for part in (q, k))
    q, k = (part * torch.rsqrt(part.square().sum(-1, keepdim=True) + L2_EPS) for part in (q, k))
    q, k = (part.repeat_interleave(heads // keys, 2) for part in (q * size**-0.5, k))
    v = v.view(rows, n, heads, value)
    b, a = steps.reshape(rows, n, -1).float().chunk(2, -1)
    shrink, learn = (-rate.exp() * functional.softplus(a + bias)).exp(), b.sigmoid()
    memory = before[torch.arange(rows, device=qkv.device) % questions]
    said = []
    for token in range(n):
        memory = memory * shrink[:, token, :, None, None]
        known = (k[:, token, :, None] @ memory)[:, :, 0]
        new = learn[:, token, :, None] * (v[:, token] - known)
        memory = memory + k[:, token, :, :, None] * new[:, :, None]
        said.append((q[:, token, :, None] @ memory)[:, :, 0])
    if after is not None:
        after.copy_(memory)
    return torch.stack(said, 1).reshape(rows * n, heads * value).to(qkv.dtype)


def gated_rms_norm(x: torch.Tensor, gate: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """RMS norm of each head, times silu(gate). x, gate: (tokens, heads * size), gate columns of something wider.
    weight: (size,)."""
    heads = x.float().view(len(x), -1, len(weight))
    normal = heads * torch.rsqrt(heads.square().mean(-1, keepdim=True) + eps) * weight.float()
    return (normal.view(x.shape) * functional.silu(gate.float())).to(x.dtype)


def silu_mul(gate_up: torch.Tensor, to: torch.dtype) -> torch.Tensor | Quantised:
    """silu(gate) * up of (tokens, 2 * width), gate first. to: as in `add_rms_norm`."""
    gate, up = gate_up.chunk(2, -1)
    return _given(functional.silu(gate.float()) * up, to)


def linear_gelu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """gelu(x weight^T + bias) in tanh's approximation."""
    return functional.gelu(functional.linear(x, weight, bias), approximate="tanh")


def yes_no(hidden: torch.Tensor, head: torch.Tensor, yes: int) -> torch.Tensor:
    """logsumexp over the first `yes` rows of the head less that over the others, (rows,) float32."""
    scores = hidden.float() @ head.float().T
    return scores[:, :yes].logsumexp(-1) - scores[:, yes:].logsumexp(-1)


def _given(x: torch.Tensor, to: torch.dtype) -> torch.Tensor | Quantised:
    return quantise(x) if to == E4M3 else x.to(to)
