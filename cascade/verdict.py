"""What the cascade says of one picture, and everything needed to see why."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from models.base import Failure, Opinion


class Source(StrEnum):
    """Where the probability comes from."""

    CASCADE = "cascade"  # the routing ran to its end
    PARTIAL = "partial"  # some opinions came, but time or faults cut the routing short
    PRIOR = "prior"  # no opinion came: the probability is the profile's prior


class Stop(StrEnum):
    """Why no further tier was asked."""

    DECIDED = "decided"  # the interval lies outside the band
    LAST_TIER = "last-tier"  # nobody is left to ask
    NO_TIME = "no-time"  # the next tier's expected time does not fit
    DEADLINE = "deadline"  # time ran out while waiting


@dataclass(frozen=True, slots=True)
class Verdict:
    """One calibrated probability of road work, finite and in [0, 1], with its history.

    interval: (low, high) probabilities around it. tiers: names of the tiers asked, in order.
    degraded: a member that should have answered did not. milliseconds: wall time inside the engine.
    """

    probability: float
    interval: tuple[float, float]
    opinions: tuple[Opinion, ...]
    failures: tuple[Failure, ...]
    tiers: tuple[str, ...]
    stop: Stop
    source: Source
    degraded: bool
    milliseconds: float

    def __post_init__(self) -> None:
        low, high = self.interval
        for name, value in (("probability", self.probability), ("low", low), ("high", high)):
            if not (math.isfinite(value) and 0.0 <= value <= 1.0):
                raise ValueError(f"{name}: expected a finite number in [0, 1], got {value}")
