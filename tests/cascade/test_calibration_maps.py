"""Every map: finite everywhere, never falling, the same after JSON."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from cascade.calibration import (
    MAX_LOGIT,
    Beta,
    Calibration,
    Identity,
    Isotonic,
    Platt,
    Temperature,
    VennAbers,
    logit,
    logits,
    prior_shift,
    sigmoid,
    sigmoids,
)

MAPS: list[Calibration] = [
    Identity(),
    Temperature(temperature=2.5),
    Platt(slope=0.6, bias=-1.0),
    Platt(slope=0.0, bias=0.3),
    Beta(a=0.7, b=1.6, c=-0.2),
    Isotonic(x=(-2.0, 0.0, 0.5), y=(-3.0, -1.0, 2.0)),
    Isotonic(x=(0.4,), y=(-1.0,)),
]
any_float = st.floats(allow_nan=False)


@pytest.mark.parametrize("calibration", MAPS, ids=lambda c: c.method)
@given(any_float, any_float)
def test_finite_and_never_falling(calibration: Calibration, a: float, b: float) -> None:
    low, high = calibration.apply(np.array([min(a, b), max(a, b)]))
    assert -MAX_LOGIT <= low <= high <= MAX_LOGIT


@pytest.mark.parametrize("calibration", MAPS, ids=lambda c: c.method)
def test_finite_at_0_and_1(calibration: Calibration) -> None:
    for p in (0.0, 1.0):
        assert 0.0 < sigmoid(float(calibration.apply(logit(p)))) < 1.0


@pytest.mark.parametrize("calibration", MAPS, ids=lambda c: c.method)
def test_one_number_and_an_array_give_the_same(calibration: Calibration) -> None:
    z = np.linspace(-6.0, 6.0, 41)
    assert calibration.apply(z) == pytest.approx([float(calibration.apply(float(value))) for value in z])


@pytest.mark.parametrize("calibration", MAPS, ids=lambda c: c.method)
def test_json_and_back(calibration: Calibration) -> None:
    adapter: TypeAdapter[Calibration] = TypeAdapter(Calibration)
    assert adapter.validate_json(adapter.dump_json(calibration)) == calibration


def test_isotonic_has_no_ties_between_and_beyond_its_knots() -> None:
    z = np.linspace(-8.0, 8.0, 400)
    assert (np.diff(MAPS[5].apply(z)) > 0).all()


def test_formulas() -> None:
    z, p = 1.3, sigmoid(1.3)
    assert float(MAPS[1].apply(z)) == pytest.approx(1.3 / 2.5)
    assert float(MAPS[2].apply(z)) == pytest.approx(0.6 * 1.3 - 1.0)
    assert float(MAPS[4].apply(z)) == pytest.approx(0.7 * math.log(p) - 1.6 * math.log(1 - p) - 0.2)
    assert float(MAPS[5].apply(0.25)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "bad",
    [
        {"method": "platt", "slope": -0.1, "bias": 0.0},
        {"method": "platt", "slope": 1.0, "bias": math.nan},
        {"method": "platt", "slope": 1.0, "bias": 0.0, "extra": 1},
        {"method": "temperature", "temperature": 0.0},
        {"method": "isotonic", "x": [0.0, 0.0], "y": [1.0, 2.0]},
        {"method": "isotonic", "x": [0.0, 1.0], "y": [2.0, 2.0]},
        {"method": "isotonic", "x": [0.0, 1.0], "y": [2.0]},
        {"method": "sorcery"},
    ],
)
def test_maps_that_would_break_a_law_are_refused(bad: dict[str, object]) -> None:
    adapter: TypeAdapter[Calibration] = TypeAdapter(Calibration)
    with pytest.raises(ValidationError):
        adapter.validate_python(bad)


def test_venn_abers_interpolates_and_refuses_crossed_bounds() -> None:
    low, high = VennAbers(x=(0.0, 2.0), low=(-1.0, 0.0), high=(1.0, 3.0)).interval(1.0)
    assert (float(low), float(high)) == (-0.5, 2.0)
    with pytest.raises(ValidationError, match="expected low <= high"):
        VennAbers(x=(0.0,), low=(1.0,), high=(0.0,))
    with pytest.raises(ValidationError, match="expected 1 values in low and high, got 2 and 1"):
        VennAbers(x=(0.0,), low=(1.0, 2.0), high=(2.0,))


@given(st.floats(0.0, 1.0))
def test_logit_and_sigmoid_undo_each_other(p: float) -> None:
    assert sigmoid(logit(p)) == pytest.approx(p, abs=1e-8)
    assert sigmoids(logits(np.array([p]))) == pytest.approx([p], abs=1e-8)


def test_prior_shift_moves_the_prevalence() -> None:
    assert sigmoid(logit(0.2) + prior_shift(0.2, 0.5)) == pytest.approx(0.5)
