"""The measures of a probability of road work, and how sure they are. numpy only.

Arguments everywhere: `labels` int {0, 1} (N,), `probabilities` float in [0, 1] (N,), and `weight` float (N,), not
negative: how often each picture counts, once by default. A picture counts as road work when its probability is above
the threshold: at 0.5 that is numpy's round, which the validators use (0.5 -> 0). Every function raises ValueError that
says what was expected and what came.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Metric = Callable[..., float]  # (labels, probabilities, weight=None)


@dataclass(frozen=True, slots=True)
class Interval:
    """Where a measure lies with 95 % confidence."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Bin:
    """One column of a reliability diagram: the pictures whose probability lies in [left, right).

    low, high: Wilson's 95 % interval of the share of road work, for as many pictures of equal weight as would be as
    sure (Kish 1965).
    """

    left: float
    right: float
    count: int
    mean_probability: float
    share_of_roadwork: float
    low: float
    high: float


def mcc(labels: ArrayLike, probabilities: ArrayLike, threshold: float = 0.5, weight: ArrayLike | None = None) -> float:
    """Matthews correlation coefficient in [-1, 1]; 0 where it is undefined (one label or one prediction only)."""
    y, p, w = _checked(labels, probabilities, weight)
    yes, roadwork = p > threshold, y == 1
    positives, negatives = float(w[roadwork].sum()), float(w[~roadwork].sum())
    true_positives, true_negatives = float(w[roadwork & yes].sum()), float(w[~roadwork & ~yes].sum())
    missed, false_alarms = positives - true_positives, negatives - true_negatives
    product = positives * negatives * (true_positives + false_alarms) * (true_negatives + missed)
    if product <= 0:
        return 0.0
    return float((true_positives * true_negatives - false_alarms * missed) / np.sqrt(product))


def accuracy(
    labels: ArrayLike, probabilities: ArrayLike, threshold: float = 0.5, weight: ArrayLike | None = None
) -> float:
    """Share of right decisions, in [0, 1]."""
    y, p, w = _checked(labels, probabilities, weight)
    return float(np.average((p > threshold) == (y == 1), weights=w))


def auc(labels: ArrayLike, probabilities: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Area under the ROC curve: the chance that road work ranks above clear, ties count half; NaN with one label."""
    y, p, w = _checked(labels, probabilities, weight)
    _, where = np.unique(p, return_inverse=True)
    roadwork, clear = (np.bincount(where, weights=w * (y == label)) for label in (1, 0))
    pairs = float(roadwork.sum() * clear.sum())
    return float((roadwork * (clear.cumsum() - 0.5 * clear)).sum()) / pairs if pairs else float("nan")


def reliability(
    labels: ArrayLike, probabilities: ArrayLike, bins: int = 10, weight: ArrayLike | None = None
) -> list[Bin]:
    """Said against seen: those of `bins` columns of equal width over [0, 1] that hold a picture."""
    y, p, w = _checked(labels, probabilities, weight)
    index = _columns(p, bins)
    found = []
    for column in np.unique(index[w > 0]).tolist():
        own = index == column
        said, seen = (float(np.average(values[own], weights=w[own])) for values in (p, y))
        low, high = _wilson(seen, float(w[own].sum() ** 2 / (w[own] ** 2).sum()))
        found.append(Bin(column / bins, (column + 1) / bins, int(own.sum()), said, seen, low, high))
    return found


def columns(labels: ArrayLike, probabilities: ArrayLike, weight: ArrayLike | None = None) -> list[dict[str, Any]]:
    """`reliability` as pages and JSON take it; [] for no pictures."""
    if not len(np.asarray(labels)):
        return []
    return [asdict(each) for each in reliability(labels, probabilities, weight=weight)]


def ece(labels: ArrayLike, probabilities: ArrayLike, bins: int = 10, weight: ArrayLike | None = None) -> float:
    """Expected calibration error in [0, 1]: |said - seen| per column of `reliability`, weighted by what it counts."""
    y, p, w = _checked(labels, probabilities, weight)
    return float(np.abs(np.bincount(_columns(p, bins), weights=w * (p - y))).sum() / w.sum())


def brier(labels: ArrayLike, probabilities: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Mean squared error of the probability, in [0, 1]."""
    y, p, w = _checked(labels, probabilities, weight)
    return float(np.average((p - y) ** 2, weights=w))


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
    weight: ArrayLike | None = None,
) -> Interval:
    """95 % percentile interval from `n` resamples (see `resamples` for groups).

    Resamples that lost one of the two labels are left out: most measures mean nothing there. ECE sums absolute
    differences, so that the noise of drawing only ever adds to it: its interval is moved down by what resampling added
    on average (the bootstrap's estimate of bias, Efron and Tibshirani 1993, chapter 10).
    """
    y, p, w = _checked(labels, probabilities, weight)
    both = 0 < y.sum() < y.size
    values = [
        metric(y, p, weight=w * times)
        for times in resamples(y.size, n, seed, groups)
        if not both or (times[y == 1].any() and times[y == 0].any())
    ]
    if not values:
        raise ValueError(
            f"no resample out of {n} held both labels: each label lies in too few groups to say how sure the "
            "measure is; give more groups or resample pictures (groups=None)"
        )
    low, high = np.percentile(values, [2.5, 97.5])
    if metric is ece:
        added = np.mean(values) - ece(y, p, weight=w)
        low, high = max(low - added, 0.0), high - added
    return Interval(float(low), float(high))


def resamples(size: int, n: int, seed: int, groups: Sequence[str] | None = None) -> Iterator[Array]:
    """`n` times how often each of `size` pictures (N,) is drawn, with replacement.

    groups: one name per picture. Whole groups are then drawn instead of pictures, because frames of one camera are
    near-copies and drawing them one by one would make an interval too narrow.
    """
    units = np.arange(size)
    if groups is not None:
        if len(groups) != size:
            raise ValueError(f"expected one group per picture ({size}), got {len(groups)}")
        units = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    rng, count = np.random.default_rng(seed), int(units.max()) + 1
    for _ in range(n):
        yield np.bincount(rng.integers(0, count, count), minlength=count).astype(float)[units]


def whole(groups: Sequence[str]) -> Sequence[str] | None:
    """`groups`, to be drawn whole; None where they are too few to say how sure a measure is."""
    return groups if len(set(groups)) >= FEWEST_GROUPS else None


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
    labels: ArrayLike,
    probabilities: ArrayLike,
    seed: int = 0,
    groups: Sequence[str] | None = None,
    weight: ArrayLike | None = None,
) -> dict[str, Any]:
    """`{"n", "positives", <metric>: {"value", "low", "high"}}`, ready for JSON.

    A measure that needs both labels is None where only one occurs; low and high are None where no resample had both.
    """
    y, p, w = _checked(labels, probabilities, weight)
    both = 0 < y.sum() < y.size
    result: dict[str, Any] = {"n": int(y.size), "positives": int(y.sum())}
    for name, metric in METRICS.items():
        value: float | None = None
        low: float | None = None
        high: float | None = None
        if both or name not in NEED_BOTH_LABELS:
            value = metric(y, p, weight=w)
            with contextlib.suppress(ValueError):
                interval = bootstrap(y, p, metric, seed=seed, groups=groups, weight=w)
                low, high = interval.low, interval.high
        result[name] = {"value": value, "low": low, "high": high}
    return result


def grouped_summary(
    labels: ArrayLike,
    probabilities: ArrayLike,
    groups: Sequence[str],
    seed: int = 0,
    weight: ArrayLike | None = None,
) -> dict[str, Any]:
    """A `summary` that draws whole groups where there are FEWEST_GROUPS, else pictures; "resampled" says which."""
    drawn = whole(groups)
    row = summary(labels, probabilities, seed, drawn, weight)
    return {**row, "resampled": "pictures" if drawn is None else "groups"}


def _columns(probabilities: Array, bins: int) -> NDArray[np.int64]:
    return np.minimum((probabilities * bins).astype(np.int64), bins - 1)


def _wilson(share: float, count: float) -> tuple[float, float]:
    z = 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def _checked(
    labels: ArrayLike, probabilities: ArrayLike, weight: ArrayLike | None
) -> tuple[NDArray[np.int64], Array, Array]:
    y, p = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    w = np.ones(y.shape) if weight is None else np.asarray(weight, dtype=np.float64)
    if y.ndim != 1 or y.shape != p.shape or y.size == 0:
        raise ValueError(f"expected as many labels as probabilities, at least one; got shapes {y.shape} and {p.shape}")
    if not ((y == 0) | (y == 1)).all():
        raise ValueError(f"expected labels 0 and 1, got {np.unique(y)[:5].tolist()}")
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"expected probabilities in [0, 1], got {p[~((p >= 0) & (p <= 1))][:5].tolist()}")
    if w.shape != y.shape or not (w >= 0).all() or not w.any():
        raise ValueError(f"expected a weight of at least 0 per picture ({y.size}), not all 0; got shape {w.shape}")
    return y.astype(np.int64), p, w
