"""The measures of a probability of road work, and how sure they are. numpy only.

Arguments everywhere: `labels` int {0, 1} (N,), `probabilities` float in [0, 1] (N,). A picture counts as road work
when its probability is above the threshold: at 0.5 that is numpy's round, which the validators use (0.5 -> 0).
Every function raises ValueError that says what was expected and what came.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Metric = Callable[[NDArray[np.int64], NDArray[np.float64]], float]


@dataclass(frozen=True, slots=True)
class Interval:
    """Where a measure lies with 95 % confidence."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Bin:
    """One column of a reliability diagram: the pictures whose probability lies in [left, right)."""

    left: float
    right: float
    count: int
    mean_probability: float  # NaN when the bin is empty
    share_of_roadwork: float  # NaN when the bin is empty


def mcc(labels: ArrayLike, probabilities: ArrayLike, threshold: float = 0.5) -> float:
    """Matthews correlation coefficient in [-1, 1]; 0 where it is undefined (one label or one prediction only)."""
    y, p = _checked(labels, probabilities)
    predicted = p > threshold
    positives, negatives = float((y == 1).sum()), float((y == 0).sum())
    true_positives, true_negatives = float(((y == 1) & predicted).sum()), float(((y == 0) & ~predicted).sum())
    missed, false_alarms = positives - true_positives, negatives - true_negatives
    product = positives * negatives * (true_positives + false_alarms) * (true_negatives + missed)
    if product == 0:
        return 0.0
    return float((true_positives * true_negatives - false_alarms * missed) / np.sqrt(product))


def accuracy(labels: ArrayLike, probabilities: ArrayLike, threshold: float = 0.5) -> float:
    """Share of right decisions, in [0, 1]."""
    y, p = _checked(labels, probabilities)
    return float(((p > threshold) == (y == 1)).mean())


def auc(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Area under the ROC curve: the chance that road work ranks above clear, ties count half; NaN with one label."""
    y, p = _checked(labels, probabilities)
    positives = int(y.sum())
    negatives = y.size - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    _, where, counts = np.unique(p, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[where]  # 1-based; ties share their mean rank
    return float((ranks[y == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def reliability(labels: ArrayLike, probabilities: ArrayLike, bins: int = 10) -> list[Bin]:
    """Said against seen, in `bins` columns of equal width over [0, 1]."""
    y, p = _checked(labels, probabilities)
    index = np.minimum((p * bins).astype(int), bins - 1)
    counts, said, seen = (np.bincount(index, weights=w, minlength=bins) for w in (np.ones_like(p), p, y))
    with np.errstate(invalid="ignore"):
        means, shares = said / counts, seen / counts
    return [Bin(i / bins, (i + 1) / bins, int(counts[i]), float(means[i]), float(shares[i])) for i in range(bins)]


def ece(labels: ArrayLike, probabilities: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error in [0, 1]: |said - seen| per column of `reliability`, weighted by count."""
    columns = [b for b in reliability(labels, probabilities, bins) if b.count]
    total = sum(b.count for b in columns)
    return sum(b.count * abs(b.mean_probability - b.share_of_roadwork) for b in columns) / total


def brier(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean squared error of the probability, in [0, 1]."""
    y, p = _checked(labels, probabilities)
    return float(np.mean((p - y) ** 2))


METRICS: dict[str, Metric] = {"mcc": mcc, "accuracy": accuracy, "auc": auc, "ece": ece, "brier": brier}
TITLES = {"mcc": "MCC", "accuracy": "accuracy", "auc": "AUC", "ece": "ECE", "brier": "Brier"}
FEWEST_GROUPS = 5  # for an interval that draws whole groups
NEED_BOTH_LABELS = frozenset({"mcc", "auc"})


def bootstrap(
    labels: ArrayLike,
    probabilities: ArrayLike,
    metric: Metric,
    n: int = 1000,
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> Interval:
    """95 % percentile interval from `n` resamples with replacement.

    groups: one name per picture. Whole groups are then drawn instead of pictures, because frames of one camera are
    near-copies and drawing them one by one would make the interval too narrow. Resamples that lost one of the two
    labels are left out: most measures mean nothing there. ECE sums absolute differences, so that the noise of drawing
    only ever adds to it: its interval is moved down by what resampling added on average (the bootstrap's estimate of
    bias, Efron and Tibshirani 1993, chapter 10).
    """
    y, p = _checked(labels, probabilities)
    rng = np.random.default_rng(seed)
    draw = _group_draw(groups, y.size, rng) if groups is not None else lambda: rng.integers(0, y.size, y.size)
    both = 0 < y.sum() < y.size
    values = [
        metric(y[index], p[index])
        for index in (draw() for _ in range(n))
        if not both or 0 < y[index].sum() < index.size
    ]
    if not values:
        raise ValueError(
            f"no resample out of {n} held both labels: each label lies in too few groups to say how sure the "
            "measure is; give more groups or resample pictures (groups=None)"
        )
    low, high = np.percentile(values, [2.5, 97.5])
    if metric is ece:
        added = np.mean(values) - ece(y, p)
        low, high = max(low - added, 0.0), high - added
    return Interval(float(low), float(high))


def told(measure: Mapping[str, float | None], digits: int = 2) -> str:
    """A measure of a `summary` as a table shows it: "0.754 (0.69..0.81)", the value alone, or "-" for none."""
    if measure["value"] is None:
        return "-"
    interval = bounds(measure, digits)
    return f"{measure['value']:.3f}" + (f" ({interval})" if interval else "")


def bounds(measure: Mapping[str, float | None], digits: int = 2) -> str:
    """The interval of a measure, for a line of its own: "0.69..0.81"; empty for none."""
    low, high = measure["low"], measure["high"]
    return "" if low is None or high is None else f"{low:.{digits}f}..{high:.{digits}f}"


def gained(value: float, low: float, high: float, digits: int = 3) -> str:
    """A difference and its interval: "+0.012 (-0.003..+0.027)"."""
    return f"{value:+.{digits}f} ({low:+.{digits}f}..{high:+.{digits}f})"


def summary(
    labels: ArrayLike, probabilities: ArrayLike, seed: int = 0, groups: Sequence[str] | None = None
) -> dict[str, Any]:
    """`{"n", "positives", <metric>: {"value", "low", "high"}}`, ready for JSON.

    A measure that needs both labels is None where only one occurs; low and high are None where no resample had both.
    """
    y, p = _checked(labels, probabilities)
    both = 0 < y.sum() < y.size
    result: dict[str, Any] = {"n": int(y.size), "positives": int(y.sum())}
    for name, metric in METRICS.items():
        value: float | None = None
        low: float | None = None
        high: float | None = None
        if both or name not in NEED_BOTH_LABELS:
            value = metric(y, p)
            with contextlib.suppress(ValueError):
                interval = bootstrap(y, p, metric, seed=seed, groups=groups)
                low, high = interval.low, interval.high
        result[name] = {"value": value, "low": low, "high": high}
    return result


def grouped_summary(
    labels: ArrayLike, probabilities: ArrayLike, groups: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """A `summary` that draws whole groups where there are FEWEST_GROUPS, else pictures; "resampled" says which."""
    whole = len(set(groups)) >= FEWEST_GROUPS
    row = summary(labels, probabilities, seed, groups if whole else None)
    return {**row, "resampled": "groups" if whole else "pictures"}


def _group_draw(groups: Sequence[str], size: int, rng: np.random.Generator) -> Callable[[], NDArray[np.int64]]:
    """A function that draws as many groups as there are, with replacement, and gives the indices of their pictures."""
    if len(groups) != size:
        raise ValueError(f"expected one group per picture ({size}), got {len(groups)}")
    _, inverse = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    members = [np.flatnonzero(inverse == i) for i in range(int(inverse.max()) + 1)]
    return lambda: np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])


def _checked(labels: ArrayLike, probabilities: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    y, p = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if y.ndim != 1 or y.shape != p.shape or y.size == 0:
        raise ValueError(f"expected as many labels as probabilities, at least one; got shapes {y.shape} and {p.shape}")
    if not ((y == 0) | (y == 1)).all():
        raise ValueError(f"expected labels 0 and 1, got {np.unique(y)[:5].tolist()}")
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"expected probabilities in [0, 1], got {p[~((p >= 0) & (p <= 1))][:5].tolist()}")
    return y.astype(np.int64), p
