"""A staged version beside the live one: it answers each picture too, and its answers are noted, not sent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cascade.deadline import Deadline
from cascade.trace import Record
from cascade.verdict import Source, Verdict
from miner.learning.candidate import Candidate
from miner.service import Decide
from models.base import Frame

log = logging.getLogger(__name__)

LONGEST_ASIDE = 0.5  # seconds that a canary's answer may cost


class Shadow:
    """Wraps `decide`: a staged candidate answers each picture too, from the opinions and the embedding that the live
    version has got already.

    note: told (sha256, candidate's name, its probability, the live one, whether the candidate's left); `Journal.shadow`
    fits. canary: share of pictures that get the candidate's answer, chosen by the picture's digest, so that the same
    picture stays on one side. known: the embedding of a picture just looked at.
    """

    def __init__(
        self,
        decide: Decide,
        note: Callable[[str, str, float, float, bool], object],
        canary: float = 0.0,
        known: Callable[[str], NDArray[np.float32] | None] = lambda sha256: None,
    ) -> None:
        self._decide, self._note, self._canary, self._known = decide, note, canary, known
        self._name = ""
        self._candidate: Candidate | None = None
        self._asides: set[asyncio.Task[Verdict]] = set()

    @property
    def name(self) -> str:
        """The candidate's version; empty: none runs."""
        return self._name

    def run(self, name: str, candidate: Candidate | None) -> None:
        """Let this candidate run from now on; None: none."""
        self._name, self._candidate = name, candidate

    async def decide(self, frame: Frame, deadline: Deadline, caller: str) -> Verdict:
        live = await self._decide(frame, deadline, caller)
        candidate = self._candidate
        if candidate is None or live.source is Source.PRIOR or not live.opinions:
            return live
        shown = int(frame.sha256[8:16], 16) < self._canary * 2**32
        aside = asyncio.create_task(self._aside(self._name, candidate, live, frame, shown))
        self._asides.add(aside)  # held, so that it is not collected halfway
        aside.add_done_callback(self._asides.discard)
        if not shown:
            return live
        await asyncio.wait([aside], timeout=min(LONGEST_ASIDE, deadline.remaining()))
        return aside.result() if aside.done() else live

    async def settled(self) -> None:
        """Wait for the candidate's answers that are still being computed."""
        await asyncio.gather(*self._asides)

    async def _aside(self, name: str, candidate: Candidate, live: Verdict, frame: Frame, shown: bool) -> Verdict:
        """The candidate's verdict; the live one when it fails: its fault must not cost the answer."""
        try:
            record = Record.of(live, frame)
            said = await asyncio.to_thread(candidate.answer, record, self._known(frame.sha256))
        except Exception as error:
            log.warning("candidate %s failed: %s: %s", name, type(error).__name__, error)
            return live
        self._note(frame.sha256, name, said.probability, live.probability, shown)
        answer = replace(live, probability=said.probability, interval=said.interval)
        return replace(answer, tiers=(*live.tiers, "canary"))
