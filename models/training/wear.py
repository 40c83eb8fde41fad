"""What cameras, senders and validators do to a picture, on the device, each picture by itself: colours, loss, JPEG."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from models.training.compose import Dice

# The tables of JPEG's Annex K at quality 50.
LUMA = (
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 "
    "18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"
)
CHROMA = "17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99 " + "99 " * 32
TO_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def worn(pixels: Tensor, dice: Dice) -> Tensor:
    """(B, 3, H, W) floats 0..255 -> the same, worn, each picture by itself."""
    pixels = _covered(pixels, dice)
    pixels = _recoloured(pixels, dice)
    pixels = _some(pixels, 0.1, dice, lambda x: _down_and_up(x, 1.5))
    pixels = _some(pixels, 0.1, dice, lambda x: _down_and_up(x, 2.0))
    pixels = _some(pixels, 0.1, dice, lambda x: _down_and_up(x, 3.0))
    pixels = _some(pixels, 0.2, dice, lambda x: _blurred(x, dice))
    noise = torch.where(dice.happens(0.3, len(pixels)), dice.uniform(len(pixels), low=2, high=14), 0.0)
    pixels = pixels + noise[:, None, None, None] * dice.normal(*pixels.shape)
    pixels = _some(pixels.clamp(0, 255), 0.85, dice, lambda x: jpeg(x, dice.uniform(len(x), low=45, high=96)))
    return pixels.clamp(0, 255).round()


def _some(pixels: Tensor, share: float, dice: Dice, change) -> Tensor:  # type: ignore[no-untyped-def]
    """`change` applied to a random `share` of the batch: a fixed number, so that no shape depends on chance."""
    count = round(share * len(pixels))
    if not count:
        return pixels
    rows = torch.randperm(len(pixels), generator=dice.generator, device=pixels.device)[:count]
    return pixels.index_copy(0, rows, change(pixels[rows]))


def _covered(pixels: Tensor, dice: Dice) -> Tensor:
    """Bonnets, dashboards, mirrors and black bars, on both labels alike: they say nothing about the road."""
    count, _, height, width = pixels.shape
    y = torch.linspace(0, 1, height, device=pixels.device)[None, :, None]
    x = torch.linspace(-1, 1, width, device=pixels.device)[None, None, :]

    def draw(low: float, high: float) -> Tensor:
        return dice.uniform(count, 1, 1, low=low, high=high)

    bonnet = y > draw(0.82, 0.97) + draw(0.0, 0.12) * (x - draw(-0.3, 0.3)) ** 2
    bonnet = bonnet & dice.happens(0.15, count, 1, 1)
    mirror = ((x - draw(-0.3, 0.3)) / draw(0.15, 0.35)) ** 2 + (y / draw(0.05, 0.12)) ** 2 < 1
    mirror = mirror & dice.happens(0.07, count, 1, 1)
    edge = draw(0.03, 0.12)
    bars = ((y < edge) | (y > 1 - edge)) & dice.happens(0.04, count, 1, 1)
    shine = 1 + draw(-1, 1) * x * 0.3 + draw(-1, 1) * (y - 0.9)
    paint = (dice.uniform(count, 3, 1, 1, low=10, high=90) ** draw(0.7, 1.15)[..., None]) * shine[:, None]
    covered = torch.where((bonnet | mirror)[:, None], paint, pixels)
    return torch.where(bars[:, None], 0.0, covered)


def _recoloured(pixels: Tensor, dice: Dice) -> Tensor:
    """Brightness, contrast, saturation, cast, and a part of the way to another camera's tones, as one affine map."""
    count, device = len(pixels), pixels.device
    small = functional.adaptive_avg_pool2d(pixels, 24).flatten(2)
    mean, spread = small.mean(2), small.std(2) + 5
    strength = torch.where(dice.happens(0.35, count), dice.uniform(count, low=0.1, high=0.7), 0.0)[:, None]
    tone = (110 + 30 * dice.normal(count, 1) + 10 * dice.normal(count, 3)).clamp(30, 200)
    gain = (dice.uniform(count, 1, low=30, high=80) / spread).clamp(0.5, 2.0) ** strength
    shift = mean * (1 - gain) + strength * (tone - mean)
    contrast = dice.uniform(count, 1, low=0.7, high=1.3)
    bright = dice.uniform(count, 1, low=0.65, high=1.35) * torch.exp(0.06 * dice.normal(count, 3))
    saturation = torch.where(dice.happens(0.15, count), dice.uniform(count, low=0.25, high=0.6), 0.0)
    saturation = torch.where(saturation > 0, saturation, dice.uniform(count, low=0.7, high=1.3))[:, None, None]
    middle = mean.mean(1, keepdim=True)
    slope = gain * contrast * bright
    offset = (shift - middle) * contrast * bright + middle * bright
    grey = torch.full((3, 3), 1 / 3, device=device)
    mix = saturation * torch.eye(3, device=device) + (1 - saturation) * grey
    matrix = mix * slope[:, None, :]
    moved = torch.einsum("bij,bjhw->bihw", matrix, pixels) + torch.einsum("bij,bj->bi", mix, offset)[..., None, None]
    return moved.clamp(0, 255)


def _down_and_up(pixels: Tensor, factor: float) -> Tensor:
    size = pixels.shape[-2:]
    small = round(size[0] / factor), round(size[1] / factor)
    low = functional.interpolate(pixels, small, mode="bilinear", align_corners=False)
    return functional.interpolate(low, size, mode="bilinear", align_corners=False)


def _blurred(pixels: Tensor, dice: Dice) -> Tensor:
    """Gaussian, or motion along the rows."""
    count, channels, *_ = pixels.shape
    at = torch.arange(-3.0, 4.0, device=pixels.device)
    kernel = torch.exp(-0.5 * (at / dice.uniform(count, 1, low=0.5, high=1.6)) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)
    sideways = kernel.repeat_interleave(channels, 0)[:, None]
    flat = pixels.flatten(0, 1)[None]
    padded = functional.pad(flat, (3, 3, 3, 3), mode="reflect")
    across = functional.conv2d(padded, sideways[:, :, None, :], groups=len(sideways))
    return functional.conv2d(across, sideways[..., None], groups=len(sideways)).view_as(pixels)


def jpeg(pixels: Tensor, quality: Tensor) -> Tensor:
    """What a JPEG of that quality (B,) gives back, chroma halved: (B, 3, H, W), H and W multiples of 16."""
    device = pixels.device
    matrix = torch.tensor(TO_YCBCR, device=device)
    offset = torch.tensor([128.0, 0.0, 0.0], device=device)[:, None, None]
    ycbcr = torch.einsum("ij,bjhw->bihw", matrix, pixels) - offset
    factor = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)[:, None, None] / 100
    luma = _quantised(ycbcr[:, :1], _table(LUMA, factor))
    chroma = _quantised(functional.avg_pool2d(ycbcr[:, 1:], 2), _table(CHROMA, factor))
    chroma = functional.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    return torch.einsum("ij,bjhw->bihw", matrix.inverse(), torch.cat([luma, chroma], 1) + offset)


def _table(numbers: str, factor: Tensor) -> Tensor:
    """(B, 8, 8) quantisation steps."""
    steps = torch.tensor([float(n) for n in numbers.split()], device=factor.device).view(1, 8, 8)
    return (steps * factor + 0.5).floor().clamp(1, 255)


def _quantised(channels: Tensor, table: Tensor) -> Tensor:
    """Each block of 8 x 8 through the cosine transform, rounded to steps of `table`, and back."""
    n = torch.arange(8.0, device=channels.device)
    basis = torch.cos((2 * n[None] + 1) * n[:, None] * math.pi / 16) / 2
    basis[0] /= math.sqrt(2)
    count, depth, height, width = channels.shape
    blocks = channels.view(count, depth, height // 8, 8, width // 8, 8).transpose(3, 4)
    steps = table[:, None, None, None]
    rounded = (basis @ blocks @ basis.T / steps).round() * steps
    return (basis.T @ rounded @ basis).transpose(3, 4).reshape(count, depth, height, width)
