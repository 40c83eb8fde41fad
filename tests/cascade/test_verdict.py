"""A verdict cannot hold a number that must not leave."""

from __future__ import annotations

import math

import pytest

from cascade.verdict import Source, Stop, Verdict


@pytest.mark.parametrize("bad", [-1.0, 1.0001, math.nan, math.inf])
@pytest.mark.parametrize("place", ["probability", "low", "high"])
def test_only_finite_numbers_in_0_1(bad: float, place: str) -> None:
    values = {"probability": 0.5, "low": 0.5, "high": 0.5, place: bad}
    with pytest.raises(ValueError, match=rf"{place}: expected a finite number in \[0, 1\]"):
        Verdict(
            values["probability"],
            (values["low"], values["high"]),
            (),
            (),
            (),
            Stop.LAST_TIER,
            Source.PRIOR,
            False,
            0.0,
        )
