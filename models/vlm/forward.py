"""A VLM as a forward of fixed shapes: pictures on one grid in, the log-odds of yes out.

What differs from the library's forward, and not in its result: the text before the picture is computed once, and what
it leaves behind is kept; tables that depend on the grid are made once; projections that read the same input are one
product; the last layer computes the last token alone; of the head, only the rows of yes and no exist. Operations are
those of `reference_ops`, fused on a card (`fused_ops`).

Positions count from the picture, so that tables do not depend on the question: the text before it stands at negative
ones. Rotary attention sees differences only.

What tells one kind of VLM from another is a `Family`; each has a file of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol

import torch

from models.vlm import grids
from models.vlm.checkpoint import Tensors
from models.vlm.grids import Grid
from models.vlm.language import LANGUAGE, Attention, Language, Left, Memory, Mixer
from models.vlm.parts import Parts, Rotary

HEAD, EMBEDDING = "lm_head.weight", f"{LANGUAGE}.embed_tokens.weight"
FAMILIES = {
    "Qwen3VLForConditionalGeneration": "models.vlm.qwen3_vl",
    "Qwen3_5ForConditionalGeneration": "models.vlm.qwen3_5",
    "InternVLForConditionalGeneration": "models.vlm.internvl",
}


class Tower(Protocol):
    """The vision tower up to the language model's width. token: pixels of a token's side; grids: as `grids.GRIDS`."""

    @property
    def token(self) -> int: ...

    @property
    def grids(self) -> Sequence[Sequence[Grid]]: ...

    def __call__(self, pictures: torch.Tensor, grid: Grid) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
        """uint8 (N, 3, H, W) of one grid -> (N * grid.tokens, width), and such for the first layers' outputs."""


def _attention(number: int, config: Any, parts: Parts) -> Mixer:
    return Attention(f"{LANGUAGE}.layers.{number}", config, parts)


@dataclass(frozen=True)
class Family:
    """What tells one kind of VLM from another.

    tower: from configuration, mean and std of its pixels, and parts. mixer: of layer n, from the language model's
    configuration and parts. positions: of a picture's tokens and so many after it. around: text that stands before and
    after a picture, which the chat template leaves to the library's processor. norm_offset: what norms' weights of the
    language model are held less. aliases: how weights' names began in older files -> how they begin now.
    """

    tower: Callable[[Any, Sequence[float], Sequence[float], Parts], Tower]
    mixer: Callable[[int, Any, Parts], Mixer] = _attention
    positions: Callable[[Grid, int], torch.Tensor] = grids.spread
    around: Callable[[Any], tuple[str, str]] = lambda _: ("", "")
    norm_offset: float = 0.0
    aliases: Mapping[str, str] = field(default_factory=dict)


def family_of(class_name: str) -> Family:
    """The family whose library class has this name. Raises ValueError."""
    if class_name not in FAMILIES:
        raise ValueError(f"expected one of {', '.join(FAMILIES)}, got {class_name!r}: use the vLLM engine instead")
    found: Family = import_module(FAMILIES[class_name]).FAMILY
    return found


class Forward:
    """The whole of it. suffix: token ids after the picture, the same for all. yes, no: token ids of the spellings.

    Prefixes' token ids are looked up when they are asked for, by `prefill`.
    """

    def __init__(
        self,
        family: Family,
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
        self._family, self._tensors = family, tensors
        head = EMBEDDING if config.tie_word_embeddings or HEAD not in tensors else HEAD
        self.head, self.yes = tensors.rows(head, [*yes, *no]), len(yes)
        self.suffix = tensors.rows(EMBEDDING, suffix)
        self.ops = ops or import_module("models.vlm.fused_ops" if self.head.is_cuda else "models.vlm.reference_ops")
        parts = Parts(tensors, self.ops, float8, family.norm_offset)
        self.tower = family.tower(config, mean, std, parts)
        self.language = Language(config.text_config, family.mixer, parts)
        self._rotary: dict[Grid, Rotary] = {}

    def prefill(self, ids: Sequence[int]) -> list[Left]:
        """What a text before the picture leaves behind, for `Memory.write`."""
        return self.language.prefill(self._tensors.rows(EMBEDDING, ids))

    def rotary(self, grid: Grid) -> Rotary:
        """Tables of the tokens of a picture and of what follows it."""
        if grid not in self._rotary:
            self._rotary[grid] = self.language.rotary(self._family.positions(grid, len(self.suffix)))
        return self._rotary[grid]

    def log_odds(self, pictures: torch.Tensor, grid: Grid, memory: Memory) -> torch.Tensor:
        """uint8 (N, 3, H, W) and the texts of Q questions -> natural log-odds of yes, (N, Q) float32."""
        count, questions = len(pictures), memory.questions
        tokens, deep = self.tower(pictures, grid)
        width = tokens.shape[1]
        shown = tokens.view(count, 1, grid.tokens, width).expand(-1, questions, -1, -1)
        asked = self.suffix.expand(count, questions, -1, -1)
        stream = torch.cat((shown, asked), 2).view(-1, width).float()
        deep = [each.view(count, grid.tokens, width) for each in deep]
        hidden = self.language(stream, count * questions, self.rotary(grid), memory, deep)
        return self.ops.yes_no(hidden, self.head, self.yes).view(count, questions)
