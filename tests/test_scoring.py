"""The reward as the validators compute it: windows, rounding, what a missing or a wild answer costs."""

from __future__ import annotations

import warnings
from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, precision_score, recall_score

from miner.scoring import ALPHA, Scorer, Standing, heard_as, reward_of, window_measures

answers = st.sampled_from([0.0, 0.2, 0.5, 0.500001, 0.8, 1.0, -1.0, 1.2, 1.7, -0.3, -0.7, 5.0])
histories = st.lists(st.tuples(answers, st.integers(0, 1)), min_size=1, max_size=130)


def as_the_validators(history, window):
    """The same measures by the calls that the validators make, in their order: any refusal leaves zeros."""
    kept = [(p, y) for p, y in history[-window:] if p != -1]
    if not kept:
        return 0.0, 0.0
    predicted = np.round(np.array([p for p, _ in kept]))
    labels = np.array([y for _, y in kept])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            accuracy = accuracy_score(labels, predicted)
            for score in (precision_score, recall_score, f1_score):
                score(labels, predicted, zero_division=0)
            mcc = max(0, matthews_corrcoef(labels, predicted)) if len(np.unique(labels)) > 1 else 0.0
        except ValueError:
            return 0.0, 0.0
    return float(mcc), float(accuracy)


@settings(max_examples=80, deadline=None)
@given(histories)
def test_any_history_is_measured_as_the_validators_do_with_scikit_learn(history):
    remembered = deque(history, maxlen=100)
    for window in (100, 10):
        assert window_measures(remembered, window) == pytest.approx(as_the_validators(history, window), abs=1e-12)


@pytest.mark.parametrize(
    ("mcc", "accuracy", "reward"),
    [(0.72, 0.86, 0.49), (0.89, 0.945, 0.77), (0.94, 0.97, 0.87), (0.98, 0.99, 0.96), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)],
)
def test_the_published_table_of_rewards(mcc, accuracy, reward):
    assert reward_of(mcc, accuracy) == pytest.approx(reward, abs=0.005)


def replay(history):
    scorer = Scorer()
    for prediction, label in history:
        scorer.record(prediction, label)
    return scorer.standing


@pytest.mark.parametrize(("yes", "no"), [(0.9, 0.1), (1.0, 0.0)])
def test_a_perfect_miner_reaches_one(yes, no):
    standing = replay([(yes, 1), (no, 0)] * 100)
    assert (standing.mcc, standing.accuracy, standing.reward) == (1.0, 1.0, 1.0)
    assert standing.score == pytest.approx(1.0, abs=0.001)


def test_a_known_hundred():
    """40 hits, 45 rejections, 5 false alarms, 10 misses, the last 10 with 8 right."""
    history = [(0.9, 1)] * 40 + [(0.1, 0)] * 37 + [(0.9, 0)] * 5 + [(0.1, 1)] * 8 + [(0.1, 0)] * 8 + [(0.1, 1)] * 2
    mcc = (40 * 45 - 5 * 10) / np.sqrt(45 * 50 * 50 * 55)
    standing = replay(history)
    assert standing.mcc == pytest.approx(mcc)
    assert standing.accuracy == pytest.approx(0.8)
    assert standing.reward == pytest.approx((0.5 * mcc + 0.4) ** 3)


def test_a_constant_answer_earns_no_mcc_whatever_the_labels():
    assert replay([(0.2, 0), (0.2, 1)] * 50).mcc == 0.0


def test_one_label_only_earns_no_mcc():
    assert replay([(0.9, 1)] * 100) == Standing(0.0, 1.0, 0.125, pytest.approx(0.125 * (1 - (1 - ALPHA) ** 100)))


def test_always_wrong_is_floored_at_zero():
    assert replay([(0.9, 0), (0.1, 1)] * 50).mcc == 0.0


def test_one_half_rounds_to_clear():
    assert replay([(0.5, 0)]).accuracy == 1.0
    assert replay([(0.5, 1)]).accuracy == 0.0


@pytest.mark.parametrize("nothing", [None, float("nan"), float("inf"), float("-inf"), -1.0])
def test_no_number_is_a_missing_answer_zero_now_and_out_of_the_measures(nothing):
    assert heard_as(nothing) == -1.0
    good = [(0.9, 1), (0.1, 0)] * 20
    standing = replay([*good, (nothing, 1)])
    assert (standing.mcc, standing.accuracy, standing.reward) == (1.0, 1.0, 0.0)
    assert replay([*good, (nothing, 1), (0.9, 1)]).reward == 1.0


def test_a_missing_answer_takes_a_place_in_the_window():
    """Eight missing answers keep the wrong one among the last ten; a ninth pushes it out."""
    history = deque([(0.9, 0), *[(-1.0, 1)] * 8, (0.9, 1)], maxlen=100)
    assert window_measures(history, 10)[1] == 0.5
    history.append((-1.0, 1))
    assert window_measures(history, 10)[1] == 1.0


@pytest.mark.parametrize("wild", [1.0001, 1.2, -0.3, -0.0001])
def test_an_answer_outside_0_and_1_scores_nothing_now_but_stays_in_the_windows(wild):
    good = [(0.9, 1), (0.1, 0)] * 20
    wrong_label = 0 if wild > 0.5 else 1
    assert replay([*good, (wild, 1)]).reward == 0.0
    after = replay([*good, (wild, wrong_label), (0.9, 1)])
    assert after.accuracy == 0.9
    assert 0 < after.reward < 1


def test_an_answer_that_rounds_to_neither_spoils_both_windows_until_it_leaves_them():
    good = [(0.9, 1), (0.1, 0)]
    spoilt = replay([*good * 20, (1.7, 1), *good * 2])
    assert (spoilt.mcc, spoilt.accuracy, spoilt.reward) == (0.0, 0.0, 0.0)
    halfway = replay([*good * 20, (1.7, 1), *good * 6])
    assert (halfway.mcc, halfway.accuracy, halfway.reward) == (0.0, 1.0, 0.125)
    assert replay([(1.7, 1), *good * 50]).reward == 1.0


@settings(max_examples=40, deadline=None)
@given(histories)
def test_every_value_stays_between_0_and_1(history):
    standing = replay(history)
    for value in (standing.mcc, standing.accuracy, standing.reward, standing.score):
        assert 0.0 <= value <= 1.0


@settings(max_examples=20, deadline=None)
@given(histories, st.integers(0, 1))
def test_only_the_last_hundred_count(history, label):
    settled = [(0.9, 1), (0.1, 0)] * 50
    now = replay([*history, *settled, (0.9, label)])
    fresh = replay([*settled, (0.9, label)])
    assert (now.mcc, now.accuracy, now.reward) == (fresh.mcc, fresh.accuracy, fresh.reward)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=40))
def test_only_the_side_of_one_half_matters(history):
    pushed = [(float(np.round(p)), y) for p, y in history]
    assert replay(history) == replay(pushed)


def test_the_score_moves_by_its_share_of_the_newest_reward():
    scorer = Scorer(alpha=0.25)
    first = scorer.record(0.1, 0)  # accuracy 1, no MCC yet: 0.125
    assert first.score == pytest.approx(0.25 * 0.125)
    second = scorer.record(0.9, 1)  # both perfect: 1
    assert second.score == pytest.approx(0.25 * 1 + 0.75 * first.score)
    third = scorer.record(None, 1)
    assert third.score == pytest.approx(0.75 * second.score)


def test_another_label_is_refused():
    with pytest.raises(ValueError, match="label 0 or 1"):
        Scorer().record(0.5, -1)
