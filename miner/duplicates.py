"""The same picture again gets the same answer, at once, as long as the same model version answers.

The same means the same received bytes: of two pictures that only look alike, one may have the cones. Some repeats
(`recheck`) are put to the cascade all the same, so that an answer that should no longer be repeated is noticed.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import Callable

from cascade.deadline import Deadline
from cascade.verdict import Source, Stop, Verdict
from miner.journal import JOURNAL_TIER
from miner.journal_views import Known
from miner.service import Decide
from models.base import Frame

log = logging.getLogger(__name__)

RECENT = 4096  # answers held in memory: those the journal has not written yet, and the most likely ones to come again
LOOK_UP = 0.25  # seconds; a journal that needs longer is not worth waiting for

Find = Callable[[str, str], Known | None]  # (sha256 of the received bytes, version) -> what the journal knows


class Duplicates:
    """Wraps the cascade's `decide`. version: what answers now; a repeat never crosses versions.

    find: called in a thread; what it raises, or does not know in time, the cascade decides.
    """

    def __init__(
        self,
        decide: Decide,
        find: Find,
        version: Callable[[], str],
        recheck: float = 0.02,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._decide, self._find, self._version = decide, find, version
        self._recheck, self._chance = recheck, chance
        self._recent: OrderedDict[tuple[str, str], Verdict] = OrderedDict()

    async def decide(self, frame: Frame, deadline: Deadline, caller: str) -> Verdict:
        """The answer given before, or the cascade's."""
        before = self._recent.get((frame.sha256, self._version())) or await self._remembered(frame)
        if before is None:
            verdict = await self._decide(frame, deadline, caller)
            self._remember(frame, verdict)
            return verdict
        if self._chance() < self._recheck:
            await self._check(before, frame, deadline, caller)
        return before

    async def _remembered(self, frame: Frame) -> Verdict | None:
        try:
            async with asyncio.timeout(LOOK_UP):
                known = await asyncio.to_thread(self._find, frame.sha256, self._version())
        except Exception as error:  # the journal is a convenience here: any fault of it means "not known"
            why = f"not within {LOOK_UP} s" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
            log.warning("no look into the journal: %s", why)
            return None
        return None if known is None else _verdict(known.probability, known.interval)

    def _remember(self, frame: Frame, verdict: Verdict) -> None:
        if verdict.source is Source.CASCADE and not verdict.degraded:
            repeated = _verdict(verdict.probability, verdict.interval)
            self._recent[frame.sha256, self._version()] = repeated
            if len(self._recent) > RECENT:
                self._recent.popitem(last=False)

    async def _check(self, before: Verdict, frame: Frame, deadline: Deadline, caller: str) -> None:
        try:
            now = await self._decide(frame, deadline, caller)
        except Exception as error:
            log.warning("recheck of %s failed: %s", frame.sha256[:12], error)
            return
        if (now.probability > 0.5) != (before.probability > 0.5):
            log.warning(
                "%s was answered %.3f before, the same version now says %.3f",
                frame.sha256[:12],
                before.probability,
                now.probability,
            )


def _verdict(probability: float, interval: tuple[float, float]) -> Verdict:
    return Verdict(probability, interval, (), (), (JOURNAL_TIER,), Stop.DECIDED, Source.CASCADE, False, 0.0)
