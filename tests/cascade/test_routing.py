"""When to ask the next tier: a table."""

from __future__ import annotations

import pytest

from cascade.fusion import Estimate
from cascade.routing import next_step
from cascade.verdict import Stop

BAND = (0.2, 0.8)
SURE, DOUBTFUL, WIDE = Estimate(0.9, 0.85, 0.95), Estimate(0.5, 0.4, 0.6), Estimate(0.9, 0.7, 0.99)
CLEAR = Estimate(0.1, 0.05, 0.15)


@pytest.mark.parametrize(
    ("estimate", "expected_ms", "remaining_ms", "step"),
    [
        (SURE, 100, 1000, Stop.DECIDED),
        (CLEAR, 100, 1000, Stop.DECIDED),
        (SURE, None, 0, Stop.DECIDED),
        (WIDE, 100, 1000, None),  # the value is outside the band, its interval is not
        (DOUBTFUL, 100, 1000, None),
        (Estimate(0.1, 0.05, 0.2), 100, 1000, None),  # it touches the band
        (Estimate(0.9, 0.8, 0.95), 100, 1000, None),
        (DOUBTFUL, 1001, 1000, Stop.NO_TIME),
        (DOUBTFUL, 1000, 1000, None),
        (DOUBTFUL, 100, 0, Stop.DEADLINE),
        (DOUBTFUL, None, 1000, Stop.LAST_TIER),
        (None, 9999, 10, None),  # nothing is known yet: an answer that may come beats the prior
        (None, 1, 0, Stop.DEADLINE),
        (None, None, 1000, Stop.LAST_TIER),
    ],
)
def test_next_step(
    estimate: Estimate | None, expected_ms: float | None, remaining_ms: float, step: Stop | None
) -> None:
    assert next_step(estimate, BAND, expected_ms, remaining_ms) is step
