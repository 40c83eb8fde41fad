"""What a cascade says after each tier, and the exit band that follows: time saved against MCC lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cascade.calibration import Array
from cascade.data import Data
from cascade.fit import learn
from cascade.profile import Profile
from cascade.resampling import Index, Labels, group_folds, splits
from models import metrics

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Course:
    """What a cascade would have said of each picture after each tier: p, low, high and milliseconds so far (N, T).
    concerned (N, T): whether the tier has a member that looks at pictures of this size."""

    p: Array
    low: Array
    high: Array
    spent: Array
    concerned: Mask

    def part(self, rows: Index) -> Course:
        return Course(self.p[rows], self.low[rows], self.high[rows], self.spent[rows], self.concerned[rows])

    def outcome(self, band: tuple[float, float]) -> tuple[Array, Array, Mask]:
        """(probabilities (N,), milliseconds (N,), tiers asked (N, T)) with this band."""
        out = (self.high < band[0]) | (self.low > band[1])
        out[:, -1] = True
        last = out.argmax(axis=1)
        rows = np.arange(len(last))
        asked = self.concerned & (np.arange(out.shape[1]) <= last[:, None])
        return self.p[rows, last], self.spent[rows, last], asked


def course(data: Data, profile: Profile) -> Course:
    """The course of every picture of `data` under `profile`, all tiers asked."""
    fusion = profile.fused()
    heard: list[str] = []
    estimates = []
    for tier in profile.tiers:
        heard += [member.model for member in tier.members]
        estimates.append(data.estimates(fusion, heard))
    p, low, high = np.array(estimates).transpose(1, 2, 0)
    return Course(p, low, high, data.milliseconds.cumsum(axis=1), _concerned(data, profile))


def course_out_of_fold(data: Data, profile: Profile) -> Course:
    """The same, with each picture's fit learned from other groups only."""
    parts = np.empty((4, len(data.y), len(profile.tiers)))
    for train, test in splits(group_folds(data.groups, data.y)):
        fit = learn(data.part(train), profile)
        c = course(data.part(test), profile.model_copy(update={"fit": fit}))
        parts[:, test] = c.p, c.low, c.high, c.spent
    p, low, high, spent = parts
    return Course(p, low, high, spent, _concerned(data, profile))


def _concerned(data: Data, profile: Profile) -> Mask:
    return np.array([[tier.concerns(size) for tier in profile.tiers] for size in data.sizes])


@dataclass(frozen=True, slots=True)
class Band:
    """What an exit band gives: MCC and mean milliseconds per picture, both weighted by class."""

    low: float
    high: float
    mcc: float
    mean_ms: float


def bands(course: Course, y: Labels, weight: Array) -> list[Band]:
    """Every band of a fixed grid; (0, 1), which asks every tier, is the first."""
    lows = np.array([0.0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5])
    found = []
    for low in map(float, lows):
        for high in map(float, 1.0 - lows):
            p, spent, _ = course.outcome((low, high))
            mean_ms = float(np.average(spent, weights=weight))
            found.append(Band(low, high, metrics.mcc(y, p, weight=weight), mean_ms))
    return found


def choose_band(candidates: Sequence[Band], *, max_lost_mcc: float = 0.01, budget_ms: float | None = None) -> Band:
    """The band of least cost whose MCC is at most `max_lost_mcc` below asking every tier (the first candidate); or,
    given a budget in mean milliseconds per picture, the band of best MCC within it."""
    if budget_ms is not None:
        affordable = [band for band in candidates if band.mean_ms <= budget_ms]
        return max(affordable or [min(candidates, key=lambda b: b.mean_ms)], key=lambda b: (b.mcc, -b.mean_ms))
    good = [band for band in candidates if band.mcc >= candidates[0].mcc - max_lost_mcc]
    return min(good, key=lambda b: (b.mean_ms, -b.mcc))
