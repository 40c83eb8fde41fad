"""At most so many requests at work, and the others wait by rank: the stake that validators hold really orders work."""

from __future__ import annotations

import asyncio
import itertools
from bisect import insort
from typing import Any


class Lanes:
    """A semaphore whose waiters are served by priority, and which turns away rather than queue without end.

    in_flight: how many may hold a lane at once. waiting: how many may wait. Used by one event loop.
    """

    def __init__(self, in_flight: int, waiting: int) -> None:
        self._free = self._lanes = in_flight
        self._waiting = waiting
        # Sorted, best first. The count keeps equals in order of arrival, and futures from being compared.
        self._queue: list[tuple[Any, int, asyncio.Future[bool]]] = []
        self._count = itertools.count()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._queue)

    @property
    def taken(self) -> int:
        """How many hold a lane."""
        return self._lanes - self._free

    async def enter(self, priority: tuple[bool, float], patience: float) -> bool:
        """Take a lane; True once it is held, and `leave` must follow.

        False means shed: there is no room to wait (a full queue turns its lowest rank away, which may be an earlier
        request), or `patience` seconds went by.
        """
        if self._free:
            self._free -= 1
            return True
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        entry = ((not priority[0], -priority[1]), next(self._count), turn)
        insort(self._queue, entry)
        if len(self._queue) > self._waiting:
            self._queue.pop()[2].set_result(False)
        try:
            await asyncio.wait([turn], timeout=patience)
        except asyncio.CancelledError:
            self._withdraw(entry)
            raise
        return turn.result() if turn.done() else self._withdraw(entry)

    def leave(self) -> None:
        """Give the lane to the best of those who wait."""
        if self._queue:
            self._queue.pop(0)[2].set_result(True)
        else:
            self._free += 1

    def _withdraw(self, entry: tuple[Any, int, asyncio.Future[bool]]) -> bool:
        if entry in self._queue:
            self._queue.remove(entry)
        elif entry[2].result():  # the lane came in the same moment
            self.leave()
        return False
