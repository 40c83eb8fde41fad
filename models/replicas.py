"""One model on several cards behind one key: copies that answer side by side and go on without each other.

A batch is divided among the copies that are free. What a copy cannot answer, because its process died or does not come
back in time, the others answer; only when none can does the caller hear of it.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar, cast

from models.base import Frame, Model, ModelCrashed, ModelError, ModelSpec, ModelTimeout, ModelUnavailable, Opinion

log = logging.getLogger(__name__)

T = TypeVar("T")
PATIENCE = 2.0  # seconds that a copy may take longer than the first that answered
Boxes = Sequence[Mapping[str, Any]]  # evidence of detectors, as the second question shows them


class Copy:
    """One copy, on the device that was chosen for it; asked by one thread at a time."""

    def __init__(self, model: Model, device: str) -> None:
        self.model, self.device = model, device
        self._thread = ThreadPoolExecutor(1, f"copy on {device}")
        self._last: Future[Any] | None = None

    @property
    def free(self) -> bool:
        """Whether it is not at work; a copy that hangs is at work until its process is given up."""
        return self._last is None or self._last.done()

    def start(self, call: Callable[[Model], T]) -> Future[T]:
        """Have the copy do something in its thread."""
        future = self._thread.submit(call, self.model)
        self._last = future
        return future

    def close(self) -> None:
        self._thread.shutdown(wait=False)
        self.model.close()


class Replicas:
    """Keeps `models.base.Model`. copies: (model, device) each, all with the same weights; at least one."""

    def __init__(self, copies: Sequence[tuple[Model, str]], patience: float = PATIENCE) -> None:
        self._copies = [Copy(model, device) for model, device in copies]
        self._patience = patience
        self._turns = itertools.count()

    @property
    def spec(self) -> ModelSpec:
        return self._copies[0].model.spec

    def load(self, device: str) -> None:
        """Load all, each on its own device; `device` is not used. Raises the first's ModelError if none can be had."""
        self._all(lambda copy: copy.start(lambda model: model.load(copy.device)))

    def warm_up(self) -> None:
        """Raises the first's ModelError if none can be warmed up."""
        self._all(lambda copy: copy.start(lambda model: model.warm_up()))

    def assess(self, frames: Sequence[Frame]) -> list[Opinion]:
        """One opinion per frame. Raises ModelError once every copy has failed."""
        found: dict[int, Opinion] = {}
        tried: list[Copy] = []
        error: ModelError = ModelUnavailable(f"{self.spec.key}: every copy is still busy with an earlier batch")
        while len(found) < len(frames):
            copies = [copy for copy in self._in_turn() if copy.free and copy not in tried]
            if not copies:
                raise error
            left = [index for index in range(len(frames)) if index not in found]
            shares = [(copy, left[n :: len(copies)]) for n, copy in enumerate(copies) if left[n :: len(copies)]]
            asked = {_assess(copy, [frames[n] for n in share]): (copy, share) for copy, share in shares}
            self._wait(asked)
            for future, (copy, share) in asked.items():
                try:
                    found.update(zip(share, _result(future, self.spec.key, copy), strict=True))
                except (ModelCrashed, ModelTimeout, ModelUnavailable) as lost:
                    log.warning("%s on %s: %s; the other copies go on", self.spec.key, copy.device, lost)
                    tried.append(copy)
                    error = lost
        return [found[index] for index in range(len(frames))]

    def close(self) -> None:
        """Safe to call twice."""
        for copy in self._copies:
            copy.close()

    def _wait(self, asked: Iterable[Future[Any]]) -> None:
        """Until all are done; once one has answered, the others get `patience` more."""
        waiting, answered = set(asked), False
        while waiting:
            done, waiting = wait(waiting, self._patience if answered else None, "FIRST_COMPLETED")
            answered = answered or any(not future.exception() for future in done)
            if not done:
                return

    def _in_turn(self) -> list[Copy]:
        """The copies, another one first each time: so single pictures go to all of them."""
        first = next(self._turns) % len(self._copies)
        return self._copies[first:] + self._copies[:first]

    def _all(self, start: Callable[[Copy], Future[None]]) -> None:
        started = [(copy, start(copy)) for copy in self._copies]
        errors: list[ModelError] = []
        for copy, future in started:
            try:
                future.result()
            except ModelError as error:
                log.warning("%s on %s: %s", self.spec.key, copy.device, error)
                errors.append(error)
        if len(errors) == len(self._copies):
            raise errors[0]


class ReplicasExaminer(Replicas):
    """The same for a model that can be asked a second question."""

    def assess_crop(self, frame: Frame, boxes: Boxes) -> Opinion:
        """Asked of one copy, and of the next if that one fails. Raises ModelError once every copy has failed."""
        error: ModelError = ModelUnavailable(f"{self.spec.key}: every copy is still busy with an earlier batch")
        for copy in [copy for copy in self._in_turn() if copy.free]:
            try:
                return copy.start(lambda model: cast(Opinion, cast(Any, model).assess_crop(frame, boxes))).result()
            except (ModelCrashed, ModelTimeout, ModelUnavailable) as lost:
                error = lost
        raise error


def _assess(copy: Copy, frames: Sequence[Frame]) -> Future[list[Opinion]]:
    return copy.start(lambda model: model.assess(frames))


def _result(future: Future[list[Opinion]], key: str, copy: Copy) -> list[Opinion]:
    if not future.done():
        raise ModelTimeout(f"{key} on {copy.device}: no answer long after another copy's")
    return future.result()
