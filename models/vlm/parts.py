"""What every static forward is built of: matrix products, norms, and how they come out of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from models.fp8 import E4M3, quantise
from models.vlm.checkpoint import Tensors

Rotary = tuple[torch.Tensor, torch.Tensor]  # cos, sin (period, size / 2), float32
LayerNorm = tuple[torch.Tensor, torch.Tensor]  # weight, bias


@dataclass(frozen=True, slots=True)
class Affine:
    """x W^T + b."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class Matrix:
    """x W^T in 16 (or 32) bits."""

    weight: torch.Tensor

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.weight)


class Float8Matrix:
    """x W^T of an input that is quantised already, per token; the weight per output."""

    def __init__(self, weight: torch.Tensor) -> None:
        values, scale = quantise(weight)
        self.weight, self.scale = values.T, scale.T.contiguous()
        self.dtype = torch.bfloat16 if weight.is_cuda else weight.dtype

    def __call__(self, x: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        values, scale = x
        return torch._scaled_mm(
            values, self.weight, scale_a=scale, scale_b=self.scale, out_dtype=self.dtype, use_fast_accum=True
        )


@dataclass(frozen=True)
class Parts:
    """A model's weights, by name, as what computes with them. ops: `reference_ops` or `fused_ops`.

    float8: whether matrices of the language model are of 8 bits. norm_offset: what its norms' weights are held less.
    """

    tensors: Tensors
    ops: Any
    float8: bool = False
    norm_offset: float = 0.0

    @property
    def to(self) -> torch.dtype:
        """What `matrix` takes."""
        return E4M3 if self.float8 else self.tensors.dtype

    def matrix(self, *names: str) -> Any:
        """One product for the linear layers of these names, their outputs side by side."""
        return self.product([self.tensors.tensor(f"{name}.weight") for name in names])

    def product(self, weights: Sequence[torch.Tensor]) -> Any:
        """The same of weights (out, in)."""
        return (Float8Matrix if self.float8 else Matrix)(torch.cat(list(weights)))

    def affine(self, *names: str, scale: torch.Tensor | None = None) -> Affine:
        """The same with biases, where there are any, always in 16 bits. scale: (out,), multiplied into both."""
        weight = torch.cat([self.tensors.tensor(f"{name}.weight") for name in names])
        biases = [self.tensors.tensor(f"{name}.bias") for name in names if f"{name}.bias" in self.tensors]
        bias = torch.cat(biases) if biases else None
        if scale is None:
            return Affine(weight, bias)
        scaled = (weight.float() * scale[:, None]).to(weight.dtype)
        return Affine(scaled, None if bias is None else (bias.float() * scale).to(bias.dtype))

    def norm(self, name: str) -> torch.Tensor:
        """Weight of a norm of the language model, float32."""
        return self.tensors.tensor(f"{name}.weight", torch.float32) + self.norm_offset

    def layer_norm(self, name: str) -> LayerNorm:
        return self.tensors.tensor(f"{name}.weight"), self.tensors.tensor(f"{name}.bias")

    def quantised(self, x: torch.Tensor) -> Any:
        """x as `matrix` takes it."""
        return self.ops.quantise(x) if self.float8 else x

    def exact(self, x: Any) -> torch.Tensor:
        """What `matrix` takes, as products in 16 bits take it."""
        if not self.float8:
            return torch.as_tensor(x)
        values, scale = x
        return (values.float() * scale).to(self.tensors.dtype)

    def zeros(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype or self.tensors.dtype, device=self.tensors.device)


class Stem:
    """uint8 pictures (N, 3, H, W) -> patches in merged order, normalised and embedded: (N * patches, width).

    mean, std: of each channel, of pixels in 0..1. frames: how often a still is shown to weights that take several.
    """

    def __init__(
        self, proj: Affine, patch: int, merge: int, mean: Sequence[float], std: Sequence[float], frames: int = 1
    ) -> None:
        self.proj, self.patch, self.merge, self.frames = proj, patch, merge, frames
        at = {"device": proj.weight.device, "dtype": torch.float32}
        centre, spread = torch.tensor(mean, **at).view(3, 1, 1), torch.tensor(std, **at).view(3, 1, 1)
        self.scale, self.shift = 1 / (255 * spread), -centre / spread

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        count, _, height, width = pictures.shape
        side = self.patch * self.merge
        values = torch.addcmul(self.shift, pictures, self.scale).to(self.proj.weight.dtype)
        blocks = values.view(count, 3, height // side, self.merge, self.patch, width // side, self.merge, self.patch)
        patches = blocks.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6)
        shown = patches.expand(-1, -1, -1, -1, -1, -1, self.frames, -1, -1)
        return self.proj(shown.reshape(-1, 3 * self.frames * self.patch**2))


def every_patch(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, count: int, heads: int) -> torch.Tensor:
    """Attention in which every patch of a picture looks at every other. (count * patches, heads * size) each."""
    parts = (each.view(count, -1, heads, each.shape[-1] // heads).transpose(1, 2) for each in (q, k, v))
    out = functional.scaled_dot_product_attention(*parts)
    return out.transpose(1, 2).reshape(q.shape)
