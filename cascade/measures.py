"""The measures of `models.metrics`, where picture i counts weight[i] times: what a set of pictures would show if road
work were as frequent in it as where the answers are used, and what a resample of it shows. numpy only.

Everywhere y (N,) in {0, 1}, p (N,) in [0, 1], weight (N,) not negative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade.calibration import Array
from cascade.resampling import Labels, resamples

Measure = Callable[[Labels, Array, Array], float]
BINS = 10
RESAMPLES = 500


def weighted_mcc(y: Labels, yes: NDArray[np.bool_], weight: Array) -> float:
    """MCC of the decisions `yes` (N,) when picture i counts weight[i] times; 0 where it is undefined."""
    tp, fp = float(weight[yes & (y == 1)].sum()), float(weight[yes & (y == 0)].sum())
    fn, tn = float(weight[~yes & (y == 1)].sum()), float(weight[~yes & (y == 0)].sum())
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / float(np.sqrt(product)) if product > 0 else 0.0


def mcc_at(y: Labels, z: Array, weight: Array, thresholds: Array) -> Array:
    """`weighted_mcc` of z > t for each of `thresholds` (T,), rising."""
    order = np.argsort(z)
    cut = np.searchsorted(z[order], thresholds, side="right")
    fn, tn = (np.concatenate([[0.0], np.cumsum((weight * (y == label))[order])])[cut] for label in (1, 0))
    tp, fp = weight[y == 1].sum() - fn, weight[y == 0].sum() - tn
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return np.asarray(np.where(product > 1e-9, (tp * tn - fp * fn) / np.sqrt(np.maximum(product, 1e-9)), 0.0))


def class_weight(y: Labels, prevalence: float) -> Array:
    """Weights (N,) under which the share of road work is `prevalence`."""
    share = float(y.mean())
    return np.where(y == 1, prevalence / share, (1.0 - prevalence) / (1.0 - share))


def _accuracy(y: Labels, p: Array, weight: Array) -> float:
    return float(np.average((p > 0.5) == (y == 1), weights=weight))


def _auc(y: Labels, p: Array, weight: Array) -> float:
    """The weighted chance that road work ranks above clear; ties count half."""
    _, where = np.unique(p, return_inverse=True)
    yes, no = (np.bincount(where, weights=weight * (y == label)) for label in (1, 0))
    return float((yes * (np.cumsum(no) - 0.5 * no)).sum() / max(yes.sum() * no.sum(), 1e-12))


def _ece(y: Labels, p: Array, weight: Array) -> float:
    column = np.minimum((p * BINS).astype(int), BINS - 1)
    return float(np.abs(np.bincount(column, weights=weight * (p - y), minlength=BINS)).sum() / weight.sum())


def _brier(y: Labels, p: Array, weight: Array) -> float:
    return float(np.average((p - y) ** 2, weights=weight))


MEASURES: dict[str, Measure] = {
    "mcc": lambda y, p, weight: weighted_mcc(y, p > 0.5, weight),
    "accuracy": _accuracy,
    "auc": _auc,
    "ece": _ece,
    "brier": _brier,
}


def summary(y: Labels, p: Array, weight: Array, groups: Sequence[str]) -> dict[str, Any]:
    """`{"n", "positives", <measure>: {"value", "low", "high"}}`, ready for JSON; 95 % intervals over resamples."""
    drawn = [weight * times for times in resamples(groups, RESAMPLES, seed=0)]
    drawn = [w for w in drawn if w[y == 1].any() and w[y == 0].any()]
    result: dict[str, Any] = {"n": len(y), "positives": int(y.sum())}
    for name, measure in MEASURES.items():
        low, high = np.percentile([measure(y, p, w) for w in drawn], [2.5, 97.5])
        result[name] = {"value": measure(y, p, weight), "low": float(low), "high": float(high)}
    return result


def paired_gain(
    y: Labels, p: Array, q: Array, weight: Array, groups: Sequence[str], n: int = RESAMPLES
) -> tuple[float, float, float]:
    """MCC of p minus MCC of q, and its 95 % interval over the same resamples for both."""

    def gain(w: Array) -> float:
        return weighted_mcc(y, p > 0.5, w) - weighted_mcc(y, q > 0.5, w)

    low, high = np.percentile([gain(weight * times) for times in resamples(groups, n, seed=0)], [2.5, 97.5])
    return gain(weight), float(low), float(high)
