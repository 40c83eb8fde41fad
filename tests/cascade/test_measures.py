"""Weighted measures against pictures that are really there as often as their weight says."""

from __future__ import annotations

import numpy as np
import pytest

from cascade.measures import MEASURES, class_weight, mcc_at, paired_gain, summary, weighted_mcc
from models import metrics


@pytest.mark.parametrize("name", MEASURES)
def test_a_weight_counts_a_picture_as_often_as_told(name: str) -> None:
    rng = np.random.default_rng(10)
    y, p, weight = rng.integers(0, 2, 200), rng.integers(0, 20, 200) / 20.0, rng.integers(0, 4, 200)
    repeated = np.repeat(np.arange(200), weight)
    expected = metrics.METRICS[name](y[repeated], p[repeated])
    assert MEASURES[name](y, p, weight.astype(float)) == pytest.approx(expected)


def test_mcc_of_one_answer_is_0_and_of_many_thresholds_as_of_each() -> None:
    rng = np.random.default_rng(10)
    y, p, weight = rng.integers(0, 2, 200), rng.random(200), rng.integers(0, 4, 200).astype(float)
    assert weighted_mcc(y, p > 2.0, np.ones(200)) == 0.0
    thresholds = np.array([-1.0, 0.2, 0.5, 0.9])
    assert mcc_at(y, p, weight, thresholds) == pytest.approx([weighted_mcc(y, p > t, weight) for t in thresholds])


def test_class_weights_set_the_share() -> None:
    y = np.array([1, 0, 0, 0])
    weight = class_weight(y, 0.5)
    assert weight[y == 1].sum() == pytest.approx(weight[y == 0].sum())


def test_what_is_calibrated_at_even_odds_is_so_in_a_summary_weighted_to_them() -> None:
    """One picture in five is road work here, one in two where the answers are used."""
    rng = np.random.default_rng(3)
    y = (rng.random(4000) < 0.2).astype(np.int64)
    z = rng.normal(2.0 * y - 1.0, 1.0)  # log-odds 2z at even odds
    p = 1.0 / (1.0 + np.exp(-2.0 * z))
    row = summary(y, p, class_weight(y, 0.5), [str(i % 40) for i in range(4000)])
    assert (row["n"], row["positives"]) == (4000, int(y.sum()))
    assert row["ece"]["value"] < 0.02 < metrics.ece(y, p)
    assert all(row[name]["low"] <= row[name]["value"] <= row[name]["high"] for name in ("mcc", "accuracy", "auc"))


def test_a_paired_gain_is_surer_than_two_intervals() -> None:
    rng = np.random.default_rng(4)
    y = rng.integers(0, 2, 1000)
    p = np.where(rng.random(1000) < 0.8, y, 1 - y) * 0.8 + 0.1
    better = np.where(rng.random(1000) < 0.1, y * 0.8 + 0.1, p)  # p, and one in ten put right
    gain, low, high = paired_gain(y, better, p, np.ones(1000), [str(i % 50) for i in range(1000)])
    assert 0.0 < low < gain < high
    assert paired_gain(y, p, p, np.ones(1000), ["one"] * 1000) == (0.0, 0.0, 0.0)
