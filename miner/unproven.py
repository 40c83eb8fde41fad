"""Room for bodies whose senders are not proven yet: bounded together, and the largest gives way.

A `btauth/1` signature covers the body, so whoever knows a validator's public key can send bodies in its name. Were the
newest refused when room runs out, the first to fill it would keep everybody else out. Since the largest is (max-min
fairness), a body of at most the room divided by the connections is never refused for want of it, from however many
addresses a flood comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from miner.gate import Crowded


class Unproven:
    """Who holds how many of `room` bytes; `taken` are. Used by one event loop."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._held: dict[asyncio.Timeout, int] = {}
        self.taken = 0

    @asynccontextmanager
    async def share(self) -> AsyncIterator[Callable[[int], None]]:
        """A place for one body, to be told of each part's size. Raises Crowded, at once, when the body gives way."""
        place = asyncio.timeout(None)
        try:
            async with place:
                self._held[place] = 0
                yield lambda size: self._grow(place, size)
        except TimeoutError:
            raise _crowded() from None
        finally:
            self._leave(place)

    def _grow(self, place: asyncio.Timeout, size: int) -> None:
        if place not in self._held:  # it gave way in this very moment
            raise _crowded()
        self._held[place] += size
        self.taken += size
        while self.taken > self._room:
            largest = max(self._held, key=self._held.__getitem__)
            self._leave(largest)
            if largest is place:
                raise _crowded()
            largest.reschedule(0.0)  # at once

    def _leave(self, place: asyncio.Timeout) -> None:
        self.taken -= self._held.pop(place, 0)


def _crowded() -> Crowded:
    return Crowded("too much is being sent by callers that are not proven yet: ask again, with less")
