"""What all that answer questions share: forms of the question averaged, a leaning taken off, the second question.

A subclass says how pictures and chats become log-odds (`answers`); whether that is an engine on the card, a server or
the static scorer makes no difference here.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from models.base import Frame, ModelCrashed, ModelSpec, Opinion
from models.catalog import Entry
from models.vlm.prompts import Chat, prompt_of, question_of

BLANK = Frame.of(np.full((224, 224, 3), 127, np.uint8))
CROPS = 3  # parts of a picture that a second question looks at
CROP_MARGIN = 0.5  # of the box's longer side, on each side: what stands around tells what it is
CROP_LEAST = 112  # pixels; half of the validators' pictures

Boxes = Sequence[Mapping[str, Any]]  # evidence of detectors: at least {"box": [left, top, right, bottom]} each


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said to one question about one picture. logit: natural log-odds of yes."""

    logit: float
    evidence: Mapping[str, Any] = field(default_factory=dict)


class VisualQuestion(ABC):
    """Keeps `models.base.Model`, and can be asked a second question about a part of the picture."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.prompt = prompt_of(entry.key)
        self._leaning: tuple[float, ...] = tuple(0.0 for _ in self.prompt.questions)

    @property
    def spec(self) -> ModelSpec:
        return self.entry.spec

    @abstractmethod
    def load(self, device: str) -> None:
        """Raises BadWeights, ModelUnavailable."""

    @abstractmethod
    def answers(self, frames: Sequence[Frame], chats: Sequence[Chat]) -> Sequence[Sequence[Answer]]:
        """Per frame, per chat: the answer. Raises ModelError."""

    @abstractmethod
    def close(self) -> None:
        """Give everything back. Safe to call twice."""

    def warm_up(self) -> None:
        """One picture through; what is said of a blank one is remembered where the prompt asks for that."""
        (said,) = self.answers([BLANK], self.prompt.chats)
        if self.prompt.subtract_blank:
            self._leaning = tuple(answer.logit for answer in said)

    def assess(self, frames: Sequence[Frame]) -> list[Opinion]:
        """One opinion per frame: the mean over the forms of the question. Raises ModelError."""
        if not frames:
            return []
        started = time.perf_counter()
        said = self.answers(frames, self.prompt.chats)
        spent = (time.perf_counter() - started) * 1e3
        return [self._opinion(each, spent) for each in said]

    def assess_crop(self, frame: Frame, boxes: Boxes) -> Opinion:
        """The second question: the parts of the frame around the best boxes, enlarged by the model's own
        preprocessing. One part that shows road work is enough. Raises ModelError."""
        started = time.perf_counter()
        best = sorted(boxes, key=lambda box: -float(box.get("score", 0.0)))[:CROPS]
        chat = self.prompt.closer_chat([str(box["label"]) for box in best if "label" in box])
        parts = [crop(frame, box["box"]) for box in best] or [frame]
        said = [answer for (answer,) in self.answers(parts, [chat])]
        index = max(range(len(said)), key=lambda part: said[part].logit)
        spent = (time.perf_counter() - started) * 1e3
        evidence = {
            **said[index].evidence,
            "second_question": question_of(chat),
            "size": parts[index].size,
        }
        return Opinion(self.entry.key, self.entry.calibrated(said[index].logit), spent, evidence)

    def _opinion(self, said: Sequence[Answer], spent: float) -> Opinion:
        logits = [answer.logit - leaning for answer, leaning in zip(said, self._leaning, strict=True)]
        evidence: dict[str, Any] = dict(said[0].evidence)
        if len(said) > 1:
            evidence["forms"] = [round(logit, 3) for logit in logits]
        return Opinion(self.entry.key, self.entry.calibrated(sum(logits) / len(logits)), spent, evidence)


def log_odds(yes: Iterable[float], no: Iterable[float]) -> float:
    """logsumexp(yes) - logsumexp(no) of natural logarithms of probabilities. Raises ModelCrashed if a side is empty."""
    sides = []
    for side in (list(yes), list(no)):
        if not side:
            raise ModelCrashed("the answer's probabilities hold no spelling of yes, or none of no")
        top = max(side)
        sides.append(top + math.log(sum(math.exp(value - top) for value in side)))
    return sides[0] - sides[1]


def crop(frame: Frame, box: Sequence[float]) -> Frame:
    """The square around a box (left, top, right, bottom; pixels) with what stands around it, moved to lie inside."""
    left, top, right, bottom = box
    side = max(CROP_LEAST, round(max(right - left, bottom - top) * (1 + 2 * CROP_MARGIN)))
    width, height = frame.size
    x, y = (_start(middle, side, size) for middle, size in (((left + right) / 2, width), ((top + bottom) / 2, height)))
    return Frame.of(frame.pixels[y : y + side, x : x + side])


def _start(middle: float, side: int, size: int) -> int:
    return max(0, min(round(middle - side / 2), size - side))
