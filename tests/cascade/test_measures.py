"""MCC of weighted pictures: at many thresholds, and what one way to decide gains over another."""

from __future__ import annotations

import numpy as np
import pytest

from cascade.measures import class_weight, mcc_at, paired_gain
from models.metrics import bootstrap, mcc


def test_mcc_of_one_answer_is_0_and_of_many_thresholds_as_of_each() -> None:
    rng = np.random.default_rng(10)
    y, p, weight = rng.integers(0, 2, 200), rng.random(200), rng.integers(0, 4, 200).astype(float)
    assert mcc(y, p > 2.0, weight=np.ones(200)) == 0.0
    thresholds = np.array([-1.0, 0.2, 0.5, 0.9])
    assert mcc_at(y, p, weight, thresholds) == pytest.approx([mcc(y, p > t, weight=weight) for t in thresholds])


@pytest.mark.parametrize("prevalence", [0.02, 0.5, 0.9])
def test_class_weights_set_the_share_and_leave_the_count(prevalence: float) -> None:
    y = np.array([1, 0, 0, 0])
    weight = class_weight(y, prevalence)
    assert weight[y == 1].sum() == pytest.approx(4 * prevalence)
    assert weight.sum() == pytest.approx(4)


def test_a_paired_gain_is_surer_than_two_intervals() -> None:
    rng = np.random.default_rng(4)
    y = rng.integers(0, 2, 1000)
    p = np.where(rng.random(1000) < 0.8, y, 1 - y) * 0.8 + 0.1
    better = np.where(rng.random(1000) < 0.1, y * 0.8 + 0.1, p)  # p, and one in ten put right
    gain, low, high = paired_gain(y, better, p, np.ones(1000), [str(i % 50) for i in range(1000)])
    assert 0.0 < low < gain < high
    assert paired_gain(y, p, p, np.ones(1000), ["one"] * 1000) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("groups", [[str(i % 50) for i in range(1000)], ["one"] * 1000], ids=["groups", "pictures"])
def test_the_gain_over_one_answer_for_all_is_the_mcc_itself(groups: list[str]) -> None:
    """One answer has MCC 0 in every resample, so the interval of the gain is that of the MCC: 95 %, two-sided."""
    rng = np.random.default_rng(5)
    y, weight = rng.integers(0, 2, 1000), rng.integers(1, 4, 1000).astype(float)
    p = np.clip(y * 0.4 + rng.random(1000) * 0.6, 0.0, 1.0)
    whole = groups if len(set(groups)) > 1 else None
    own = bootstrap(y, p, mcc, n=500, groups=whole, weight=weight)
    expected = (mcc(y, p, weight=weight), own.low, own.high)
    assert paired_gain(y, p, np.zeros(1000), weight, groups) == pytest.approx(expected)
