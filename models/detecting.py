"""What every detector shares: a picture is looked at once, whoever asks, and who detects in this process is known."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any
from weakref import WeakSet

from models import boxes
from models.base import Frame
from models.boxes import Box, Classes
from models.once import Once
from models.torch_model import Answer, TorchModel

_live: WeakSet[Detecting] = WeakSet()


def detectors(device: str) -> list[Detecting]:
    """The detectors that are loaded on this device, by key."""
    return sorted((each for each in _live if each.device == device), key=lambda each: each.entry.key)


class Detecting(TorchModel):
    """A model that finds boxes. `table`: what its labels say of road work."""

    table: Classes

    def __init__(self, *known: Any) -> None:
        super().__init__(*known)
        self.seen: Once[list[Box]] = Once(self._look)
        self._looking = threading.Lock()

    @abstractmethod
    def detect(self, frames: Sequence[Frame]) -> list[list[Box]]:
        """Boxes per frame, at any score. Under inference mode; frames of one size if `one_size` says so."""

    def load(self, device: str) -> None:
        super().load(device)
        self.join()

    def join(self) -> None:
        """From now on it is one of the detectors of its device."""
        _live.add(self)

    def close(self) -> None:
        _live.discard(self)
        super().close()

    def _look(self, frames: Sequence[Frame]) -> list[list[Box]]:
        with self._looking:
            return self.by_size(self.detect, frames) if self.one_size else self.detect(frames)

    def _answer(self, frames: Sequence[Frame]) -> list[Answer]:
        return [answer(found, self.table) for found in self.seen(frames, fresh=True)]


def answer(found: Sequence[Box], table: Classes) -> Answer:
    """Log-odds from the best box of each label, and the boxes that a person may want to see, best first."""
    shown = sorted((box for box in found if box.score >= boxes.SHOWN), key=lambda box: -box.score)
    return table.logit(boxes.best_scores(found)), {"boxes": [box.as_json() for box in shown[:50]]}
