"""A model that answers what it is told to, and fails on command. For tests and benchmarks only: no profile names it.

Fake("sure", logit=3.0)
Fake("late", logit=1.0, fault=slow(0.2))
Fake("stuck", fault=hang(released := threading.Event()))
Fake("small", fault=out_of_memory(above=4))
Fake("broken", logit=math.nan)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from models.base import Frame, ModelCrashed, ModelSpec, Opinion, OutOfMemory

Fault = Callable[[Sequence[Frame]], None]  # called with the batch before it is answered; may wait or raise


def slow(seconds: float) -> Fault:
    """Every batch takes `seconds` longer."""
    return lambda frames: time.sleep(seconds)


def hang(released: threading.Event) -> Fault:
    """No batch ends before `released` is set."""

    def fault(frames: Sequence[Frame]) -> None:
        released.wait()

    return fault


def crash(times: int | None = None) -> Fault:
    """The next `times` batches die; all of them if None."""
    left = [times]

    def fault(frames: Sequence[Frame]) -> None:
        if left[0] is None:
            raise ModelCrashed("told to crash")
        if left[0] > 0:
            left[0] -= 1
            raise ModelCrashed("told to crash")

    return fault


def out_of_memory(above: int) -> Fault:
    """Batches of more than `above` frames do not fit."""

    def fault(frames: Sequence[Frame]) -> None:
        if len(frames) > above:
            raise OutOfMemory(f"batch of {len(frames)} does not fit; {above} would")

    return fault


class Fake:
    """Keeps `models.base.Model`. logit: one number for all frames, or a function of the frame.

    fault: what goes wrong with a batch. load_fault: the same for `load`. boxes: given as evidence.
    crop_logit: the answer to a second question about boxes; without one the fake cannot be asked again.
    `batches`, `loads`, `device`, `closed`: what was done with it, for a test to look at.
    """

    def __init__(
        self,
        key: str,
        logit: float | Callable[[Frame], float] = 0.0,
        *,
        fault: Fault | None = None,
        load_fault: Fault | None = None,
        boxes: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self._spec = ModelSpec(key=key, task="fake", library="none", class_name="Fake")
        self._logit = logit
        self._fault, self._load_fault = fault, load_fault
        self._evidence = {"boxes": list(boxes)} if boxes else {}
        self.batches: list[int] = []
        self.loads = 0
        self.device = ""
        self.closed = False

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    def load(self, device: str) -> None:
        self.loads += 1
        self.device = device
        if self._load_fault is not None:
            self._load_fault(())

    def warm_up(self) -> None:
        """Nothing gets faster."""

    def assess(self, frames: Sequence[Frame]) -> list[Opinion]:
        begun = time.perf_counter()
        self.batches.append(len(frames))
        if self._fault is not None:
            self._fault(frames)
        values = [self._logit(frame) if callable(self._logit) else self._logit for frame in frames]
        milliseconds = (time.perf_counter() - begun) * 1e3
        return [Opinion(self._spec.key, value, milliseconds, self._evidence) for value in values]

    def close(self) -> None:
        self.closed = True


class FakeExaminer(Fake):
    """A fake that can be asked again about boxes, and then answers `crop_logit`."""

    def __init__(self, key: str, logit: float, crop_logit: float, *, crop_fault: Fault | None = None) -> None:
        super().__init__(key, logit)
        self._crop_logit, self._crop_fault = crop_logit, crop_fault
        self.boxes_shown: list[Sequence[Mapping[str, Any]]] = []

    def assess_crop(self, frame: Frame, boxes: Sequence[Mapping[str, Any]]) -> Opinion:
        self.boxes_shown.append(boxes)
        if self._crop_fault is not None:
            self._crop_fault([frame])
        return Opinion(self.spec.key, self._crop_logit, 0.0, {"boxes": list(boxes)})
