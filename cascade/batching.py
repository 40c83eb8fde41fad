"""One worker thread per model: it loads the model, then answers requests of concurrent callers in micro-batches.

Requests that were cancelled or whose time is over are dropped before any work. Inference never runs on the event loop;
results come back to it in one call per batch.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from cascade.profile import Batching
from cascade.queue import Boxes, FairQueue, Job
from models.base import Frame, Model, ModelCrashed, ModelError, ModelUnavailable, NotFinite, Opinion, OutOfMemory

log = logging.getLogger(__name__)

Result = Opinion | Exception


@runtime_checkable
class Examiner(Protocol):
    """A model that can be asked a second, targeted question: is what lies in these boxes road work?"""

    def assess_crop(self, frame: Frame, boxes: Boxes) -> Opinion:
        """One opinion of the boxes of one frame. Raises ModelError."""


class Worker:
    """A thread that owns one model from `load` to `close`. All public methods belong to the event loop's thread.

    on_batch(error): called on the event loop after each batch that somebody still waited for; None when it went well.
    """

    def __init__(
        self,
        key: str,
        model: Model,
        batching: Batching,
        device: str,
        loop: asyncio.AbstractEventLoop,
        on_batch: Callable[[Exception | None], None],
    ) -> None:
        self.batching = batching
        self.loaded: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.busy_since: float | None = None  # time.monotonic() when the present batch was begun
        self._key, self._model, self._device, self._loop, self._on_batch = key, model, device, loop, on_batch
        self._queue = FairQueue()
        self._stopped = False
        self._fits = 1 << 30  # pictures at once; smaller after the device ran out of memory
        self._seconds = 0.0  # what a batch took lately
        self._thread = threading.Thread(target=self._run, name=f"model {key}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def can_examine(self) -> bool:
        """Whether the model can be asked a second question."""
        return isinstance(self._model, Examiner)

    @property
    def _most(self) -> int:
        return min(self.batching.max_size, self._fits)

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def expected(self) -> float:
        """Seconds until a job put in now is answered, as far as recent batches tell; 0 before the first."""
        ahead = -(-len(self._queue) // self._most) + (self.busy_since is not None)
        return (ahead + 1) * self._seconds

    def put(self, job: Job) -> None:
        self._queue.put(job)

    def stop(self, why: str) -> None:
        """No more work: what is queued fails with `why`; the thread ends, and closes the model, when it can."""
        self._stopped = True
        for job in self._queue.close():
            if not job.future.done():
                job.future.set_exception(ModelUnavailable(why))

    def _run(self) -> None:
        if self._load():
            while jobs := self._queue.take(self._most, self.batching.max_wait_ms / 1e3):
                self._serve([job for job in jobs if job.wanted])
        try:
            self._model.close()
        except Exception:
            log.exception("%s: close failed", self._key)
        self._post(_settle, self.ended, None)

    def _load(self) -> bool:
        try:
            self._model.load(self._device)
            self._model.warm_up()
        except Exception as error:
            self._post(_settle, self.loaded, error)
            return False
        self._post(_settle, self.loaded, None)
        return True

    def _serve(self, jobs: list[Job]) -> None:
        if not jobs:
            return
        for job in jobs:
            job.started = True
        self.busy_since = begun = time.monotonic()
        plain = [job for job in jobs if job.boxes is None]
        results = dict(zip(map(id, plain), self._assess([job.frame for job in plain]), strict=True))
        for job in jobs:
            if job.boxes is not None:
                results[id(job)] = self._examine(job.frame, job.boxes)
        self.busy_since, took = None, time.monotonic() - begun
        self._seconds += 0.2 * (took - self._seconds) if self._seconds else took
        self._post(self._deliver, jobs, [results[id(job)] for job in jobs])

    def _assess(self, frames: Sequence[Frame]) -> Sequence[Result]:
        """One result per frame. A batch that does not fit is halved until it does, and later ones are no larger; in one
        that holds a bad number each frame is asked alone, so that one picture cannot spoil the answers of others."""
        try:
            return self._checked(self._model.assess(frames), len(frames)) if frames else []
        except OutOfMemory as error:
            if len(frames) == 1:
                return [error]
            self._fits = half = len(frames) // 2
            log.warning("%s: out of memory at %d pictures, going on with %d", self._key, len(frames), half)
            first = self._assess(frames[:half])
            if all(isinstance(result, OutOfMemory) for result in first):
                return [error] * len(frames)  # not even one fits
            return [*first, *self._assess(frames[half:])]
        except NotFinite as error:
            return [error] if len(frames) == 1 else [self._assess([frame])[0] for frame in frames]
        except Exception as error:
            return [_typed(error)] * len(frames)

    def _examine(self, frame: Frame, boxes: Boxes) -> Result:
        assert isinstance(self._model, Examiner)
        try:
            return self._checked([self._model.assess_crop(frame, boxes)], 1)[0]
        except Exception as error:
            return _typed(error)

    def _checked(self, opinions: Sequence[Opinion], expected: int) -> Sequence[Opinion]:
        """The opinions, in the name the profile gives the model."""
        if len(opinions) != expected:
            raise ModelCrashed(f"{self._key}: expected {expected} opinions, got {len(opinions)}")
        return [o if o.model == self._key else replace(o, model=self._key) for o in opinions]

    def _deliver(self, jobs: Sequence[Job], results: Sequence[Result]) -> None:
        awaited = False
        for job, result in zip(jobs, results, strict=True):
            if job.future.done():
                continue  # too late: nobody waits any more
            awaited = True
            if isinstance(result, Opinion):
                job.future.set_result(result)
            else:
                job.future.set_exception(result)
        if awaited and not self._stopped:
            failed = [result for result in results if not isinstance(result, Opinion)]
            self._on_batch(failed[0] if len(failed) == len(results) else None)

    def _post(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # the loop is closed: the process is ending and nobody waits
            log.debug("%s: the event loop is gone", self._key)


def _typed(error: Exception) -> ModelError:
    """Whatever a model raised, as one of the typed errors."""
    return error if isinstance(error, ModelError) else ModelCrashed(f"{type(error).__name__}: {error}")


def _settle(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(_typed(error))
