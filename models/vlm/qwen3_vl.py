"""Qwen3-VL as a forward of fixed shapes: pictures on one grid in, the log-odds of yes out.

What differs from the library's forward, and not in its result: the text before the picture is computed once and its
keys and values are kept; tables that depend on the grid are made once; projections that read the same input are one
product; the last layer computes the last token alone; of the head, only the rows of yes and no exist. Operations are
those of `reference_ops`, fused on a card (`fused_ops`).

Positions count from the picture, so that tables do not depend on the question: the text before it stands at negative
ones. Rotary attention sees differences only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch.nn import functional

from models.fp8 import quantise
from models.vlm import grids
from models.vlm.checkpoint import Tensors
from models.vlm.grids import Grid

VISION, LANGUAGE = "model.visual", "model.language_model"
HEAD, EMBEDDING = "lm_head.weight", f"{LANGUAGE}.embed_tokens.weight"
LAYER_NORM_EPS = 1e-6  # fixed in the library's vision tower

Rotary = tuple[torch.Tensor, torch.Tensor]  # cos, sin (period, size / 2), float32


@dataclass(frozen=True, slots=True)
class Affine:
    """x W^T + b."""

    weight: torch.Tensor
    bias: torch.Tensor

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


class Merger:
    """2 x 2 patches -> one token of the language model's width."""

    def __init__(self, name: str, width: int, tensors: Tensors, ops: Any, joined: bool) -> None:
        self.norm = tensors.tensor(f"{name}.norm.weight"), tensors.tensor(f"{name}.norm.bias")
        self.first, self.second = (_affine(tensors, f"{name}.linear_fc{n}") for n in (1, 2))
        self.width, self.joined, self.ops = width, joined, ops

    def __call__(self, stream: torch.Tensor) -> torch.Tensor:
        if self.joined:  # deepstack: the norm is over the joined patches
            stream = stream.view(-1, self.width)
        x = self.ops.add_layer_norm(stream, None, *self.norm, LAYER_NORM_EPS)
        return self.second(functional.gelu(self.first(x.view(-1, self.width))))


@dataclass(frozen=True, slots=True)
class VisionBlock:
    norm1: tuple[torch.Tensor, torch.Tensor]
    norm2: tuple[torch.Tensor, torch.Tensor]
    qkv: Affine
    out: Affine
    fc1: Affine
    fc2: Affine


class Vision:
    """The vision tower. uint8 pictures (N, 3, H, W) of one grid -> tokens (N * grid.tokens, width), and deepstack's."""

    def __init__(self, config: Any, mean: Sequence[float], std: Sequence[float], tensors: Tensors, ops: Any) -> None:
        if config.hidden_act != "gelu_pytorch_tanh":
            raise ValueError(f"expected hidden_act 'gelu_pytorch_tanh', got {config.hidden_act!r}")
        self.merge, self.patch, self.heads, self.ops = (
            config.spatial_merge_size,
            config.patch_size,
            config.num_heads,
            ops,
        )
        self.head = config.hidden_size // config.num_heads
        self.theta = (getattr(config, "rope_parameters", None) or {}).get("rope_theta", 10000.0)
        self.learned = tensors.tensor(f"{VISION}.pos_embed.weight")
        stem = tensors.tensor(f"{VISION}.patch_embed.proj.weight")  # (width, 3, 2, patch, patch)
        self.stem = Affine(stem.flatten(1), tensors.tensor(f"{VISION}.patch_embed.proj.bias"))
        self.frames = stem.shape[2]
        device = stem.device
        self.scale = 1 / (255 * torch.tensor(std, device=device)).view(3, 1, 1)
        self.shift = -torch.tensor(mean, device=device).view(3, 1, 1) / torch.tensor(std, device=device).view(3, 1, 1)
        self.blocks = [self._block(f"{VISION}.blocks.{n}", tensors) for n in range(config.depth)]
        joined = config.hidden_size * self.merge**2
        self.merger = Merger(f"{VISION}.merger", joined, tensors, ops, False)
        self.deep = {
            layer: Merger(f"{VISION}.deepstack_merger_list.{n}", joined, tensors, ops, True)
            for n, layer in enumerate(config.deepstack_visual_indexes)
        }
        self._tables: dict[Grid, tuple[torch.Tensor, Rotary]] = {}

    def _block(self, name: str, tensors: Tensors) -> VisionBlock:
        return VisionBlock(
            norm1=(tensors.tensor(f"{name}.norm1.weight"), tensors.tensor(f"{name}.norm1.bias")),
            norm2=(tensors.tensor(f"{name}.norm2.weight"), tensors.tensor(f"{name}.norm2.bias")),
            qkv=_affine(tensors, f"{name}.attn.qkv"),
            out=_affine(tensors, f"{name}.attn.proj"),
            fc1=_affine(tensors, f"{name}.mlp.linear_fc1"),
            fc2=_affine(tensors, f"{name}.mlp.linear_fc2"),
        )

    def tables(self, grid: Grid) -> tuple[torch.Tensor, Rotary]:
        """Positions (patches, width) and rotary tables of a grid."""
        if grid not in self._tables:
            positions = grids.patch_positions(self.learned, grid, self.merge).to(self.learned.dtype)
            angles = grids.patch_angles(grid, self.merge, self.head, self.theta).to(self.learned.device)
            self._tables[grid] = positions, (angles.cos(), angles.sin())
        return self._tables[grid]

    def __call__(self, pictures: torch.Tensor, grid: Grid) -> tuple[torch.Tensor, list[torch.Tensor]]:
        positions, rotary = self.tables(grid)
        stream = self.stem(self._patches(pictures)).float()
        added = positions.repeat(len(pictures), 1)
        deep = []
        for number, block in enumerate(self.blocks):
            qkv = block.qkv(self.ops.add_layer_norm(stream, added, *block.norm1, LAYER_NORM_EPS))
            self.ops.rotate(qkv, self.heads, self.heads, *rotary)
            x = self.ops.add_layer_norm(
                stream, block.out(self._attention(qkv, len(pictures))), *block.norm2, LAYER_NORM_EPS
            )
            added = block.fc2(self.ops.linear_gelu(x, block.fc1.weight, block.fc1.bias))
            if number in self.deep or number == len(self.blocks) - 1:
                stream, added = stream.add_(added), None
            if number in self.deep:
                deep.append(self.deep[number](stream))
        return self.merger(stream), deep

    def _patches(self, pictures: torch.Tensor) -> torch.Tensor:
        """Normalised pixels of each patch, in merged order: (patches, 3 * frames * patch * patch). A still is its own
        second frame."""
        count, _, height, width = pictures.shape
        side = self.patch * self.merge
        values = torch.addcmul(self.shift, pictures, self.scale).to(self.stem.weight.dtype)
        blocks = values.view(count, 3, height // side, self.merge, self.patch, width // side, self.merge, self.patch)
        twice = blocks.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, self.frames, -1, -1)
        return twice.reshape(-1, 3 * self.frames * self.patch**2)

    def _attention(self, qkv: torch.Tensor, count: int) -> torch.Tensor:
        """Every patch of a picture looks at every other."""
        parts = qkv.view(count, -1, 3, self.heads, self.head).permute(2, 0, 3, 1, 4)
        out = functional.scaled_dot_product_attention(*parts)
        return out.transpose(1, 2).reshape(-1, self.heads * self.head)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of the language model. Matrices take float8 inputs if they are of float8."""

    before: torch.Tensor
    after: torch.Tensor
    query_norm: torch.Tensor
    key_norm: torch.Tensor
    qkv: Any
    out: Any
    gate_up: Any
    down: Any


class Language:
    """The layers of the language model on flat tokens (rows * n, width), each row after a prefix that is kept."""

    def __init__(self, config: Any, tensors: Tensors, ops: Any, float8: bool) -> None:
        if config.hidden_act != "silu" or config.attention_bias:
            raise ValueError(
                f"expected silu and no bias in attention, got {config.hidden_act}, {config.attention_bias}"
            )
        self.heads, self.keys, self.size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.rope, self.eps = dict(config.rope_parameters), config.rms_norm_eps
        self.ops, self.float8 = ops, float8
        self.layers = [self._layer(f"{LANGUAGE}.layers.{n}", tensors) for n in range(config.num_hidden_layers)]
        self.norm = tensors.tensor(f"{LANGUAGE}.norm.weight")

    def _layer(self, name: str, tensors: Tensors) -> Layer:
        kind = Float8Matrix if self.float8 else Matrix

        def matrix(*parts: str) -> Any:
            return kind(torch.cat([tensors.tensor(f"{name}.{part}.weight") for part in parts]))

        return Layer(
            before=tensors.tensor(f"{name}.input_layernorm.weight"),
            after=tensors.tensor(f"{name}.post_attention_layernorm.weight"),
            query_norm=tensors.tensor(f"{name}.self_attn.q_norm.weight"),
            key_norm=tensors.tensor(f"{name}.self_attn.k_norm.weight"),
            qkv=matrix("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            out=matrix("self_attn.o_proj"),
            gate_up=matrix("mlp.gate_proj", "mlp.up_proj"),
            down=matrix("mlp.down_proj"),
        )

    def rotary(self, positions: torch.Tensor) -> Rotary:
        """Tables of positions (3, count)."""
        angles = grids.text_angles(positions, self.rope, self.size).to(self.norm.device)
        return angles.cos(), angles.sin()

    def prefill(self, embedded: torch.Tensor) -> torch.Tensor:
        """Keys and values of a text that ends where the picture begins: (layers, 2, length, keys, size)."""
        kept: list[torch.Tensor] = []
        positions = grids.text_positions(-len(embedded), len(embedded))
        self(embedded.to(torch.float32, copy=True), 1, self.rotary(positions), kept=kept)
        return torch.stack(kept)

    def __call__(
        self,
        stream: torch.Tensor,
        rows: int,
        rotary: Rotary,
        prefix: torch.Tensor | None = None,
        lengths: torch.Tensor | None = None,
        deep: Sequence[torch.Tensor] = (),
        kept: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """The last token's hidden state per row, (rows, width). Overwrites `stream`, which is float32.

        prefix: (layers, 2, questions, longest, keys, size); lengths: (questions,). deep: (pictures, tokens, width),
        added to the first layers' outputs at the picture's tokens. kept: takes each layer's keys and values.
        """
        ops, heads, keys, width = self.ops, self.heads, self.keys, stream.shape[1]
        added: torch.Tensor | None = None
        for number, layer in enumerate(self.layers):
            last = number == len(self.layers) - 1
            qkv = layer.qkv(ops.add_rms_norm(stream, added, layer.before, self.eps, self.float8))
            ops.rotate(qkv, heads, keys, *rotary, (layer.query_norm, layer.key_norm, self.eps))
            if kept is not None:
                kept.append(qkv[:, heads * self.size :].view(-1, 2, keys, self.size).transpose(0, 1).clone())
            cached = None if prefix is None else prefix[number]
            seen = ops.attention(qkv, cached, lengths, rows, heads, keys, queries=1 if last else 0)
            if last:
                stream = stream.view(rows, -1, width)[:, -1].contiguous()
            out = layer.out(ops.quantise(seen) if self.float8 else seen)
            x = ops.add_rms_norm(stream, out, layer.after, self.eps, self.float8)
            added = layer.down(ops.silu_mul(layer.gate_up(x), self.float8))
            if number < len(deep):
                pictures, tokens, _ = deep[number].shape
                per_picture = stream.view(pictures, rows // pictures, -1, width)
                per_picture[:, :, :tokens] += deep[number][:, None]
        return ops.add_rms_norm(stream, added, self.norm, self.eps)


class Qwen3VL:
    """The whole of it. yes, no: token ids of the spellings. suffix: token ids after the picture, the same for all.

    words: every token id that any prefix holds or may hold is looked up when it is asked for, with `prefill`.
    """

    def __init__(
        self,
        config: Any,
        mean: Sequence[float],
        std: Sequence[float],
        tensors: Tensors,
        *,
        suffix: Sequence[int],
        yes: Sequence[int],
        no: Sequence[int],
        float8: bool = False,
        ops: Any = None,
    ) -> None:
        self._tensors = tensors
        head = EMBEDDING if config.tie_word_embeddings or HEAD not in tensors else HEAD
        self.head, self.yes = tensors.rows(head, [*yes, *no]), len(yes)
        self.suffix = tensors.rows(EMBEDDING, suffix)
        on_card = self.head.is_cuda
        ops = ops or import_module("models.vlm.fused_ops" if on_card else "models.vlm.reference_ops")
        self.ops = ops
        self.vision = Vision(config.vision_config, mean, std, tensors, ops)
        self.language = Language(config.text_config, tensors, ops, float8)
        self._rotary: dict[Grid, Rotary] = {}

    def prefill(self, ids: Sequence[int]) -> torch.Tensor:
        """Keys and values of a text before the picture: (layers, 2, length, keys, size)."""
        return self.language.prefill(self._tensors.rows(EMBEDDING, ids))

    def rotary(self, grid: Grid) -> Rotary:
        """Tables of the tokens of a picture and of what follows it."""
        if grid not in self._rotary:
            self._rotary[grid] = self.language.rotary(grids.positions_after(0, grid, len(self.suffix)))
        return self._rotary[grid]

    def log_odds(self, pictures: torch.Tensor, grid: Grid, prefix: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """uint8 (N, 3, H, W) and the prefixes of Q questions -> natural log-odds of yes, (N, Q) float32."""
        count, questions = len(pictures), len(lengths)
        tokens, deep = self.vision(pictures, grid)
        width = tokens.shape[1]
        shown = tokens.view(count, 1, grid.tokens, width).expand(-1, questions, -1, -1)
        asked = self.suffix.expand(count, questions, -1, -1)
        stream = torch.cat((shown, asked), 2).view(-1, width).float()
        deep = [each.view(count, grid.tokens, width) for each in deep]
        hidden = self.language(stream, count * questions, self.rotary(grid), prefix, lengths, deep)
        return self.ops.yes_no(hidden, self.head, self.yes).view(count, questions)


def _affine(tensors: Tensors, name: str) -> Affine:
    return Affine(tensors.tensor(f"{name}.weight"), tensors.tensor(f"{name}.bias"))
