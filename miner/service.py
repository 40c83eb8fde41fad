"""From a received picture to the number that leaves: deadline, decoding, cascade, and what to say when they fail.

`Service.answer` never raises and never returns anything but a finite float in [0, 1]: a validator counts a missing or
unreadable answer as wrong, so the prior is always worth more than silence.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cascade.deadline import Deadline
from cascade.verdict import Source, Verdict
from models.base import Frame

log = logging.getLogger(__name__)

SHORTEST, LONGEST = 1.0, 12.0  # seconds: the time-out header is not signed, so it is believed within these only

DECODING = ThreadPoolExecutor(thread_name_prefix="decode")  # of its own: a disk or a driver that hangs takes no answer
Decide = Callable[[Frame, Deadline, str], Awaitable[Verdict]]
Decode = Callable[[str], Frame]


@dataclass(frozen=True, slots=True)
class Answered:
    """One request as it left: what metrics, trace, journal and dashboard are told.

    label: the testnet's ground truth, -1 when unknown. seconds: admission to answer. fault: kind of what went wrong,
    empty when nothing did; `frame` and `verdict` are then None from the step that failed on.
    """

    caller: str
    label: int
    image_base64: str
    probability: float
    source: Source
    seconds: float
    fault: str
    frame: Frame | None
    verdict: Verdict | None


Observer = Callable[[Answered], None]  # quick, called on the event loop; what it raises is logged and goes no further


def clamp_timeout(seconds: float) -> float:
    """The validator's time-out as far as it can be believed. NaN and anything unreadable count as the shortest."""
    return min(max(seconds, SHORTEST), LONGEST) if math.isfinite(seconds) else SHORTEST


@dataclass(frozen=True, slots=True)
class Service:
    """decide: the cascade. prior: the answer now when nothing is known. reserve: seconds kept for the way back."""

    decide: Decide
    decode: Decode
    prior: Callable[[], float]
    reserve: float
    observers: Sequence[Observer] = ()

    async def answer(self, image_base64: str, allowed: float, caller: str, label: int = -1) -> float:
        """The probability of road work in one base64 JPEG, within `allowed` seconds (clamped) less the reserve.

        label: the testnet's ground truth, -1 when unknown; only told to observers, never used.
        """
        started = time.monotonic()
        deadline = Deadline.after(max(clamp_timeout(allowed) - self.reserve, SHORTEST / 2))
        frame, verdict, fault = None, None, ""
        try:
            async with asyncio.timeout(deadline.remaining()):
                frame = await asyncio.get_running_loop().run_in_executor(DECODING, self.decode, image_base64)
            verdict = await self.decide(frame, deadline, caller)
        except Exception as error:
            fault = getattr(error, "kind", type(error).__name__)
            log.warning("%s gets the prior %.3f: %s: %s", caller[:8], self.prior(), fault, error)
        probability, source = (verdict.probability, verdict.source) if verdict else (self.prior(), Source.PRIOR)
        took = time.monotonic() - started
        self._tell(Answered(caller, label, image_base64, probability, source, took, fault, frame, verdict))
        return probability

    def _tell(self, answered: Answered) -> None:
        for observer in self.observers:
            try:
                observer(answered)
            except Exception:
                log.exception("an observer failed; the answer left all the same")
