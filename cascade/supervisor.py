"""Keeps one model answering: breaker, canary as liveness, and replacement of a model that hangs or stays broken.

A model counts as alive only while it answers pictures: engines have been seen to hang while their version page still
answered. When its breaker opens, nobody asks it; after a cool-down one canary picture is tried; if that fails too and
there is a factory, the model is replaced, at most `Policy.restarts` times per `Policy.window`. A thread that hangs
cannot be killed, so it is abandoned, and no more are started while more than `Policy.restarts` are still stuck.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cascade.batching import Worker
from cascade.breaker import Breaker, State
from cascade.deadline import Clock, Deadline
from cascade.profile import Member
from cascade.queue import Boxes, Job
from models.base import Frame, Model, ModelError, ModelTimeout, ModelUnavailable, Opinion

log = logging.getLogger(__name__)

Factory = Callable[[str], Model]  # model key -> a fresh model, not loaded
CANARY = Frame.of(np.full((224, 224, 3), 127, np.uint8))


@dataclass(frozen=True, slots=True)
class Policy:
    """How patient a supervisor is. Seconds, and counts.

    failures: in a row that open the breaker. cooldown, longest: first and longest wait before a trial.
    canary_every: an idle model is tried so often; canary_limit: it must answer within. hang: a batch that takes longer
    than so many times the member's time-out is given up. restarts per window. tick: how often the engine looks.
    closing: how long `close` waits for threads.
    """

    failures: int = 3
    cooldown: float = 2.0
    longest: float = 30.0
    canary_every: float = 15.0
    canary_limit: float = 10.0
    hang: float = 3.0
    restarts: int = 3
    window: float = 600.0
    tick: float = 0.25
    closing: float = 3.0


@dataclass(frozen=True, slots=True)
class ModelState:
    """What telemetry and readiness show of one model."""

    breaker: str
    reason: str
    queued: int
    restarts: int  # within the window
    stuck: int  # abandoned threads that have not come back


class Supervisor:
    """One model, its worker and its breaker. Used from the event loop's thread only."""

    def __init__(
        self,
        member: Member,
        model: Model,
        *,
        device: str = "cpu",
        factory: Factory | None = None,
        policy: Policy | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.key = member.model
        self._member, self._model, self._device, self._factory = member, model, device, factory
        self._policy, self._clock = policy or Policy(), clock
        self.breaker = Breaker(self._policy.failures, self._policy.cooldown, self._policy.longest, clock)
        self._worker: Worker | None = None
        self._stuck: list[Worker] = []
        self._restarts: deque[float] = deque()
        self._last_success = clock()
        self._trial: asyncio.Task[None] | asyncio.Task[bool] | None = None

    async def start(self) -> None:
        """Load the model and warm it up, in its own thread. Raises ModelError; the breaker is then open."""
        try:
            await self._load(self._model)
        except ModelError as error:
            self.breaker.trip(f"not loaded: {error}")
            raise

    @property
    def available(self) -> bool:
        return self._worker is not None and self.breaker.closed

    @property
    def can_examine(self) -> bool:
        """Whether the model can be asked a second question."""
        return self._worker is not None and self._worker.can_examine

    @property
    def expected(self) -> float:
        """Seconds until a new request is answered, as far as recent batches tell; 0 if they do not."""
        return self._worker.expected if self._worker else 0.0

    def adopt(self, member: Member) -> None:
        """Go on under another profile's settings for the same model."""
        self._member = member
        if self._worker:
            self._worker.batching = member.batching

    async def ask(self, frame: Frame, deadline: Deadline, caller: str, boxes: Boxes | None = None) -> Opinion:
        """The model's opinion. Raises ModelError: ModelTimeout if it does not come within the member's time-out or by
        the deadline, whichever is sooner; what comes later is dropped."""
        if not self.available:
            raise ModelUnavailable(self.breaker.reason or "not loaded")
        if self._busy > self._member.timeout_ms / 1e3:
            raise ModelUnavailable(f"busy with one batch since {self._busy:.1f} s")
        return await self._ask(frame, deadline, self._member.timeout_ms / 1e3, caller, boxes)

    async def canary(self) -> bool:
        """Whether the model answers the canary picture within the limit, or within its time-out if that is longer. A
        failure opens the breaker, a success closes it."""
        try:
            await self._send_canary()
        except ModelError as error:
            self._open(f"canary: {error}")
            return False
        return True

    def tick(self) -> None:
        """Look after the model: called by the engine every `Policy.tick` seconds."""
        policy = self._policy
        if (busy := self._busy) > policy.hang * self._member.timeout_ms / 1e3:
            self._give_up(f"hangs since {busy:.1f} s")
        if self._trial is None or self._trial.done():
            idle = not busy and self._clock() - self._last_success > policy.canary_every
            if self.breaker.try_half_open():
                self._trial = asyncio.create_task(self._recover())
            elif self.available and idle:
                self._trial = asyncio.create_task(self.canary())

    async def close(self) -> None:
        """End the thread. Waits a little for it; one that hangs is left behind (it is a daemon)."""
        if self._trial:
            self._trial.cancel()
        if self._worker:
            worker, self._worker = self._worker, None
            worker.stop("closed")
            await asyncio.wait([worker.ended], timeout=self._policy.closing)

    def state(self) -> ModelState:
        return ModelState(
            breaker=self.breaker.state.value,
            reason=self.breaker.reason,
            queued=self._worker.queued if self._worker else 0,
            restarts=len(self._recent_restarts),
            stuck=len(self._still_stuck),
        )

    async def _send_canary(self) -> None:
        limit = max(self._policy.canary_limit, self._member.timeout_ms / 1e3)
        await self._ask(CANARY, Deadline.after(limit), limit, "canary", None)

    async def _ask(self, frame: Frame, deadline: Deadline, limit: float, caller: str, boxes: Boxes | None) -> Opinion:
        if self._worker is None:
            raise ModelUnavailable(self.breaker.reason or "not loaded")
        loop = asyncio.get_running_loop()
        seconds = min(limit, deadline.remaining())
        job = Job(frame, deadline, caller, loop.create_future(), boxes)
        timer = loop.call_later(seconds, self._expire, job, seconds, seconds >= limit)
        self._worker.put(job)
        try:
            return await job.future
        finally:
            timer.cancel()

    def _expire(self, job: Job, seconds: float, own_fault: bool) -> None:
        if job.future.done():
            return
        job.future.set_exception(ModelTimeout(f"no opinion within {seconds * 1e3:.0f} ms"))
        if job.started and own_fault:  # neither a queue nor a caller in a hurry says anything against the model
            self._failed("too slow")

    def _on_batch(self, error: Exception | None) -> None:
        if error is None:
            if not self.breaker.closed:
                log.info("%s: answers again", self.key)
            self._last_success = self._clock()
            self.breaker.success()
        else:
            self._failed(f"{getattr(error, 'kind', 'error')}: {error}")

    def _failed(self, reason: str) -> None:
        was_closed = self.breaker.closed
        self.breaker.failure(reason)
        if was_closed and not self.breaker.closed:
            log.warning("%s: left out: %s", self.key, reason)

    def _open(self, reason: str) -> None:
        if self.breaker.closed:
            log.warning("%s: left out: %s", self.key, reason)
        if self.breaker.state is not State.OPEN:
            self.breaker.trip(reason)

    async def _recover(self) -> None:
        """One trial: the model as it is, else a fresh one. The breaker is half-open and is left open or closed."""
        reason = self.breaker.reason
        if self._worker and await self.canary():
            return
        if not self._may_restart:
            self._open(reason)
            return
        self._give_up(reason)
        self._restarts.append(self._clock())
        log.warning("%s: replaced (%d of %d): %s", self.key, len(self._restarts), self._policy.restarts, reason)
        try:
            assert self._factory is not None  # _may_restart
            await self._load(self._factory(self.key))
            await self._send_canary()
        except Exception as error:
            log.warning("%s: replaced in vain: %s", self.key, error)
            self.breaker.trip(f"replaced in vain: {error}")

    async def _load(self, model: Model) -> None:
        loop = asyncio.get_running_loop()
        worker = Worker(self.key, model, self._member.batching, self._device, loop, self._on_batch)
        worker.start()
        try:
            await worker.loaded
        except BaseException:  # also when cancelled: the thread ends as soon as it can
            worker.stop("not loaded")
            raise
        self._worker, self._last_success = worker, self._clock()

    def _give_up(self, reason: str) -> None:
        """Ask no more. If there may be another model in its place, leave the worker to itself: its thread ends when the
        model lets go of it, which may be never."""
        if self._worker and self._may_restart:
            self._worker.stop(reason)
            self._stuck.append(self._worker)
            self._worker = None
        self._open(reason)

    @property
    def _busy(self) -> float:
        """Seconds that the present batch has taken so far."""
        since = self._worker.busy_since if self._worker else None
        return 0.0 if since is None else time.monotonic() - since

    @property
    def _may_restart(self) -> bool:
        most = self._policy.restarts
        return self._factory is not None and len(self._recent_restarts) < most and len(self._still_stuck) <= most

    @property
    def _recent_restarts(self) -> deque[float]:
        while self._restarts and self._clock() - self._restarts[0] > self._policy.window:
            self._restarts.popleft()
        return self._restarts

    @property
    def _still_stuck(self) -> list[Worker]:
        self._stuck = [worker for worker in self._stuck if worker.alive]
        return self._stuck
