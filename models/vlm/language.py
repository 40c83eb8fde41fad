"""The language model's layers after a text that is kept: norm, a mixer of tokens, norm, gated MLP.

How a layer mixes tokens is the family's; `Attention` is the usual way. A mixer also says what a text leaves behind in
it for the tokens that come after: keys and values, or the state of a recurrence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from models.vlm import grids
from models.vlm.parts import Parts, Rotary

LANGUAGE = "model.language_model"

Left = tuple[torch.Tensor, ...]  # what texts leave behind in one layer, one per question: (questions, ...)


@dataclass(frozen=True, slots=True)
class Rows:
    """How flat tokens (count * n, width) are cut into rows of n, each a picture with a question.

    rotary: tables of the n tokens. lengths: (questions,) int32, tokens of the text before; row r belongs to question
    r % questions. last: only the last token of each row is wanted.
    """

    count: int
    rotary: Rotary
    lengths: torch.Tensor
    last: bool = False

    def wanted(self, tokens: torch.Tensor) -> torch.Tensor:
        """Of (count * n, width), what goes on: all, or (count, width)."""
        return tokens.view(self.count, -1, tokens.shape[-1])[:, -1] if self.last else tokens


class Mixer(Protocol):
    """Lets tokens see what stands before them."""

    def room(self, questions: int, longest: int) -> Left:
        """Zeros where the texts of so many questions fit, each of at most so many tokens."""

    def __call__(self, x: Any, rows: Rows, left: Left, keep: list[Left] | None = None) -> torch.Tensor:
        """What is added to the stream. keep: takes what a single row leaves behind, without questions' dimension."""


class Attention:
    """Causal attention with rotary positions and a norm of queries and keys. Leaves keys and values."""

    def __init__(self, name: str, config: Any, parts: Parts) -> None:
        if config.attention_bias:
            raise ValueError("expected no bias in attention")
        self.heads, self.keys, self.size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.parts, self.ops = parts, parts.ops
        self.columns = (self.heads + 2 * self.keys) * self.size
        self.norms = *(parts.norm(f"{name}.self_attn.{part}_norm") for part in "qk"), config.rms_norm_eps
        self.into = self.inputs(name)
        self.out = parts.matrix(f"{name}.self_attn.o_proj")

    def inputs(self, name: str) -> Any:
        """The product that gives queries, keys and values, in this order."""
        return self.parts.matrix(*(f"{name}.self_attn.{part}_proj" for part in "qkv"))

    def room(self, questions: int, longest: int) -> Left:
        return (self.parts.zeros(questions, longest, 2, self.keys, self.size),)

    def __call__(self, x: Any, rows: Rows, left: Left, keep: list[Left] | None = None) -> torch.Tensor:
        return self.out(self.parts.quantised(self.seen(self.into(x), rows, left, keep)))

    def seen(self, qkv: torch.Tensor, rows: Rows, left: Left, keep: list[Left] | None) -> torch.Tensor:
        """What each token saw: (tokens, heads * size). Overwrites `qkv` (tokens, self.columns)."""
        self.ops.rotate(qkv, self.heads, self.keys, *rows.rotary, self.norms)
        if keep is not None:
            keep.append((qkv[:, self.heads * self.size :].reshape(-1, 2, self.keys, self.size).clone(),))
        return self.ops.attention(qkv, left[0], rows.lengths, rows.count, self.heads, self.keys, int(rows.last))


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer. Matrices take float8 inputs if they are of float8."""

    before: torch.Tensor
    mixer: Mixer
    after: torch.Tensor
    gate_up: Any
    down: Any


class Memory:
    """What texts leave behind, one per question, where graphs read it: contents change, places do not."""

    def __init__(self, layers: Sequence[Left], lengths: torch.Tensor) -> None:
        self.layers, self.lengths = layers, lengths

    @property
    def questions(self) -> int:
        return len(self.lengths)

    def write(self, question: int, layers: Sequence[Left], length: int) -> None:
        """One text's, as `Language.prefill` gave it."""
        for places, found in zip(self.layers, layers, strict=True):
            for place, value in zip(places, found, strict=True):
                place[question, : len(value)] = value
        self.lengths[question] = length


class Language:
    """All layers and the last norm."""

    def __init__(self, config: Any, mixer: Callable[[int, Any, Parts], Mixer], parts: Parts) -> None:
        if config.hidden_act != "silu":
            raise ValueError(f"expected hidden_act 'silu', got {config.hidden_act!r}")
        self.rope, self.size, self.eps = dict(config.rope_parameters), config.head_dim, config.rms_norm_eps
        self.parts = parts
        self.layers = [
            self._layer(f"{LANGUAGE}.layers.{n}", mixer(n, config, parts)) for n in range(config.num_hidden_layers)
        ]
        self.norm = parts.norm(f"{LANGUAGE}.norm")

    def _layer(self, name: str, mixer: Mixer) -> Layer:
        return Layer(
            before=self.parts.norm(f"{name}.input_layernorm"),
            mixer=mixer,
            after=self.parts.norm(f"{name}.post_attention_layernorm"),
            gate_up=self.parts.matrix(f"{name}.mlp.gate_proj", f"{name}.mlp.up_proj"),
            down=self.parts.matrix(f"{name}.mlp.down_proj"),
        )

    def rotary(self, positions: torch.Tensor) -> Rotary:
        """Tables of positions (3, count)."""
        angles = grids.text_angles(positions, self.rope, self.size).to(self.norm.device)
        return angles.cos(), angles.sin()

    def room(self, questions: int, longest: int) -> Memory:
        """For so many questions of at most so many tokens."""
        lengths = self.parts.zeros(questions, dtype=torch.int32)
        return Memory([layer.mixer.room(questions, longest) for layer in self.layers], lengths)

    def prefill(self, embedded: torch.Tensor) -> list[Left]:
        """What a text (length, width) that ends where the picture begins leaves behind, layer by layer."""
        kept: list[Left] = []
        positions = grids.text_positions(-len(embedded), len(embedded))
        self(embedded.to(torch.float32, copy=True), 1, self.rotary(positions), self.room(1, 0), keep=kept)
        return kept

    def __call__(
        self,
        stream: torch.Tensor,
        count: int,
        rotary: Rotary,
        memory: Memory,
        deep: Sequence[torch.Tensor] = (),
        keep: list[Left] | None = None,
    ) -> torch.Tensor:
        """The last token's hidden state per row, (count, width). Overwrites `stream`, which is float32.

        deep: (pictures, tokens, width), added to the first layers' outputs at the picture's tokens.
        """
        ops, to, width = self.parts.ops, self.parts.to, stream.shape[1]
        added: torch.Tensor | None = None
        for number, (layer, left) in enumerate(zip(self.layers, memory.layers, strict=True)):
            rows = Rows(count, rotary, memory.lengths, last=number == len(self.layers) - 1)
            mixed = layer.mixer(ops.add_rms_norm(stream, added, layer.before, self.eps, to), rows, left, keep)
            stream = rows.wanted(stream).contiguous()
            x = ops.add_rms_norm(stream, mixed, layer.after, self.eps, to)
            added = layer.down(ops.silu_mul(layer.gate_up(x), to))
            if number < len(deep):
                pictures, tokens, _ = deep[number].shape
                per_picture = stream.view(pictures, count // pictures, -1, width)
                per_picture[:, :, :tokens] += deep[number][:, None]
        return ops.add_rms_norm(stream, added, self.norm, self.eps, self.parts.tensors.dtype)
