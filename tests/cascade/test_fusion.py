"""Laws of the pool, and the formulas it is compared with."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.calibration import MAX_LOGIT, Beta, Platt, VennAbers, logit, sigmoid
from cascade.fusion import Fit, Fusion, Method, Stack, subset_key

KEYS = ("a", "b", "c", "d")
FIT = Fit(
    profile="test",
    date="2026-11-23T12:00:00+00:00",
    data_sha256="0" * 64,
    n=100,
    prevalence=0.25,
    band=(0.2, 0.8),
    members={"a": Beta(a=0.5, b=0.8, c=0.3), "b": Platt(slope=0.7, bias=-0.4)},
    pooled=Stack(weights={"a": 0.5, "b": 0.6, "c": 0.2, "d": 0.0}, bias=0.1),
    subsets={
        "a": Stack(weights={"a": 1.1}, bias=-0.2, calibration=Platt(slope=0.9, bias=0.1)),
        "a+b": Stack(
            weights={"a": 0.4, "b": 0.9},
            interval=VennAbers(x=(-3.0, 0.0, 3.0), low=(-5.0, -1.0, 2.0), high=(-2.0, 1.0, 5.0)),
        ),
    },
    conditions={"size:small": Platt(slope=0.6, bias=0.2), "light:night": Platt(slope=1.2, bias=-1.0)},
    shift=0.2,
)
finite = st.floats(allow_nan=False, allow_infinity=False)
opinions = st.dictionaries(st.sampled_from(KEYS), finite)
weights = st.fixed_dictionaries({key: st.floats(0.0, 5.0) for key in KEYS})
methods = st.sampled_from(["log-odds", "geometric-mean", "vote"])
fits = st.sampled_from([None, FIT])
conditions = st.sampled_from([(), ("size:small",), ("size:large", "light:night"), ("size:small", "light:night")])


@given(opinions, weights, methods, fits, st.floats(0.01, 0.99), conditions)
def test_any_opinions_give_a_finite_probability_inside_its_interval(
    heard: dict[str, float],
    weight: dict[str, float],
    method: Method,
    fit: Fit | None,
    prevalence: float,
    known: tuple[str, ...],
) -> None:
    e = Fusion(weight, method=method, fit=fit, prevalence=prevalence).estimate(heard, known)
    assert 0.0 <= e.low <= e.probability <= e.high <= 1.0
    assert math.isfinite(e.probability)


@given(opinions.filter(bool), weights, methods, fits, conditions)
def test_many_pictures_at_once_are_estimated_as_one_by_one(
    heard: dict[str, float], weight: dict[str, float], method: Method, fit: Fit | None, known: tuple[str, ...]
) -> None:
    fusion = Fusion(weight, method=method, fit=fit)
    pictures = [{key: z * factor for key, z in heard.items()} for factor in (1.0, -1.0, 0.1)]
    if any(fusion.hears(key) for key in heard):
        together = fusion.estimates({key: np.array([one[key] for one in pictures]) for key in heard}, known)
        alone = [fusion.estimate(one, known) for one in pictures]
        assert np.transpose(together) == pytest.approx(np.array([[e.probability, e.low, e.high] for e in alone]))


@given(opinions, weights, methods, fits, st.randoms())
def test_the_order_of_members_changes_nothing(
    heard: dict[str, float], weight: dict[str, float], method: Method, fit: Fit | None, random: object
) -> None:
    items = list(heard.items())
    random.shuffle(items)  # type: ignore[attr-defined]
    fusion = Fusion(weight, method=method, fit=fit)
    assert fusion.estimate(dict(items)) == fusion.estimate(heard)


@given(opinions, weights, methods, fits, st.sampled_from(KEYS), finite)
def test_a_member_of_weight_0_changes_nothing(
    heard: dict[str, float], weight: dict[str, float], method: Method, fit: Fit | None, key: str, value: float
) -> None:
    fusion = Fusion({**weight, key: 0.0}, method=method, fit=fit)
    without = {k: v for k, v in heard.items() if k != key}
    assert fusion.estimate({**heard, key: value}) == fusion.estimate(without)


@given(opinions.filter(bool), weights, methods, fits, st.floats(0.0, 100.0), conditions, st.data())
def test_more_evidence_for_road_work_never_lowers_p(
    heard: dict[str, float],
    weight: dict[str, float],
    method: Method,
    fit: Fit | None,
    more: float,
    known: tuple[str, ...],
    data: st.DataObject,
) -> None:
    fusion = Fusion(weight, method=method, fit=fit)
    key = data.draw(st.sampled_from(sorted(heard)))
    before, after = fusion.estimate(heard, known), fusion.estimate({**heard, key: heard[key] + more}, known)
    assert after.probability >= before.probability - 1e-12
    assert after.low >= before.low - 1e-12
    assert after.high >= before.high - 1e-12


@given(opinions, weights)
def test_yes_and_no_are_treated_alike(heard: dict[str, float], weight: dict[str, float]) -> None:
    fusion = Fusion(weight)
    p, q = fusion.estimate(heard), fusion.estimate({key: -value for key, value in heard.items()})
    assert p.probability == pytest.approx(1.0 - q.probability, abs=1e-9)


def test_independent_evidence_adds_up_and_silence_is_no_evidence() -> None:
    fusion = Fusion({"a": 1.0, "b": 0.5})
    assert fusion.estimate({"a": 1.0, "b": 2.0}).probability == pytest.approx(sigmoid(2.0))
    assert fusion.estimate({"a": 1.0, "b": 0.0}) == fusion.estimate({"a": 1.0})
    assert fusion.estimate({"stranger": 9.0}) == fusion.prior


def test_nobody_heard_gives_the_prior() -> None:
    e = Fusion({"a": 1.0}, prior=0.3).estimate({})
    assert (e.probability, e.low, e.high) == (0.3, 0.0, 1.0)


def test_where_road_work_is_rarer_the_same_evidence_means_less() -> None:
    assert Fusion({"a": 1.0}, prevalence=0.1).estimate({"a": 0.0}).probability == pytest.approx(0.1)


def test_the_geometric_mean_is_the_corrected_formula_and_lets_one_member_veto() -> None:
    p, w = np.array([0.9, 0.6, 0.2]), np.array([1.0, 2.0, 0.5])
    expected = np.prod(p**w) ** (1.0 / w.sum())
    fusion = Fusion(dict(zip("abc", w, strict=True)), method="geometric-mean")
    assert fusion.estimate(dict(zip("abc", map(logit, p), strict=True))).probability == pytest.approx(expected)
    nine_sure = {f"m{i}": 4.0 for i in range(9)} | {"m9": -MAX_LOGIT}
    equal = {f"m{i}": 0.1 for i in range(10)}
    assert Fusion(equal, method="geometric-mean").estimate(nine_sure).probability < 0.5
    assert Fusion(equal).estimate(nine_sure).probability > 0.5


@pytest.mark.parametrize("yes", range(11))
def test_seven_of_ten_vote(yes: int) -> None:
    fusion = Fusion({f"m{i}": 1.0 for i in range(10)}, method="vote", quorum=0.7)
    p = fusion.estimate({f"m{i}": 0.1 if i < yes else -5.0 for i in range(10)}).probability
    assert (p > 0.5) == (yes >= 7)


def test_a_fit_is_used_for_the_set_it_was_made_for_and_pooled_for_others() -> None:
    fusion = Fusion(dict.fromkeys(KEYS, 1.0), fit=FIT, prevalence=0.5)
    to_even = logit(0.5) - logit(0.25) + FIT.shift
    alone = FIT.subsets["a"]
    z = alone.weights["a"] * float(FIT.members["a"].apply(1.5)) + alone.bias
    assert fusion.estimate({"a": 1.5}).probability == pytest.approx(sigmoid(0.9 * z + 0.1 + to_even))
    z = 0.5 * float(FIT.members["a"].apply(1.5)) + 0.2 * -2.0 + 0.1
    assert fusion.estimate({"a": 1.5, "c": -2.0}).probability == pytest.approx(sigmoid(z + to_even))


def test_a_member_that_the_fit_does_not_know_is_not_heard() -> None:
    fusion = Fusion({"a": 1.0, "newcomer": 1.0}, fit=FIT)
    pooled = FIT.pooled.weights["a"] * float(FIT.members["a"].apply(1.5)) + FIT.pooled.bias
    said = fusion.estimate({"a": 1.5, "newcomer": 5.0}).probability
    assert said == pytest.approx(sigmoid(pooled + logit(0.5) - logit(0.25) + FIT.shift))


def test_the_interval_of_a_fit_is_shifted_like_the_probability() -> None:
    fusion = Fusion(dict.fromkeys(KEYS, 1.0), fit=FIT, prevalence=0.25)
    e = fusion.estimate({"a": 0.0, "b": 0.0})
    z = 0.4 * float(FIT.members["a"].apply(0.0)) + 0.9 * -0.4
    low, high = FIT.subsets["a+b"].interval.interval(z)  # type: ignore[union-attr]
    assert (e.low, e.high) == pytest.approx((sigmoid(float(low) + 0.2), sigmoid(float(high) + 0.2)))
    many = fusion.estimates({"a": np.zeros(3), "b": np.zeros(3)})
    assert np.transpose(many) == pytest.approx(np.array([[e.probability, e.low, e.high]] * 3))


def test_a_fit_survives_json() -> None:
    assert Fit.model_validate_json(FIT.model_dump_json()) == FIT


def test_the_key_of_a_set_does_not_depend_on_order() -> None:
    assert subset_key(["b", "a"]) == subset_key(("a", "b")) == "a+b"
