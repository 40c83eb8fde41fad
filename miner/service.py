"""From a received picture to the number that leaves: deadline, decoding, cascade, and what to say when they fail.

`Service.answer` never raises and never returns anything but a finite float in [0, 1]: a validator counts a missing or
unreadable answer as wrong, so the prior is always worth more than silence.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from cascade.deadline import Deadline
from cascade.verdict import Source, Verdict
from models.base import Frame

log = logging.getLogger(__name__)

SHORTEST, LONGEST = 1.0, 12.0  # seconds: the time-out header is not signed, so it is believed within these only

Decide = Callable[[Frame, Deadline, str], Awaitable[Verdict]]
Decode = Callable[[str], Frame]


class Observer(Protocol):
    """Who wants to know of answers: metrics, the trace, the journal. Must not block or raise."""

    def verdict(self, frame: Frame, verdict: Verdict, caller: str, label: int) -> None: ...

    def answered(self, source: Source, probability: float, seconds: float, fault: str) -> None: ...


def clamp_timeout(seconds: float) -> float:
    """The validator's time-out as far as it can be believed. NaN and anything unreadable count as the shortest."""
    return min(max(seconds, SHORTEST), LONGEST) if math.isfinite(seconds) else SHORTEST


@dataclass(frozen=True, slots=True)
class Service:
    """decide: the cascade. prior: the answer when nothing is known. reserve: seconds kept for the way back."""

    decide: Decide
    decode: Decode
    prior: float
    reserve: float
    observer: Observer

    async def answer(self, image_base64: str, allowed: float, caller: str, label: int = -1) -> float:
        """The probability of road work in one base64 JPEG, within `allowed` seconds (clamped) less the reserve.

        label: the testnet's ground truth, -1 when unknown; only observed, never used.
        """
        started = time.monotonic()
        deadline = Deadline.after(max(clamp_timeout(allowed) - self.reserve, SHORTEST / 2))
        probability, source, fault = self.prior, Source.PRIOR, ""
        try:
            async with asyncio.timeout(deadline.remaining()):
                frame = await asyncio.to_thread(self.decode, image_base64)
            verdict = await self.decide(frame, deadline, caller)
            probability, source = verdict.probability, verdict.source
            self.observer.verdict(frame, verdict, caller, label)
        except Exception as error:
            fault = type(error).__name__
            log.warning("%s answered with the prior %.3f: %s: %s", caller[:8], self.prior, fault, error)
        self.observer.answered(source, probability, time.monotonic() - started, fault)
        return probability
