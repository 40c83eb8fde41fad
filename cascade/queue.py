"""Requests that wait for one model, in turn between callers.

A request waits in a queue per caller; batches are filled by taking one from each caller in turn, so that nobody waits
behind somebody else's burst.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cascade.deadline import Deadline
from models.base import Frame, Opinion

Boxes = Sequence[Mapping[str, Any]]  # evidence of another member: at least {"box": [left, top, right, bottom]} each


@dataclass(slots=True, eq=False)
class Job:
    """One request to one model. `future` belongs to the event loop; `started` is set when work on it begins."""

    frame: Frame
    deadline: Deadline
    caller: str
    future: asyncio.Future[Opinion]
    boxes: Boxes | None = None
    started: bool = False

    @property
    def wanted(self) -> bool:
        return not self.future.done() and not self.deadline.passed


@dataclass(slots=True)
class FairQueue:
    """Jobs of several callers. `take` gives one of each caller in turn. Safe between threads."""

    _jobs: OrderedDict[str, deque[Job]] = field(default_factory=OrderedDict)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _count: int = 0
    _closed: bool = False

    def __len__(self) -> int:
        return self._count

    def put(self, job: Job) -> None:
        with self._changed:
            self._jobs.setdefault(job.caller, deque()).append(job)
            self._count += 1
            self._changed.notify()

    def take(self, most: int, max_wait: float) -> list[Job]:
        """1 to `most` jobs, waiting `max_wait` seconds after the first for more; [] once closed. Blocks."""
        with self._changed:
            self._changed.wait_for(lambda: self._count or self._closed)
            if max_wait > 0.0:
                self._changed.wait_for(lambda: self._count >= most or self._closed, max_wait)
            return [self._pop() for _ in range(min(most, self._count))]

    def close(self) -> list[Job]:
        """Let `take` end; gives back what nobody took."""
        with self._changed:
            self._closed = True
            left = [self._pop() for _ in range(self._count)]
            self._changed.notify_all()
            return left

    def _pop(self) -> Job:
        caller, jobs = self._jobs.popitem(last=False)
        job = jobs.popleft()
        if jobs:
            self._jobs[caller] = jobs  # to the end of the line
        self._count -= 1
        return job
