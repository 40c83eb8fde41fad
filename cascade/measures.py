"""MCC where picture i counts weight[i] times: what a set of pictures would show if road work were as frequent in it as
where the answers are used, and what a resample of it shows. numpy only.

Everywhere y (N,) in {0, 1}, p (N,) in [0, 1], weight (N,) not negative.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cascade.calibration import Array
from cascade.resampling import Labels, resamples
from models import metrics


def mcc_at(y: Labels, z: Array, weight: Array, thresholds: Array) -> Array:
    """`metrics.mcc` of z > t for each of `thresholds` (T,), rising."""
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


def paired_gain(
    y: Labels, p: Array, q: Array, weight: Array, groups: Sequence[str], n: int = 500
) -> tuple[float, float, float]:
    """MCC of p minus MCC of q, and its 95 % interval over the same resamples for both."""

    def gain(w: Array) -> float:
        return metrics.mcc(y, p, weight=w) - metrics.mcc(y, q, weight=w)

    low, high = np.percentile([gain(weight * times) for times in resamples(groups, n, seed=0)], [2.5, 97.5])
    return gain(weight), float(low), float(high)
