"""What `calibrate` reports: a profile before and after its fit, and whether each tier earns its cost.

Everything is out of fold, the choice of the band included, and folds never split a group (pictures of one camera or
place), because near-copies of a picture on both sides would flatter any fit. Every measure is what it would be if road
work were as frequent in the pictures as the profile's `prevalence` says it is where the answers are used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cascade.calibration import Array
from cascade.data import Data
from cascade.fit import learn
from cascade.fusion import Fit
from cascade.measures import class_weight, paired_gain
from cascade.profile import Profile
from cascade.resampling import Labels, group_folds, splits
from cascade.routes import Band, Course, Mask, bands, choose_band, course, course_out_of_fold
from cascade.trace import Record
from models import metrics


@dataclass(frozen=True)
class Outcome:
    """What one way to decide says of the pictures, and what it takes. p (N,), tiers asked (N, T).

    worth: `metrics.grouped_summary`, and "mean_ms" and "escalated" (share that asked a second tier).
    """

    p: Array
    asked: Mask
    worth: Mapping[str, Any]

    @classmethod
    def of(cls, data: Data, weight: Array, way: tuple[Array, Array, Mask]) -> Outcome:
        p, milliseconds, asked = way
        worth = metrics.grouped_summary(data.y, p, data.groups, weight=weight)
        worth["mean_ms"] = float(np.average(milliseconds, weights=weight))
        worth["escalated"] = float(np.average(asked.sum(axis=1) > 1, weights=weight))
        return cls(p, asked, worth)


@dataclass(frozen=True)
class Fitted:
    """What `fit_profile` learned and what it is worth.

    profile: with fit and band, ready to serve. before: the default profile. after: the fitted one, out of fold in every
    respect. first_tier, every_tier: the same with that much asked. gain: MCC after minus before, and its interval
    (paired). candidates: what each exit band would give; chosen: the one in `fit`. labels, weight (N,).
    """

    profile: Profile
    fit: Fit
    before: Outcome
    after: Outcome
    first_tier: Outcome
    every_tier: Outcome
    gain: tuple[float, float, float]
    candidates: Sequence[Band]
    chosen: Band
    labels: Labels
    weight: Array

    @property
    def ways(self) -> dict[str, Outcome]:
        """By the name that tables give them."""
        ways = {"before": self.before, "after": self.after}
        if len(self.profile.tiers) > 1:
            ways |= {"first tier": self.first_tier, "every tier": self.every_tier}
        return ways

    def save(self, path: Path) -> None:
        """Write the artefact (see `cascade.profile.fit_path`), all or nothing."""
        draft = path.with_name(path.name + ".new")
        draft.write_text(self.fit.model_dump_json(indent=1) + "\n", encoding="utf-8")
        draft.replace(path)


def fit_profile(
    records: Sequence[Record],
    profile: Profile,
    *,
    max_lost_mcc: float = 0.01,
    budget_ms: float | None = None,
    now: datetime | None = None,
) -> Fitted:
    """Learn everything `profile` can learn from labelled records, best taken with `Profile.asking_all`.

    Raises FitError if there are too few.
    """
    default = profile.model_copy(update={"fit": None})
    data = Data.of(records, default)
    weight = class_weight(data.y, profile.prevalence)
    out = course_out_of_fold(data, default)
    choose = partial(choose_band, max_lost_mcc=max_lost_mcc, budget_ms=budget_ms)
    before, after = course(data, default).outcome(default.band), _served(out, data, weight, choose)
    candidates = bands(out, data.y, weight)
    chosen = choose(candidates)
    fit = learn(data, default, now).model_copy(update={"band": (chosen.low, chosen.high)})
    return Fitted(
        profile=profile.model_copy(update={"fit": fit, "band": fit.band}),
        fit=fit,
        before=Outcome.of(data, weight, before),
        after=Outcome.of(data, weight, after),
        first_tier=Outcome.of(data, weight, (out.p[:, 0], out.spent[:, 0], out.concerned[:, :1])),
        every_tier=Outcome.of(data, weight, out.outcome((0.0, 1.0))),
        gain=paired_gain(data.y, after[0], before[0], weight, data.groups),
        candidates=candidates,
        chosen=chosen,
        labels=data.y,
        weight=weight,
    )


@dataclass(frozen=True, slots=True)
class TierCheck:
    """What one tier brings: MCC gained with its 95 % interval (paired bootstrap), and mean milliseconds it costs
    (negative if it saves more than it takes). earns: its gain is certain, or it saves a tenth of the time and is not
    certain to lose more MCC than was allowed."""

    tier: str
    mcc_with: float
    mcc_without: float
    gain: float
    low: float
    high: float
    added_ms: float
    earns: bool


def _served(
    out: Course, data: Data, weight: Array, choose: Callable[[Sequence[Band]], Band]
) -> tuple[Array, Array, Mask]:
    """`Course.outcome` of a course out of fold, where each picture's band, too, is chosen on other groups."""
    served = out.outcome((0.0, 1.0))
    for train, test in splits(group_folds(data.groups, data.y)):
        band = choose(bands(out.part(train), data.y[train], weight[train]))
        for whole, part in zip(served, out.part(test).outcome((band.low, band.high)), strict=True):
            whole[test] = part
    return served


def check(records: Sequence[Record], profile: Profile, *, max_lost_mcc: float = 0.01, n: int = 1000) -> list[TierCheck]:
    """For each tier, the cascade with it against the cascade without it, both fitted out of fold with their own band
    (chosen for at most `max_lost_mcc`). Tiers that do not earn their cost are proposed for dropping. [] for one tier.

    Raises FitError if there are too few labelled records.
    """
    if len(profile.tiers) == 1:
        return []
    default = profile.model_copy(update={"fit": None})
    data = Data.of(records, default)
    weight = class_weight(data.y, profile.prevalence)

    def served(way: Profile) -> tuple[Array, float, float]:
        """Probabilities, MCC and mean milliseconds of the cascade, out of fold."""
        own = Data.of(records, way)
        choose = partial(choose_band, max_lost_mcc=max_lost_mcc)
        p, milliseconds, _ = _served(course_out_of_fold(own, way), own, weight, choose)
        return p, metrics.mcc(data.y, p, weight=weight), float(np.average(milliseconds, weights=weight))

    p, mcc, ms = served(default)
    checks = []
    for tier in profile.tiers:
        rest = tuple(other for other in profile.tiers if other is not tier)
        q, mcc_without, ms_without = served(default.model_copy(update={"tiers": rest, "second_questions": ()}))
        gain, low, high = paired_gain(data.y, p, q, weight, data.groups, n)
        saves = ms - ms_without < -0.1 * ms_without
        earns = low > 0.0 or (saves and high >= -max_lost_mcc)
        checks.append(TierCheck(tier.name, mcc, mcc_without, gain, low, high, ms - ms_without, earns))
    return checks
