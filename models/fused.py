"""DINOv3 made faster without another answer: fewer, larger products and less traffic between them.

Query, key and value are one product, and so are the two halves of the gated MLP; LayerScale is part of the weights
before it; the rotation of a fixed grid is worked out once and covers the tokens that it leaves as they are. The blocks
stay the library's and keep its call; `torch.compile` then makes one kernel of what stands between two products.

After Meta's DINOv3 as written in `transformers.models.dinov3_vit` (Apache-2.0).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

RECOMPILES = 64  # of one block's code: several models share it, each compiled for one picture and for many


def fuse(model: Any, size: int) -> None:
    """Rewrite a `DINOv3ViTModel` in place, for pictures of `size` x `size`. Its weights are moved, not copied twice."""
    layers = model.model.layer
    prefix = 1 + model.config.num_register_tokens
    model.rope_embeddings = Rotation(model.rope_embeddings, size, prefix, model.dtype, model.device)
    for layer in layers:
        layer.attention = Attention(layer.attention, layer.layer_scale1.lambda1)
        layer.mlp = (GatedMlp if model.config.use_gated_mlp else Mlp)(layer.mlp, layer.layer_scale2.lambda1)
        layer.layer_scale1, layer.layer_scale2 = nn.Identity(), nn.Identity()


def compile_blocks(model: nn.Module, **options: Any) -> int:
    """`torch.compile` each of the model's repeated blocks, and say how many: blocks of one kind share the code.

    options: the compiler's own.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer  # the library's mark of a repeated block

    torch._dynamo.config.recompile_limit = max(RECOMPILES, torch._dynamo.config.recompile_limit)
    blocks = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for block in blocks:
        block.forward = torch.compile(block.forward, fullgraph=True, options=options or None)  # type: ignore[method-assign]
    return len(blocks)


class Rotation(nn.Module):
    """Cosine and sine (tokens, head) of one grid of patches; class and register tokens are turned by nothing."""

    def __init__(self, rope: Any, size: int, prefix: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        cos, sin = rope(torch.empty(1, 3, size, size, dtype=dtype, device=device))
        self.cos = nn.Buffer(functional.pad(cos, (0, 0, prefix, 0), value=1.0))
        self.sin = nn.Buffer(functional.pad(sin, (0, 0, prefix, 0)))

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.cos, self.sin


class Attention(nn.Module):
    """The library's attention with one product for query, key and value. scale: LayerScale, (D,)."""

    def __init__(self, attention: Any, scale: torch.Tensor) -> None:
        super().__init__()
        self.heads, self.head = attention.num_heads, attention.head_dim
        self.qkv = joined(attention.q_proj, attention.k_proj, attention.v_proj)
        self.o_proj = scaled(attention.o_proj, scale)

    def forward(
        self, hidden_states: torch.Tensor, position_embeddings: tuple[torch.Tensor, torch.Tensor], **_: Any
    ) -> tuple[torch.Tensor, None]:
        cos, sin = (each[:, None, None] for each in position_embeddings)  # (tokens, 1, 1, head)
        qkv = self.qkv(hidden_states).unflatten(-1, (3, self.heads, self.head))  # (N, tokens, 3, heads, head)
        straight, value = qkv[:, :, :2], qkv[:, :, 2]
        first, second = straight.chunk(2, -1)
        query, key = (straight * cos + torch.cat([-second, first], -1) * sin).unbind(2)
        seen = functional.scaled_dot_product_attention(*(each.transpose(1, 2) for each in (query, key, value)))
        return self.o_proj(seen.transpose(1, 2).flatten(2)), None


class Mlp(nn.Module):
    """The library's MLP with LayerScale in its last product."""

    def __init__(self, mlp: Any, scale: torch.Tensor) -> None:
        super().__init__()
        self.up_proj, self.act, self.down_proj = mlp.up_proj, mlp.act_fn, scaled(mlp.down_proj, scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act(self.up_proj(x)))


class GatedMlp(nn.Module):
    """The library's gated MLP with one product for both halves."""

    def __init__(self, mlp: Any, scale: torch.Tensor) -> None:
        super().__init__()
        self.gate_up, self.act, self.down_proj = (
            joined(mlp.gate_proj, mlp.up_proj),
            mlp.act_fn,
            scaled(mlp.down_proj, scale),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down_proj(self.act(gate) * up)


def joined(*linears: nn.Linear) -> nn.Linear:
    """One layer that gives the outputs of several, side by side. A layer without a bias has one of zeros."""
    weight = torch.cat([each.weight.detach() for each in linears])
    if all(each.bias is None for each in linears):
        return _linear(weight, None)
    return _linear(
        weight,
        torch.cat([weight.new_zeros(len(each.weight)) if each.bias is None else each.bias for each in linears]),
    )


def scaled(linear: nn.Linear, scale: torch.Tensor) -> nn.Linear:
    """The layer with each of its outputs times `scale` (out,), worked out in 32 bits."""
    weight = (linear.weight.float() * scale.float()[:, None]).to(linear.weight.dtype)
    bias = None if linear.bias is None else (linear.bias.float() * scale.float()).to(linear.bias.dtype)
    return _linear(weight, bias)


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = nn.Parameter(weight.detach(), requires_grad=False)
    made.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
    return made
