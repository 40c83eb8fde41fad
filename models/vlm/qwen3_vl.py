"""Qwen3-VL: a vision tower whose earlier layers also reach the language model's (deepstack), and Qwen3 with positions
in time, row and column. Qwen3.5 has the same tower without deepstack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from models.vlm import grids
from models.vlm.forward import Family
from models.vlm.grids import GRIDS, Grid
from models.vlm.parts import Affine, LayerNorm, Parts, Rotary, Stem, every_patch

VISION = "model.visual"
LAYER_NORM_EPS = 1e-6  # fixed in the library


class Merger:
    """2 x 2 patches -> one token of the language model's width. joined: the norm is over the joined patches."""

    def __init__(self, name: str, width: int, parts: Parts, joined: bool) -> None:
        self.norm = parts.layer_norm(f"{name}.norm")
        self.first, self.second = (parts.affine(f"{name}.linear_fc{n}") for n in (1, 2))
        self.width, self.joined, self.ops = width, joined, parts.ops

    def __call__(self, stream: torch.Tensor) -> torch.Tensor:
        if self.joined:
            stream = stream.view(-1, self.width)
        x = self.ops.add_layer_norm(stream, None, *self.norm, LAYER_NORM_EPS)
        return self.second(functional.gelu(self.first(x.view(-1, self.width))))


@dataclass(frozen=True, slots=True)
class Block:
    """One layer of the tower."""

    norm1: LayerNorm
    norm2: LayerNorm
    qkv: Affine
    out: Affine
    fc1: Affine
    fc2: Affine


class Tower:
    """Keeps `models.vlm.forward.Tower`."""

    grids = GRIDS

    def __init__(self, config: Any, mean: Sequence[float], std: Sequence[float], parts: Parts) -> None:
        vision = config.vision_config
        if vision.hidden_act != "gelu_pytorch_tanh":
            raise ValueError(f"expected hidden_act 'gelu_pytorch_tanh', got {vision.hidden_act!r}")
        self.merge, self.heads, self.ops = vision.spatial_merge_size, vision.num_heads, parts.ops
        self.token = vision.patch_size * self.merge
        self.head = vision.hidden_size // self.heads
        self.theta = (getattr(vision, "rope_parameters", None) or {}).get("rope_theta", 10000.0)
        self.learned = parts.tensors.tensor(f"{VISION}.pos_embed.weight")
        proj = parts.affine(f"{VISION}.patch_embed.proj")  # (width, 3, 2, patch, patch)
        flat = Affine(proj.weight.flatten(1), proj.bias)
        self.stem = Stem(flat, vision.patch_size, self.merge, mean, std, frames=proj.weight.shape[2])
        self.blocks = [_block(f"{VISION}.blocks.{n}", parts) for n in range(vision.depth)]
        joined = vision.hidden_size * self.merge**2
        self.merger = Merger(f"{VISION}.merger", joined, parts, False)
        self.deep = {
            layer: Merger(f"{VISION}.deepstack_merger_list.{n}", joined, parts, True)
            for n, layer in enumerate(getattr(vision, "deepstack_visual_indexes", ()))
        }
        self._tables: dict[Grid, tuple[torch.Tensor, Rotary]] = {}

    def tables(self, grid: Grid) -> tuple[torch.Tensor, Rotary]:
        """Positions (patches, width) and rotary tables of a grid."""
        if grid not in self._tables:
            positions = grids.patch_positions(self.learned, grid, self.merge).to(self.learned.dtype)
            angles = grids.patch_angles(grid, self.merge, self.head, self.theta).to(self.learned.device)
            self._tables[grid] = positions, (angles.cos(), angles.sin())
        return self._tables[grid]

    def __call__(self, pictures: torch.Tensor, grid: Grid) -> tuple[torch.Tensor, list[torch.Tensor]]:
        positions, rotary = self.tables(grid)
        stream = self.stem(pictures).float()
        added, deep = positions.repeat(len(pictures), 1), []
        for number, block in enumerate(self.blocks):
            qkv = block.qkv(self.ops.add_layer_norm(stream, added, *block.norm1, LAYER_NORM_EPS))
            self.ops.rotate(qkv, self.heads, self.heads, *rotary)
            q, k, v = qkv.chunk(3, -1)
            seen = every_patch(q, k, v, len(pictures), self.heads)
            x = self.ops.add_layer_norm(stream, block.out(seen), *block.norm2, LAYER_NORM_EPS)
            added = block.fc2(self.ops.linear_gelu(x, block.fc1.weight, block.fc1.bias))
            if number in self.deep or number == len(self.blocks) - 1:
                stream, added = stream.add_(added), None
            if number in self.deep:
                deep.append(self.deep[number](stream))
        return self.merger(stream), deep


def _block(name: str, parts: Parts) -> Block:
    return Block(
        norm1=parts.layer_norm(f"{name}.norm1"),
        norm2=parts.layer_norm(f"{name}.norm2"),
        qkv=parts.affine(f"{name}.attn.qkv"),
        out=parts.affine(f"{name}.attn.proj"),
        fc1=parts.affine(f"{name}.mlp.linear_fc1"),
        fc2=parts.affine(f"{name}.mlp.linear_fc2"),
    )


FAMILY = Family(tower=Tower)
