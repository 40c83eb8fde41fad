"""Linear layers in 8 bits (float8 e4m3), for cards that multiply them: H100 and H200, Ada, Blackwell.

Every row of the input and every row of the weight has a scale of its own, its largest magnitude over e4m3's: no
calibration data, and no picture's answer depends on its neighbours in the batch. `torch.compile` makes the input's
scale and rounding part of the norm or activation before it. Sums are held in 32 bits; the answer is bf16.

On the CPU the same arithmetic runs, slowly: tests compare it with the layer it replaces.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

E4M3 = torch.float8_e4m3fn
LARGEST = torch.finfo(E4M3).max  # 448
LEAST = 1e-12  # a row of zeros still has a scale
ALIGNED = 16  # bytes: what the card asks of both sides of a weight


def supported(device: str | torch.device) -> bool:
    """Whether the device multiplies float8 itself (compute capability 8.9 and up)."""
    device = torch.device(device)
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def quantise(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (..., K) as e4m3, and their scales (..., 1) in float32: rows = quantised * scale, within 1 part in 16."""
    scale = rows.abs().amax(-1, keepdim=True).float().clamp(min=LEAST) / LARGEST
    return (rows.float() / scale).to(E4M3), scale


class Fp8Linear(nn.Module):
    """y = x W^T + b with x and W in e4m3 and y in bf16. Takes (..., in), gives (..., out); both multiples of 16."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        if not fits(linear):
            raise ValueError(f"expected both sides to be multiples of {ALIGNED}, got {tuple(linear.weight.shape)}")
        weight, scale = quantise(linear.weight.detach())
        self.weight = nn.Buffer(weight)  # (out, in)
        self.scale = nn.Buffer(scale.T.contiguous())  # (1, out)
        self.bias = None if linear.bias is None else nn.Buffer(linear.bias.detach().bfloat16())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, scale = quantise(x.reshape(-1, x.shape[-1]))
        y = torch._scaled_mm(
            rows,
            self.weight.T,
            scale_a=scale,
            scale_b=self.scale,
            bias=self.bias,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
        return y.reshape(*x.shape[:-1], -1)


def fits(linear: nn.Linear) -> bool:
    """Whether the card can multiply this layer in 8 bits."""
    return all(side % ALIGNED == 0 for side in linear.weight.shape)


def convert(
    model: nn.Module, chosen: Callable[[str, nn.Linear], bool] = lambda name, linear: True
) -> dict[str, nn.Linear]:
    """Replace the model's linear layers that fit, in place. Gives the replaced ones by full name, for `restore`.

    chosen: of the layers that fit, which. Convert before `torch.compile` and before a graph is recorded.
    """
    found = {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and fits(module) and chosen(name, module)
    }
    for name, linear in found.items():
        _put(model, name, Fp8Linear(linear))
    return found


def restore(model: nn.Module, replaced: Mapping[str, nn.Linear]) -> None:
    """Put back what `convert` replaced."""
    for name, linear in replaced.items():
        _put(model, name, linear)


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, module)
