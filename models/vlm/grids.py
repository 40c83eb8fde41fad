"""Fixed picture grids of the static scorer, and every table that depends on the grid alone.

A picture of any size is resized to one of a few grids, so that shapes never change. Within a grid, patches lie in the
order that the vision tower merges them in: block by block of `merge` x `merge`. Tables are made once, in float32, and
equal what the library's code computes for each request.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Grid:
    """Rows and columns of a picture, in tokens of the language model."""

    rows: int
    columns: int

    @property
    def tokens(self) -> int:
        return self.rows * self.columns

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}"


# Three sizes (about 64, 144 and 256 tokens), each square, 4:3 and 16:9: what street cameras give.
GRIDS = (
    (Grid(8, 8), Grid(7, 9), Grid(6, 11)),
    (Grid(12, 12), Grid(10, 14), Grid(9, 16)),
    (Grid(16, 16), Grid(14, 18), Grid(12, 21)),
)


def choose(width: int, height: int, token: int, grids: Sequence[Sequence[Grid]] = GRIDS) -> Grid:
    """The grid for a picture: the smallest size that holds its pixels, then the nearest shape.

    width, height: pixels. token: pixels of a token's side.
    """
    holds = (level for level in grids if max(grid.tokens for grid in level) * token**2 >= width * height)
    level = next(holds, grids[-1])
    return min(level, key=lambda grid: abs(math.log(width / height * grid.rows / grid.columns)))


def merged_order(values: torch.Tensor, merge: int) -> torch.Tensor:
    """(rows, columns, ...) patches -> (rows * columns, ...), block by block of merge x merge."""
    rows, columns, *rest = values.shape
    blocks = values.reshape(rows // merge, merge, columns // merge, merge, *rest)
    return blocks.transpose(1, 2).reshape(rows * columns, *rest)


def patch_positions(learned: torch.Tensor, grid: Grid, merge: int) -> torch.Tensor:
    """The learned square of positions, (side * side, width), resampled to the grid's patches: (patches, width)."""
    side = math.isqrt(learned.shape[0])
    square = learned.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    size = (grid.rows * merge, grid.columns * merge)
    sampled = functional.interpolate(square, size, mode="bilinear", align_corners=True)
    return merged_order(sampled[0].permute(1, 2, 0), merge)


def patch_angles(grid: Grid, merge: int, head: int, theta: float) -> torch.Tensor:
    """Rotary angles of patches, (patches, head / 2): the first half by row, the second by column."""
    frequencies = theta ** -(torch.arange(0, head // 2, 2) / (head // 2))
    rows, columns = torch.meshgrid(torch.arange(grid.rows * merge), torch.arange(grid.columns * merge), indexing="ij")
    places = merged_order(torch.stack((rows, columns), -1), merge)
    return (places[..., None] * frequencies).flatten(1)


def text_positions(start: int, count: int) -> torch.Tensor:
    """(3, count): text moves along time, row and column at once."""
    return torch.arange(start, start + count).expand(3, -1)


def picture_positions(start: int, grid: Grid) -> torch.Tensor:
    """(3, tokens): time stands still within a picture, row and column count from `start`."""
    rows, columns = torch.meshgrid(torch.arange(grid.rows), torch.arange(grid.columns), indexing="ij")
    return torch.stack((torch.zeros_like(rows), rows, columns)).flatten(1) + start


def spread(grid: Grid, suffix: int) -> torch.Tensor:
    """(3, grid.tokens + suffix): a picture that begins at 0, spread over rows and columns, and text after it."""
    after = max(grid.rows, grid.columns)
    return torch.cat((picture_positions(0, grid), text_positions(after, suffix)), 1)


def in_line(grid: Grid, suffix: int) -> torch.Tensor:
    """The same for models to which a picture's tokens are one after the other, as text is."""
    return text_positions(0, grid.tokens + suffix)


def text_angles(positions: torch.Tensor, rope: Mapping[str, Any], head: int) -> torch.Tensor:
    """Rotary angles of the language model, (count, head / 2), from positions (3, count).

    Frequencies take turns between time, row and column (interleaved mRoPE) as far as `mrope_section` reaches; without
    one they are all time's. What `partial_rotary_factor` leaves out is turned by nothing: its angles are 0.
    """
    if rope.get("rope_type", "default") != "default":
        raise ValueError(f"expected rope_type 'default', got {rope['rope_type']!r}: use the vLLM engine instead")
    turned = int(head * rope.get("partial_rotary_factor", 1.0))
    frequencies = torch.zeros(head // 2)
    frequencies[: turned // 2] = rope["rope_theta"] ** -(torch.arange(0, turned, 2) / turned)
    axis = torch.zeros(head // 2, dtype=torch.long)
    for dimension in (1, 2):
        axis[dimension : rope.get("mrope_section", (0, 0, 0))[dimension] * 3 : 3] = dimension
    return (positions[axis].T * frequencies).contiguous()  # kernels read it row by row
