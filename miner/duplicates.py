"""The same picture again gets the same answer, at once, as long as the same model version answers.

Exact means the same received bytes. Perceptual (off by default) means the same size and at most a few bits of dHash
apart: it finds a picture that was compressed again. Use 1 bit: on 14,060 challenges made of 3,515 street pictures
(`benchmarks/duplicates.py`) it found 72 % of those compressed again and took no picture for another; 3 bits found 94 %
and were wrong 17 times, once across labels. A probe that differs only where the cones stand would pass. Some repeats
(`recheck`) are put to the cascade all the same, so that an answer that should no longer be repeated is noticed.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from cascade.deadline import Deadline
from cascade.verdict import Source, Stop, Verdict
from miner.journal import JOURNAL_TIER
from miner.journal_views import Known, Views
from miner.perceptual import dhash
from miner.service import Decide
from models.base import Frame

log = logging.getLogger(__name__)

RECENT = 4096  # answers held in memory: those the journal has not written yet, and the most likely ones to come again
LOOK_UP = 0.25  # seconds; a journal that needs longer is not worth waiting for

Find = Callable[[Frame, str], Known | None]


@dataclass(slots=True)
class Repeats:
    """How often pictures came again. changed: rechecks where the cascade took the other side of 0.5 than before."""

    answered: int = 0
    rechecked: int = 0
    changed: int = 0


def finder(views: Views, near_bits: int = 0) -> Find:
    """Looks a picture up in the journal: the same bytes, or with `near_bits` > 0 the nearest within so many bits."""

    def find(frame: Frame, version: str) -> Known | None:
        known = views.find(frame.sha256, version)
        if known is None and near_bits > 0:
            known = views.find_near(dhash(frame.pixels), frame.size, version, near_bits)
        return known

    return find


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
        self.repeats = Repeats()

    async def decide(self, frame: Frame, deadline: Deadline, caller: str) -> Verdict:
        """The answer given before, or the cascade's."""
        before = self._recent.get((frame.sha256, self._version())) or await self._remembered(frame)
        if before is None:
            verdict = await self._decide(frame, deadline, caller)
            self._remember(frame, verdict)
            return verdict
        self.repeats.answered += 1
        if self._chance() < self._recheck:
            await self._check(before, frame, deadline, caller)
        return before

    async def _remembered(self, frame: Frame) -> Verdict | None:
        try:
            async with asyncio.timeout(LOOK_UP):
                known = await asyncio.to_thread(self._find, frame, self._version())
        except Exception as error:  # the journal is a convenience here: any fault of it means "not known"
            log.warning("no look into the journal: %s: %s", type(error).__name__, error)
            return None
        return None if known is None else _verdict(known.probability, known.interval)

    def _remember(self, frame: Frame, verdict: Verdict) -> None:
        if verdict.source is Source.CASCADE and not verdict.degraded:
            repeated = _verdict(verdict.probability, verdict.interval)
            self._recent[frame.sha256, self._version()] = repeated
            if len(self._recent) > RECENT:
                self._recent.popitem(last=False)

    async def _check(self, before: Verdict, frame: Frame, deadline: Deadline, caller: str) -> None:
        self.repeats.rechecked += 1
        try:
            now = await self._decide(frame, deadline, caller)
        except Exception as error:
            log.warning("recheck of %s failed: %s", frame.sha256[:12], error)
            return
        if (now.probability > 0.5) != (before.probability > 0.5):
            self.repeats.changed += 1
            log.warning(
                "%s was answered %.3f before, the same version now says %.3f",
                frame.sha256[:12],
                before.probability,
                now.probability,
            )


def _verdict(probability: float, interval: tuple[float, float]) -> Verdict:
    return Verdict(probability, interval, (), (), (JOURNAL_TIER,), Stop.DECIDED, Source.CASCADE, False, 0.0)
