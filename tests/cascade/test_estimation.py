"""Fits against scikit-learn and against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from cascade.calibration import Identity, Isotonic, Temperature, logit, sigmoid, sigmoids
from cascade.estimation import METHODS, choose_calibration, fit_calibration, fit_interval, logistic
from cascade.resampling import group_folds, splits
from models.metrics import ece


def scores(n: int, seed: int, slope: float = 1.0, bias: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Scores z and labels drawn with log-odds slope * z + bias."""
    rng = np.random.default_rng(seed)
    z = rng.normal(scale=2.0, size=n)
    return z, (rng.random(n) < sigmoids(slope * z + bias)).astype(np.int64)


def test_logistic_equals_scikit_learn_without_a_pull() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(500, 3))
    y = (rng.random(500) < sigmoids(x @ [1.0, 0.5, 2.0] - 0.7)).astype(np.int64)
    theirs = LogisticRegression(C=np.inf, tol=1e-10).fit(x, y)
    ours = logistic(x, y, np.zeros(4), 0.0)
    assert ours == pytest.approx([*theirs.coef_[0], theirs.intercept_[0]], abs=1e-4)


def test_logistic_pulls_towards_its_centre() -> None:
    x, y = np.array([[1.0], [-1.0]]), np.array([1, 0])
    assert logistic(x, y, np.array([0.7, -0.3]), 1e9) == pytest.approx([0.7, -0.3], abs=1e-6)
    assert np.isfinite(logistic(1e3 * x, y, np.array([1.0, 0.0]))).all()  # separable: still finite


@pytest.mark.parametrize("ridge", [0.5, 20.0])
def test_logistic_rests_where_data_and_pull_balance(ridge: float) -> None:
    """The gradient of log loss + ridge / 2 * (coefficients - centre)^2 is 0, whatever the pull."""
    rng = np.random.default_rng(3)
    x, centre = rng.normal(size=(200, 2)), np.array([1.5, 0.5, -0.4])
    y = (rng.random(200) < sigmoids(x @ [2.0, 1.0] + 0.5)).astype(np.int64)
    theta = logistic(x, y, centre, ridge)
    design = np.column_stack([x, np.ones(200)])
    assert (theta[:-1] > 0).all()
    assert design.T @ (sigmoids(design @ theta) - y) == pytest.approx(ridge * (centre - theta), abs=1e-3)


def test_weights_are_never_negative() -> None:
    rng = np.random.default_rng(2)
    good, contrary = rng.normal(size=(2, 400))
    y = (rng.random(400) < sigmoids(2.0 * good - 1.0 * contrary)).astype(np.int64)
    weights = logistic(np.column_stack([good, contrary]), y, np.array([1.0, 1.0, 0.0]))
    assert weights[1] == 0.0
    alone = logistic(good[:, None], y, np.array([1.0, 0.0]))
    assert weights[[0, 2]] == pytest.approx(alone)


def test_only_a_bias() -> None:
    y = np.array([1, 1, 1, 0])
    assert sigmoid(float(logistic(np.empty((4, 0)), y, np.zeros(1), 0.0)[0])) == pytest.approx(0.75)


def test_isotonic_blocks_equal_scikit_learn_where_they_are_mixed() -> None:
    z, y = scores(800, 3)
    ours = fit_calibration("isotonic", z, y)
    assert isinstance(ours, Isotonic)
    theirs = IsotonicRegression().fit(z, y)
    inside = np.array(ours.x[1:-1])
    assert sigmoids(np.array(ours.y[1:-1])) == pytest.approx(theirs.predict(inside), abs=0.02)
    assert (np.diff(ours.y) > 0).all()


@pytest.mark.parametrize(
    ("z", "y"),
    [
        ([0.0, 1.0], [0, 1]),
        ([0.0, 1.0], [1, 0]),  # the wrong way round: one block
        ([0.0] + [1.0] * 10, [0] + [1] + [0] * 9),  # the first block's cautious rate would exceed the second's
        ([0.0] * 10 + [1.0], [0] + [1] * 9 + [1]),
        ([0.5] * 6, [0, 1, 0, 1, 1, 1]),
    ],
)
def test_isotonic_rises_whatever_the_data(z: list[float], y: list[int]) -> None:
    fitted = fit_calibration("isotonic", np.array(z), np.array(y))
    p = sigmoids(fitted.apply(np.array([-9.0, 0.0, 0.5, 1.0, 9.0])))
    assert (np.diff(p) > 0).all()
    assert p[0] > 0.0
    assert p[-1] < 1.0


def test_isotonic_of_a_known_case() -> None:
    """A block's knot is its mean score and its share of road work; a block of one label gets Laplace's rule."""
    apart = fit_calibration("isotonic", np.array([-4.0, -2.0, 0.0, 1.0, 2.0, 6.0]), np.array([0, 0, 0, 1, 1, 1]))
    assert apart == Isotonic(x=(-2.0, 3.0), y=(logit(1 / 5), logit(4 / 5)))
    mixed = fit_calibration("isotonic", np.array([0.0] * 4 + [1.0] * 5), np.array([1, 0, 0, 0, 1, 1, 1, 1, 0]))
    assert mixed.apply(np.array([0.0, 1.0])) == pytest.approx([logit(1 / 4), logit(4 / 5)])


def test_venn_abers_equals_brute_force() -> None:
    z, y = scores(60, 4)
    fitted = fit_interval(z, y)
    for score in z[:10]:
        for label, tabulated in ((0, fitted.interval(score)[0]), (1, fitted.interval(score)[1])):
            brute = IsotonicRegression().fit(np.append(z, score), np.append(y, label)).predict([score])[0]
            assert sigmoid(float(tabulated)) == pytest.approx(brute, abs=1e-6)


def test_venn_abers_is_wide_where_data_are_thin_and_monotone() -> None:
    z, y = scores(3000, 5)
    fitted = fit_interval(z, y)
    assert len(fitted.x) == 200
    assert (np.diff(fitted.low) >= -1e-9).all()
    assert (np.diff(fitted.high) >= -1e-9).all()
    few, many = fit_interval(z[:60], y[:60]), fitted
    width = [sigmoid(float(f.interval(0.3)[1])) - sigmoid(float(f.interval(0.3)[0])) for f in (few, many)]
    assert width[0] > 3 * width[1]


def test_figure_33_calibration_error_before_and_after_out_of_fold() -> None:
    """ECE of scores that are three times too sure and biased; each method finite at 0 and 1 and monotone."""
    z, y = scores(4000, 6)
    said = 3.0 * z + 1.0
    folds = group_folds([str(i % 40) for i in range(len(z))], y)
    before = ece(y, sigmoids(said))
    print(f"\nfigure 33: ECE before {before:.3f}; out of fold:", end="")
    for method in METHODS[2:]:
        out = np.empty(len(z))
        for train, test in splits(folds):
            out[test] = fit_calibration(method, said[train], y[train]).apply(said[test])
        after = ece(y, sigmoids(out))
        print(f" {method} {after:.3f}", end="")
        assert after < 0.03 < before
    print()


def test_the_method_is_chosen_by_out_of_fold_log_loss() -> None:
    z, y = scores(3000, 7)
    folds = group_folds([str(i) for i in range(len(z))], y)
    chosen, losses = choose_calibration(z, y, folds)
    assert isinstance(chosen, Identity)
    assert set(losses) == set(METHODS)
    assert losses["identity"] == pytest.approx(log_loss(y, sigmoids(z)))
    chosen, losses = choose_calibration(2.0 * z, y, folds)
    assert isinstance(chosen, Temperature)
    assert chosen.temperature == pytest.approx(2.0, rel=0.1)
    stairs = np.where(np.abs(z) < 1.5, 0.0, np.sign(z)) * 4.0
    y = (np.random.default_rng(8).random(len(z)) < sigmoids(stairs)).astype(np.int64)
    chosen, losses = choose_calibration(z, y, folds)
    assert isinstance(chosen, Isotonic)
    assert losses["isotonic"] == min(losses.values())
