"""The measures agree with scikit-learn where it has them, and with their definition where it has not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import binomtest
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from models import metrics

labels_and_probabilities = st.integers(1, 60).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.int64, n, elements=st.integers(0, 1)),
        # few distinct values, so that ties and the threshold itself occur
        hnp.arrays(np.float64, n, elements=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.51, 0.75, 0.9999, 1.0])),
    )
)


@given(labels_and_probabilities)
def test_agrees_with_scikit_learn_on_any_labels_and_probabilities(case):
    y, p = case
    if len({*y, *np.round(p)}) == 2:  # scikit-learn warns about a single value
        assert metrics.mcc(y, p) == pytest.approx(float(sk.matthews_corrcoef(y, np.round(p))), abs=1e-12)
    else:
        assert metrics.mcc(y, p) == 0.0
    assert metrics.accuracy(y, p) == pytest.approx(sk.accuracy_score(y, np.round(p)))
    assert metrics.brier(y, p) == pytest.approx(sk.brier_score_loss(y, p, labels=[0, 1]))
    if 0 < y.sum() < y.size:
        assert metrics.auc(y, p) == pytest.approx(sk.roc_auc_score(y, p))
    else:
        assert np.isnan(metrics.auc(y, p))


def test_calibration_columns_agree_with_scikit_learn():
    rng = np.random.default_rng(7)
    p = rng.random(500)
    y = (rng.random(500) < p**2).astype(int)
    seen, said = calibration_curve(y, p, n_bins=10)
    columns = metrics.reliability(y, p)
    assert [b.share_of_roadwork for b in columns] == pytest.approx(seen.tolist())
    assert [b.mean_probability for b in columns] == pytest.approx(said.tolist())
    counts = np.histogram(p, 10, (0, 1))[0]
    assert metrics.ece(y, p) == pytest.approx(float((counts * abs(seen - said)).sum() / 500))


def test_columns_of_weighted_pictures():
    """Three clear pictures that count a third each balance one of road work."""
    said, labels, weight = [0.55, 0.55, 0.55, 0.55, 0.95], [0, 0, 0, 1, 1], [1 / 3, 1 / 3, 1 / 3, 1.0, 1.0]
    middle, last = metrics.reliability(labels, said, weight=weight)
    assert (middle.count, middle.share_of_roadwork) == (4, pytest.approx(0.5))
    assert middle.low < 0.5 < middle.high
    assert (last.left, last.right, last.share_of_roadwork) == (0.9, 1.0, 1.0)
    assert last.mean_probability == pytest.approx(0.95)


@pytest.mark.parametrize("name", metrics.METRICS)
def test_a_weight_counts_a_picture_as_often_as_told(name):
    rng = np.random.default_rng(10)
    y, p, weight = rng.integers(0, 2, 200), rng.integers(0, 20, 200) / 20.0, rng.integers(0, 4, 200)
    repeated = np.repeat(np.arange(200), weight)
    expected = metrics.METRICS[name](y[repeated], p[repeated])
    assert metrics.METRICS[name](y, p, weight=weight) == pytest.approx(expected)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_only_the_share_of_a_weight_counts(scale):
    """Weights that sum to 1, or to a million, measure the same, and are as sure."""
    rng = np.random.default_rng(11)
    y, p, weight = rng.integers(0, 2, 200), rng.random(200), rng.random(200)
    for name, metric in metrics.METRICS.items():
        assert metric(y, p, weight=scale * weight) == pytest.approx(metric(y, p, weight=weight)), name
    for one, other in zip(*(metrics.columns(y, p, weight=w) for w in (weight, scale * weight)), strict=True):
        assert one == pytest.approx(other)


@given(st.integers(0, 40), st.integers(1, 40), st.floats(0.01, 100))
def test_the_interval_of_a_column_is_wilsons(hits, misses, each):
    """As scipy has it, for pictures of equal weight whatever that is; all clear and all road work included."""
    y = np.repeat([1, 0], [hits, misses])
    for labels, k in ((y, hits), (1 - y, misses)):
        (column,) = metrics.reliability(labels, np.full(len(y), 0.42), weight=np.full(len(y), each))
        theirs = binomtest(k, len(y)).proportion_ci(method="wilson")
        assert (column.low, column.high) == pytest.approx((theirs.low, theirs.high), abs=1e-4)
        assert (column.left, column.right, column.count) == (0.4, 0.5, len(y))


def test_a_column_of_unequal_weights_is_as_sure_as_its_effective_number_of_pictures():
    """Kish: weights 3, 1, 1, 1 twice are worth 12^2 / 24 = 6 pictures."""
    (column,) = metrics.reliability([1] * 4 + [0] * 4, [0.55] * 8, weight=2 * [3.0, 1.0, 1.0, 1.0])
    (six,) = metrics.reliability([1, 0] * 3, [0.55] * 6)
    assert (column.low, column.high) == pytest.approx((six.low, six.high))


def test_what_is_calibrated_at_even_odds_is_so_in_a_summary_weighted_to_them():
    """One picture in five is road work here, one in two where the answers are used."""
    rng = np.random.default_rng(3)
    y = (rng.random(4000) < 0.2).astype(np.int64)
    z = rng.normal(2.0 * y - 1.0, 1.0)  # log-odds 2z at even odds
    p = 1.0 / (1.0 + np.exp(-2.0 * z))
    row = metrics.grouped_summary(y, p, [str(i % 40) for i in range(4000)], weight=np.where(y == 1, 4.0, 1.0))
    assert (row["n"], row["positives"]) == (4000, int(y.sum()))
    assert row["ece"]["value"] < 0.02 < metrics.ece(y, p)
    assert all(row[name]["low"] <= row[name]["value"] <= row[name]["high"] for name in metrics.METRICS)


def test_ece_of_a_known_case():
    # two columns: 0.25 said and 1/2 seen; 0.95 said and 1 seen; half the pictures in each
    assert metrics.ece([0, 1, 1, 1], [0.25, 0.25, 0.95, 0.95]) == pytest.approx(0.5 * 0.25 + 0.5 * 0.05)


@given(labels_and_probabilities)
def test_ece_stays_between_0_and_1_and_every_picture_is_in_one_column(case):
    y, p = case
    assert 0 <= metrics.ece(y, p) <= 1
    assert sum(b.count for b in metrics.reliability(y, p)) == y.size


def test_exactly_one_half_counts_as_clear_like_numpys_round():
    assert metrics.accuracy([0], [0.5]) == 1.0
    assert metrics.accuracy([1], [0.5]) == 0.0


def test_threshold_moves_the_decision():
    y, p = [0, 0, 1, 1], [0.1, 0.3, 0.35, 0.9]
    assert metrics.mcc(y, p, threshold=0.32) == 1.0
    assert metrics.mcc(y, p) == pytest.approx(sk.matthews_corrcoef(y, [0, 0, 0, 1]))


@given(labels_and_probabilities)
def test_mcc_changes_sign_when_the_labels_swap(case):
    y, p = case
    assert metrics.mcc(1 - y, p) == pytest.approx(-metrics.mcc(y, p))


def test_bootstrap_interval_of_an_accuracy_is_the_binomial_one():
    """Close enough to tell 95 % from 90 %, and one end from the other."""
    y = np.ones(2500, dtype=int)
    p = np.where(np.arange(2500) < 2000, 0.9, 0.1)  # accuracy 0.8
    interval = metrics.bootstrap(y, p, metrics.accuracy, n=2000)
    half = 1.96 * np.sqrt(0.8 * 0.2 / 2500)
    assert interval.low == pytest.approx(0.8 - half, abs=0.001)
    assert interval.high == pytest.approx(0.8 + half, abs=0.001)


def test_drawing_whole_groups_widens_the_interval_when_groups_are_near_copies():
    rng = np.random.default_rng(3)
    groups = np.repeat([str(i) for i in range(20)], 20)
    y = np.repeat(rng.permutation(np.arange(20) % 2), 20)
    right = np.repeat(rng.random(20) < 0.8, 20)  # all frames of a group are right or wrong together
    p = np.where(right, y, 1 - y).astype(float)
    alone = metrics.bootstrap(y, p, metrics.accuracy)
    grouped = metrics.bootstrap(y, p, metrics.accuracy, groups=groups.tolist())
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)


@pytest.mark.parametrize("seed", range(8))
def test_interval_of_a_small_ece_holds_its_value_though_resampling_only_adds(seed):
    rng = np.random.default_rng(seed)
    p = rng.random(120)
    y = (rng.random(120) < p).astype(int)
    interval = metrics.bootstrap(y, p, metrics.ece)
    assert 0.0 <= interval.low <= metrics.ece(y, p) <= interval.high


def test_interval_of_a_large_ece_holds_the_truth():
    rng = np.random.default_rng(4)
    p = rng.uniform(0.2, 1.0, 4000)
    y = (rng.random(4000) < p - 0.2).astype(int)
    interval = metrics.bootstrap(y, p, metrics.ece, n=200)
    assert interval.low < 0.2 < interval.high
    assert interval.high - interval.low < 0.06


def test_bootstrap_is_repeatable_and_follows_its_seed():
    rng = np.random.default_rng(5)
    y, p = rng.integers(0, 2, 80), rng.random(80)
    assert metrics.bootstrap(y, p, metrics.mcc, seed=1) == metrics.bootstrap(y, p, metrics.mcc, seed=1)
    assert metrics.bootstrap(y, p, metrics.mcc, seed=1) != metrics.bootstrap(y, p, metrics.mcc, seed=2)


def test_bootstrap_says_so_when_no_resample_can_hold_both_labels():
    with pytest.raises(ValueError, match="both labels"):
        metrics.bootstrap([0, 1], [0.2, 0.8], metrics.accuracy, n=0)


def test_summary_has_every_measure_with_its_interval():
    rng = np.random.default_rng(1)
    p = rng.random(200)
    y = (rng.random(200) < p).astype(int)
    result = metrics.summary(y, p)
    assert result["n"] == 200
    assert result["positives"] == int(y.sum())
    for name in ("mcc", "accuracy", "auc", "ece", "brier"):
        assert result[name]["low"] <= result[name]["high"]
    assert result["mcc"]["low"] < result["mcc"]["value"] < result["mcc"]["high"]


def test_summary_of_one_label_leaves_out_what_needs_two():
    result = metrics.summary([0, 0, 0], [0.1, 0.2, 0.7])
    assert result["mcc"] == result["auc"] == {"value": None, "low": None, "high": None}
    assert result["accuracy"]["value"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([], [], "at least one"),
        ([0, 1], [0.5], "as many"),
        ([[0, 1]], [[0.5, 0.5]], r"shapes \(1, 2\) and \(1, 2\)"),
        ([0, 2], [0.5, 0.5], "labels 0 and 1"),
        ([0, 1], [0.5, 1.5], r"in \[0, 1\]"),
        ([0, 1], [0.5, float("nan")], r"in \[0, 1\]"),
    ],
)
def test_bad_input_is_named(labels, probabilities, message):
    with pytest.raises(ValueError, match=message):
        metrics.mcc(labels, probabilities)


@pytest.mark.parametrize("weight", [[1.0], [1.0, -1.0], [0.0, 0.0], [1.0, float("nan")]])
def test_a_weight_that_is_none_is_named(weight):
    with pytest.raises(ValueError, match="a weight of at least 0 per picture"):
        metrics.brier([0, 1], [0.5, 0.5], weight=weight)


def test_groups_must_match_the_pictures():
    with pytest.raises(ValueError, match="one group per picture"):
        metrics.bootstrap([0, 1], [0.5, 0.5], metrics.accuracy, groups=["a"])


def test_a_measure_is_told_with_its_interval_where_it_has_one():
    assert metrics.told({"value": 0.7537, "low": 0.6924, "high": 0.8116}) == "0.754 (0.69..0.81)"
    assert metrics.told({"value": 0.7537, "low": None, "high": None}) == "0.754"
    assert metrics.told({"value": None, "low": None, "high": None}) == "-"
    assert metrics.told({"value": 0.0123, "low": 0.0101, "high": 0.0149}, 3) == "0.012 (0.010..0.015)"
    assert metrics.bounds({"value": -0.1, "low": -0.2, "high": 0.1}) == "-0.20..0.10"
    assert metrics.gained(0.0123, -0.003, 0.0271) == "+0.012 (-0.003..+0.027)"
    assert list(metrics.TITLES) == list(metrics.METRICS)


def test_whole_groups_are_drawn_where_there_are_enough(monkeypatch):
    monkeypatch.setattr(metrics, "METRICS", {"accuracy": metrics.accuracy})
    rng = np.random.default_rng(2)
    p = rng.random(40)
    y = (rng.random(40) < p).astype(int)
    few, many = ([str(i % n) for i in range(40)] for n in (4, 5))
    assert metrics.grouped_summary(y, p, few) == {**metrics.summary(y, p), "resampled": "pictures"}
    assert metrics.grouped_summary(y, p, many) == {**metrics.summary(y, p, groups=many), "resampled": "groups"}
