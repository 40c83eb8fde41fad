"""When to ask the next tier, and when to stop. Pure: the same arguments give the same answer."""

from __future__ import annotations

from cascade.fusion import Estimate
from cascade.verdict import Stop


def decided(estimate: Estimate, band: tuple[float, float]) -> bool:
    """Whether the whole interval lies outside the band, on one side of it."""
    low, high = band
    return estimate.high < low or estimate.low > high


def next_step(
    estimate: Estimate | None, band: tuple[float, float], expected_ms: float | None, remaining_ms: float
) -> Stop | None:
    """Why to stop now, or None to ask the next tier.

    estimate: what is known so far, None if nobody had an opinion yet. expected_ms: what the next tier is expected to
    take, None if there is no next tier. remaining_ms: time left for this picture. With nothing known yet the next tier
    is asked even if it hardly fits: an answer that may come beats the prior.
    """
    if estimate is not None and decided(estimate, band):
        return Stop.DECIDED
    if expected_ms is None:
        return Stop.LAST_TIER
    if remaining_ms <= 0.0:
        return Stop.DEADLINE
    if estimate is not None and expected_ms > remaining_ms:
        return Stop.NO_TIME
    return None
