"""The operations of the static forward in plain torch: what `fused_ops` computes on a card, written to be read.

What is added up over the layers (`stream`) is held in 32 bits, and each operation rounds once, at its end: that is
nearer to the exact answer than the library comes in 16 bits.

Tokens are flat: (rows * n, width), where a row is one picture with one question and n its tokens after the text prefix.
Every function has the same name, arguments and rounding in both modules.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from models.fp8 import quantise

Quantised = tuple[torch.Tensor, torch.Tensor]  # float8 values (tokens, width), float32 scale per token (tokens, 1)

__all__ = ["add_layer_norm", "add_rms_norm", "attention", "linear_gelu", "quantise", "rotate", "silu_mul", "yes_no"]


def add_rms_norm(
    stream: torch.Tensor, added: torch.Tensor | None, weight: torch.Tensor, eps: float, to_float8: bool = False
) -> torch.Tensor | Quantised:
    """stream += added, in place; then its RMS norm."""
    if added is not None:
        stream += added
    normal = stream * torch.rsqrt(stream.square().mean(-1, keepdim=True) + eps) * weight.float()
    return quantise(normal) if to_float8 else normal.to(weight.dtype)


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

    qkv: (tokens, (heads + 2 * keys) * size). cos, sin: (period, size / 2) float32; token t takes row t % period.
    norms: weight for queries, for keys (size,), and epsilon.
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
    prefix: torch.Tensor | None,
    lengths: torch.Tensor | None,
    rows: int,
    heads: int,
    keys: int,
    queries: int = 0,
) -> torch.Tensor:
    """Causal attention of each row over the cached prefix of its question and over its own tokens.

    qkv: (rows * n, (heads + 2 * keys) * size), rotated. prefix: (2, questions, longest, keys, size), keys then values;
    row r belongs to question r % questions. lengths: (questions,) int32. queries: only the last so many of each row
    are answered (0: all). Returns (rows * queries, heads * size).
    """
    n, size = qkv.shape[0] // rows, qkv.shape[1] // (heads + 2 * keys)
    queries = queries or n
    q, k, v = qkv.view(rows, n, -1, size).split([heads, keys, keys], 2)
    own = torch.ones(n, n, dtype=torch.bool, device=qkv.device).tril()[n - queries :].expand(rows, -1, -1)
    if prefix is not None and lengths is not None:
        questions, longest = prefix.shape[1:3]
        before = prefix[:, torch.arange(rows, device=qkv.device) % questions]
        k, v = (torch.cat((cached, mine), 1) for cached, mine in zip(before, (k, v), strict=True))
        real = torch.arange(longest, device=qkv.device) < lengths[:, None]
        seen = real[torch.arange(rows, device=qkv.device) % questions, None].expand(-1, queries, -1)
        own = torch.cat((seen, own), 2)
    q, k, v = (part.transpose(1, 2) for part in (q[:, n - queries :], k, v))
    out = functional.scaled_dot_product_attention(q, k, v, attn_mask=own[:, None], enable_gqa=True)
    return out.transpose(1, 2).reshape(rows * queries, heads * size)


def silu_mul(gate_up: torch.Tensor, to_float8: bool = False) -> torch.Tensor | Quantised:
    """silu(gate) * up of (tokens, 2 * width), gate first."""
    gate, up = gate_up.chunk(2, -1)
    out = functional.silu(gate.float()) * up
    return quantise(out) if to_float8 else out.to(gate_up.dtype)


def linear_gelu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """gelu(x weight^T + bias) in tanh's approximation."""
    return functional.gelu(functional.linear(x, weight, bias), approximate="tanh")


def yes_no(hidden: torch.Tensor, head: torch.Tensor, yes: int) -> torch.Tensor:
    """logsumexp over the first `yes` rows of the head less that over the others, (rows,) float32."""
    scores = hidden.float() @ head.float().T
    return scores[:, :yes].logsumexp(-1) - scores[:, yes:].logsumexp(-1)
