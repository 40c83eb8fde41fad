"""Views composed on the device, a whole batch at once: a part of a picture, turned and scaled, with sprites in it.

Sprites stand on the road as real things do: height in the picture = real height * distance of the foot below the
horizon / height of the camera. Every pasted pixel of road work is known, so a view also gives its mask.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from models.training.album import LEVELS, TEXTURE, Album, Sprites

KINDS = ("real", "upper", "pasted", "control")
SLOTS = 12  # things in one picture, at most
PIECES = 3  # of the slots of a control: pieces of another clear frame of the same source
UPPER = 0.45  # share of a frame's height that holds sky and house fronts, not road
LEAST_SEEN = 14.0  # pixels of road work that must be left in a view for it to count as one
FLAT = 0.012  # least height of a pasted thing, as a share of the frame's


@dataclass(frozen=True)
class Order:
    """What to compose. picture, donor: (B,) indices into the album. kind: (B,) indices into KINDS. label: (B,).

    allowed: (B, S) whether a sprite may be used: drawn and rendered ones, and the cut-outs of one supplier.
    """

    picture: Tensor
    donor: Tensor
    kind: Tensor
    label: Tensor
    allowed: Tensor


@dataclass(frozen=True)
class Composed:
    """pixels: (B, 3, H, W) floats 0..255. mask: (B, 1, H, W) how much of a pixel is pasted road work. label: (B,)."""

    pixels: Tensor
    mask: Tensor
    label: Tensor


class Dice:
    """Random numbers of one seeded generator, on the device."""

    def __init__(self, seed: int, device: str) -> None:
        self.device = device
        self.generator = torch.Generator(device).manual_seed(seed)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Evenly in low..high."""
        return torch.rand(shape, generator=self.generator, device=self.device) * (high - low) + low

    def normal(self, *shape: int) -> Tensor:
        """Standard normal."""
        return torch.randn(shape, generator=self.generator, device=self.device)

    def happens(self, chance: float, *shape: int) -> Tensor:
        """Whether, each by itself."""
        return self.uniform(*shape) < chance


def compose(
    album: Album,
    sprites: Sprites,
    order: Order,
    shape: tuple[int, int],
    wire: bool,
    dice: Dice,
    close: float,
) -> Composed:
    """Views of one batch.

    shape: (height, width). wire: boxes as validators cut them (levels 0 to 3), else the picture's own aspect.
    close: share of the pictures with pasted things whose first one stands right before the camera, however tall it is.
    """
    size = album.sizes[order.picture]
    boxes = _boxes(size, order.kind, shape, wire, dice)
    frames = album.pixels[order.picture]
    pixels = _sampled(frames, boxes, shape)
    mask = torch.zeros_like(pixels[:, :1])
    label = order.label.clone()
    (rows,) = torch.nonzero(order.kind >= KINDS.index("pasted"), as_tuple=True)
    if len(rows):
        part = Order(*(getattr(order, name)[rows] for name in Order.__dataclass_fields__))
        things = _things(album, sprites, part, frames[rows], size[rows], dice, close)
        pixels[rows], mask[rows] = _pasted(pixels[rows], things, boxes[rows], shape)
        seen = (mask[rows].sum((1, 2, 3)) >= LEAST_SEEN).to(label.dtype)
        label[rows] = label[rows] * seen
    return Composed(pixels, mask, label)


def _boxes(size: Tensor, kind: Tensor, shape: tuple[int, int], wire: bool, dice: Dice) -> Tensor:
    """(B, 2, 3): from the view (both axes -1..1, and 1) to pixels of the picture."""
    count = len(size)
    height = torch.where(kind == KINDS.index("upper"), size[:, 1] * UPPER, size[:, 1])
    width = size[:, 0]
    aspect = shape[1] / shape[0]
    if wire:
        whole = dice.happens(0.3, count)
        largest = torch.minimum(width, height)
        most = (largest**2 / (width * height)).clamp(max=1.0)
        area = 0.2 + (most - 0.2).clamp(min=0.0) * dice.uniform(count)
        tall = torch.where(whole, largest, torch.minimum((width * height * area).sqrt(), largest))
        wide = tall
        angle = torch.where(whole, 0.0, dice.uniform(count, low=-20.0, high=20.0))
    else:
        whole = dice.happens(0.55, count)
        stretch = torch.exp(dice.uniform(count, low=-0.15, high=0.15))
        ratio = aspect * stretch
        tall = torch.minimum(height, width / ratio)
        shrink = torch.where(whole, 1.0, dice.uniform(count, low=0.3, high=1.0).sqrt())
        tall = tall * shrink
        wide = torch.minimum(tall * ratio, width)
        wide = torch.where(whole & dice.happens(0.5, count), width, wide)  # squeezed a little rather than cut
        angle = torch.where(dice.happens(0.3, count), dice.uniform(count, low=-8.0, high=8.0), 0.0)
    x = torch.where(whole & wire, 0.5, dice.uniform(count)) * (width - wide) + wide / 2
    y = torch.where(whole & wire, 0.5, dice.uniform(count)) * (height - tall) + tall / 2
    turn = angle * math.pi / 180
    flip = torch.where(dice.happens(0.5, count), -1.0, 1.0)
    cos, sin = torch.cos(turn), torch.sin(turn)
    columns = [
        torch.stack([cos * wide / 2 * flip, sin * wide / 2 * flip], 1),
        torch.stack([-sin * tall / 2, cos * tall / 2], 1),
        torch.stack([x, y], 1),
    ]
    return torch.stack(columns, 2)


def _grid(boxes: Tensor, shape: tuple[int, int]) -> Tensor:
    """(B, H, W, 2): where each pixel of a view lies in its picture, in that picture's pixels."""
    return functional.affine_grid(boxes, [len(boxes), 1, *shape], align_corners=False)


def _unit(points: Tensor, frames: Tensor) -> Tensor:
    """Pixels of square frames as `grid_sample` wants them: -1..1 from edge to edge."""
    return points * (2 / frames.shape[-1]) - 1


def _sampled(frames: Tensor, boxes: Tensor, shape: tuple[int, int]) -> Tensor:
    """(B, 3, H, W): sampled at twice the resolution, then averaged: no aliasing down to a quarter of the size."""
    fine = _unit(_grid(boxes, (2 * shape[0], 2 * shape[1])), frames)
    return functional.avg_pool2d(functional.grid_sample(frames.float(), fine, align_corners=False), 2)


@dataclass(frozen=True)
class _Things:
    """What is pasted: textures (B, K, LEVELS, 4, T, T), box (B, K, 4): left, top, width, height in the frame's pixels,
    and (B, K) each: whether it is road work, brightness, saturation, depth of its shadow, levels of extra blur."""

    textures: Tensor
    box: Tensor
    work: Tensor
    tone: Tensor
    saturation: Tensor
    shadow: Tensor
    softer: Tensor


def _things(
    album: Album, sprites: Sprites, order: Order, frames: Tensor, size: Tensor, dice: Dice, close: float
) -> _Things:
    count = len(size)
    width, height = size[:, :1], size[:, 1:]
    positive = order.kind == KINDS.index("pasted")
    chosen, work = _chosen(sprites, order.allowed, positive, dice)
    metres, aspect = sprites.metres[chosen], sprites.aspect[chosen]
    x, foot, valid = _places(positive, dice)
    leading = torch.arange(SLOTS, device=x.device)[None] == 0
    horizon = dice.uniform(count, 1, low=0.40, high=0.56)
    foot = horizon + (1 - horizon) * foot
    camera = dice.uniform(count, 1, low=1.15, high=1.7)
    tall = (metres / camera * (foot - horizon) * dice.uniform(count, SLOTS, low=0.85, high=1.2)).clamp(FLAT, 0.75)
    near = dice.happens(close, count, 1) & leading
    share = torch.exp(dice.uniform(count, 1, low=math.log(0.25), high=math.log(0.95)))
    tall = torch.where(near, share / aspect.clamp(min=1.0), tall)
    foot = torch.where(near, dice.uniform(count, 1, low=0.6, high=1.05), foot)
    raised = torch.where(dice.happens(0.12, count, SLOTS), dice.uniform(count, SLOTS, high=0.15), 0.0)
    tall, foot, x = tall * height, (foot - raised) * height, x * width
    wide = tall * aspect * dice.uniform(count, SLOTS, low=0.9, high=1.1)
    flipped = torch.where(dice.happens(0.5, count, SLOTS), -1.0, 1.0)
    box = torch.stack([x - wide * flipped / 2, foot - tall, wide * flipped, tall], -1)
    box = torch.where(valid[..., None], box, torch.tensor([-1e4, -1e4, 1.0, 1.0], device=box.device))
    textures = sprites.textures[chosen]
    if not positive.all():
        textures[~positive, -PIECES:] = _pieces(album, order, ~positive, dice)
    near_to_far = torch.where(valid, foot, -1e4).argsort(1)  # far first, so that near ones cover far ones
    box = box.gather(1, near_to_far[..., None].expand_as(box))
    work = (work & valid).gather(1, near_to_far)
    textures = textures.gather(1, near_to_far[..., None, None, None, None].expand_as(textures))
    around = functional.adaptive_avg_pool2d(frames.float().mean(1, keepdim=True), 12)
    where = _unit(torch.stack([x, foot - tall], -1).gather(1, near_to_far[..., None].expand(-1, -1, 2)), frames)
    local = functional.grid_sample(around, where[:, None], padding_mode="border", align_corners=False)[:, 0, 0]
    tone = (0.4 + 0.6 * local / 118).clamp(0.2, 1.6) * dice.uniform(count, SLOTS, low=0.7, high=1.2)
    return _Things(
        textures,
        box,
        work,
        tone,
        dice.uniform(count, SLOTS, low=0.55, high=1.1),
        torch.where(dice.happens(0.6, count, 1), dice.uniform(count, 1, low=0.1, high=0.5), 0.0).expand(-1, SLOTS),
        dice.uniform(count, SLOTS, low=0.0, high=1.2),
    )


def _chosen(sprites: Sprites, allowed: Tensor, positive: Tensor, dice: Dice) -> tuple[Tensor, Tensor]:
    """(B, K) sprites, and which of them are road work. Much of a row is one sprite, repeated."""
    chance = sprites.chance * allowed
    count = len(chance)
    of_work = torch.multinomial(chance * sprites.work, SLOTS, True, generator=dice.generator)
    harmless = torch.multinomial(chance * ~sprites.work, SLOTS, True, generator=dice.generator)
    same = dice.happens(0.75, count, SLOTS)
    same[:, 0] = True
    repeated = torch.where(same, of_work[:, :1], of_work)
    beside = torch.zeros(count, SLOTS, dtype=torch.bool, device=chance.device)
    beside[:, -4:] = True  # harmless things stand in the same pictures as road work
    work = positive[:, None] & ~beside
    harmless = torch.where(same & ~positive[:, None], harmless[:, :1], harmless)
    return torch.where(work, repeated, harmless), work


def _places(positive: Tensor, dice: Dice) -> tuple[Tensor, Tensor, Tensor]:
    """x (share of the width), foot (0 horizon .. 1 bottom), whether there is a thing: (B, K) each.

    Half of the pictures have a row along one side of the road, the others single things anywhere.
    """
    count = len(positive)
    row = dice.happens(0.5, count, 1)
    last = SLOTS - 4
    number = 1 + (dice.uniform(count, 1) ** 1.5 * last).floor()
    n = torch.arange(SLOTS, device=positive.device).float()[None]
    far = torch.exp(dice.uniform(count, 1, low=math.log(0.04), high=math.log(0.4)))
    near = (
        far
        + (dice.uniform(count, 1, low=0.2, high=1.0) * (1 - far)) * (n + dice.uniform(count, SLOTS, high=0.4)) / number
    )
    side = torch.where(dice.happens(0.5, count, 1), -1.0, 1.0)
    start, spread = dice.uniform(count, 1, low=-0.05, high=0.12), dice.uniform(count, 1, low=0.1, high=0.55)
    row_x = 0.5 + side * (start + spread * near) * dice.uniform(count, SLOTS, low=0.9, high=1.1)
    alone = torch.exp(dice.uniform(count, SLOTS, low=math.log(0.05), high=math.log(0.8)))
    x = torch.where(row, row_x, dice.uniform(count, SLOTS, low=0.02, high=0.98))
    foot = torch.where(row, near.clamp(0.03, 1.0), alone)
    singles = 1 + (dice.uniform(count, 1) * 3).floor()
    valid = n < torch.where(row, number, singles)
    beside = (n >= last) & dice.happens(0.3, count, SLOTS)
    x = torch.where(n >= last, dice.uniform(count, SLOTS), x)
    foot = torch.where(n >= last, alone, foot)
    return x, foot, torch.where(n >= last, beside, valid)


def _pieces(album: Album, order: Order, rows: Tensor, dice: Dice) -> Tensor:
    """(R, PIECES, LEVELS, 4, T, T): parts of the donors, some tinted, round or square."""
    donors, device = order.donor[rows], order.donor.device
    count = len(donors) * PIECES
    size = album.sizes[donors].repeat_interleave(PIECES, 0)
    half = size[:, 1:] * dice.uniform(count, 1, low=0.04, high=0.25) * dice.uniform(count, 2, low=0.7, high=1.4)
    centre = half + (size - 2 * half) * dice.uniform(count, 2)
    boxes = torch.cat([torch.diag_embed(half), centre[..., None]], 2)
    frames = album.pixels[donors].float()
    where = _grid(boxes, (TEXTURE, TEXTURE)).view(len(donors), PIECES * TEXTURE, TEXTURE, 2)
    colours = functional.grid_sample(frames, _unit(where, frames), align_corners=False)
    colours = colours.view(len(donors), 3, PIECES, TEXTURE, TEXTURE).transpose(1, 2).flatten(0, 1)
    tint = torch.tensor([[235.0, 95.0, 25.0], [240.0, 190.0, 30.0], [205.0, 30.0, 30.0]], device=device)
    tint = tint[(dice.uniform(count) * 3).long()][..., None, None]
    share = torch.where(dice.happens(0.35, count), dice.uniform(count, low=0.4, high=0.9), 0.0)[:, None, None, None]
    line = torch.linspace(-1, 1, TEXTURE, device=device)
    disc = (line[:, None] ** 2 + line[None] ** 2 < 1).float()
    alpha = torch.where(dice.happens(0.5, count)[:, None, None], disc, 1.0)[:, None]
    whole = torch.cat([(colours * (1 - share) + tint * share) * alpha, alpha * 255], 1).to(torch.uint8)
    return whole.view(len(donors), PIECES, 1, 4, TEXTURE, TEXTURE).expand(-1, -1, LEVELS, -1, -1, -1)


def _pasted(pixels: Tensor, things: _Things, boxes: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The views with every thing laid over them, far to near; and the mask of road work."""
    where = _grid(boxes, shape)  # (B, H, W, 2)
    scale = (boxes[:, :, :2].norm(dim=1) * 2 / torch.tensor([shape[1], shape[0]], device=boxes.device)).mean(1)
    mask = torch.zeros_like(pixels[:, :1])
    rows = torch.arange(len(pixels), device=pixels.device)
    for k in range(SLOTS):
        left, top, wide, tall = things.box[:, k, :, None, None].unbind(1)
        tone, saturation = things.tone[:, k, None, None, None], things.saturation[:, k, None, None, None]
        inside = torch.stack([(where[..., 0] - left) / wide, (where[..., 1] - top) / tall], -1)
        reduction = TEXTURE * scale / things.box[:, k, 3]
        level = (reduction.clamp(min=1).log2() + things.softer[:, k]).round().clamp(0, LEVELS - 1).long()
        texture = things.textures[rows, k, level].float()
        colour, alpha = functional.grid_sample(texture, inside * 2 - 1, align_corners=False).split((3, 1), 1)
        alpha = alpha / 255
        grey = colour.mean(1, keepdim=True)
        colour = torch.minimum((grey + (colour - grey) * saturation) * tone, alpha * 255)
        shade = torch.exp(-(((inside[..., 0] - 0.6) / 0.7) ** 2) - ((inside[..., 1] - 1.0) / 0.07) ** 2)[:, None]
        pixels = pixels * (1 - things.shadow[:, k, None, None, None] * shade)
        pixels = pixels * (1 - alpha) + colour
        mask = torch.maximum(mask * (1 - alpha), alpha * things.work[:, k, None, None, None])
    return pixels, mask
