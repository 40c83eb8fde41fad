"""A circuit breaker: a model that keeps failing is left alone for a while, then tried once before it is asked again.

closed -> (failures in a row, or `trip`) -> open -> (cool-down) -> half-open: one trial -> closed, or open for longer.
Used from one thread (the event loop's).
"""

from __future__ import annotations

import time
from enum import StrEnum

from cascade.deadline import Clock


class State(StrEnum):
    CLOSED = "closed"  # asked as usual
    OPEN = "open"  # not asked
    HALF_OPEN = "half-open"  # one trial is on its way; still not asked by requests


class Breaker:
    """failures: in a row, that open it. cooldown, longest: seconds; the wait doubles with each failed trial."""

    def __init__(
        self, failures: int = 3, cooldown: float = 2.0, longest: float = 30.0, clock: Clock = time.monotonic
    ) -> None:
        self.state = State.CLOSED
        self.reason = ""
        self._allowed, self._cooldown, self._longest, self._clock = failures, cooldown, longest, clock
        self._failures = 0
        self._opened = 0  # times in a row that it opened without a success between
        self._until = 0.0

    @property
    def closed(self) -> bool:
        return self.state is State.CLOSED

    def success(self) -> None:
        """An opinion came in time: whatever was wrong is over."""
        self.state, self.reason, self._failures, self._opened = State.CLOSED, "", 0, 0

    def failure(self, reason: str) -> None:
        """No opinion came. Opens after the allowed number in a row, and at once if this was the trial."""
        self._failures += 1
        if self.state is State.HALF_OPEN or (self.closed and self._failures >= self._allowed):
            self.trip(reason)

    def trip(self, reason: str) -> None:
        """Open now."""
        self._until = self._clock() + min(self._cooldown * 2.0**self._opened, self._longest)
        self._opened = min(self._opened + 1, 32)
        self.state, self.reason, self._failures = State.OPEN, reason, 0

    def try_half_open(self) -> bool:
        """True, once, when the cool-down is over: the caller then makes the one trial."""
        if self.state is not State.OPEN or self._clock() < self._until:
            return False
        self.state = State.HALF_OPEN
        return True
