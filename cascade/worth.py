"""What `calibrate` reports: a profile before and after its fit, and whether each tier earns its cost.

Everything is out of fold, the choice of the band included, and folds never split a group (pictures of one camera or
place), because near-copies of a picture on both sides would flatter any fit. Every measure is what it would be if road
work were as frequent in the pictures as the profile's `prevalence` says it is where the answers are used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from cascade.calibration import Array
from cascade.data import Data
from cascade.fit import learn
from cascade.fusion import Fit
from cascade.measures import class_weight, paired_gain, summary, weighted_mcc
from cascade.profile import Profile
from cascade.resampling import Index, Labels, group_folds, splits
from cascade.routes import Band, bands, choose_band, course, course_out_of_fold
from cascade.trace import Record


@dataclass(frozen=True)
class Outcome:
    """What one way to decide says of the pictures, and what it takes. p, milliseconds, tiers asked (N,) each.

    worth: `cascade.measures.summary`, and "mean_ms" and "escalated" (share that asked a second tier).
    """

    p: Array
    milliseconds: Array
    tiers: Index
    worth: Mapping[str, Any]

    @classmethod
    def of(cls, data: Data, weight: Array, way: tuple[Array, Array, Index]) -> Outcome:
        p, milliseconds, tiers = way
        worth = summary(data.y, p, weight, data.groups)
        worth["mean_ms"] = float(np.average(milliseconds, weights=weight))
        worth["escalated"] = float(np.average(tiers > 1, weights=weight))
        return cls(p, milliseconds, tiers, worth)


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
    after = np.empty(len(data.y)), np.empty(len(data.y)), np.empty(len(data.y), dtype=np.int64)
    for train, test in splits(group_folds(data.groups, data.y)):
        there = bands(out.part(train), data.y[train], weight[train])  # the band, too, is chosen on other groups
        band = choose_band(there, max_lost_mcc=max_lost_mcc, budget_ms=budget_ms)
        for whole, part in zip(after, out.part(test).outcome((band.low, band.high)), strict=True):
            whole[test] = part
    before = course(data, default).outcome(default.band)
    candidates = bands(out, data.y, weight)
    chosen = choose_band(candidates, max_lost_mcc=max_lost_mcc, budget_ms=budget_ms)
    fit = learn(data, default, now).model_copy(update={"band": (chosen.low, chosen.high)})
    return Fitted(
        profile=profile.model_copy(update={"fit": fit, "band": fit.band}),
        fit=fit,
        before=Outcome.of(data, weight, before),
        after=Outcome.of(data, weight, after),
        first_tier=Outcome.of(data, weight, (out.p[:, 0], out.spent[:, 0], np.ones(len(data.y), dtype=np.int64))),
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
    (negative if it saves more than it takes). earns: its gain is certain, or it saves a tenth of the time and loses no
    more MCC than was allowed."""

    tier: str
    mcc_with: float
    mcc_without: float
    gain: float
    low: float
    high: float
    added_ms: float
    earns: bool


def check(
    records: Sequence[Record], profile: Profile, *, max_lost_mcc: float = 0.01, n: int = 1000, seed: int = 0
) -> list[TierCheck]:
    """For each tier, the cascade with it against the cascade without it, both fitted out of fold with their own band
    (chosen for at most `max_lost_mcc`). Tiers that do not earn their cost are proposed for dropping. [] for one tier.

    Raises FitError if there are too few labelled records.
    """
    if len(profile.tiers) == 1:
        return []
    p_with, ms_with, y, weight, groups = _cascade(records, profile, max_lost_mcc)
    checks = []
    for tier in profile.tiers:
        rest = profile.model_copy(
            update={"tiers": tuple(t for t in profile.tiers if t is not tier), "second_questions": (), "fit": None}
        )
        p_without, ms_without, *_ = _cascade(records, rest, max_lost_mcc)
        gain, low, high = paired_gain(y, p_with, p_without, weight, groups, n, seed)
        with_, without = weighted_mcc(y, p_with > 0.5, weight), weighted_mcc(y, p_without > 0.5, weight)
        added = float(np.average(ms_with, weights=weight) - np.average(ms_without, weights=weight))
        saves = added < -0.1 * float(np.average(ms_without, weights=weight))
        earns = low > 0.0 or (saves and gain >= -max_lost_mcc)
        checks.append(TierCheck(tier.name, with_, without, gain, low, high, added, earns))
    return checks


def _cascade(
    records: Sequence[Record], profile: Profile, max_lost_mcc: float
) -> tuple[Array, Array, Labels, Array, tuple[str, ...]]:
    """(probabilities, milliseconds, labels, class weights, groups) of the cascade, out of fold."""
    default = profile.model_copy(update={"fit": None})
    data = Data.of(records, default)
    weight = class_weight(data.y, profile.prevalence)
    out = course_out_of_fold(data, default)
    band = choose_band(bands(out, data.y, weight), max_lost_mcc=max_lost_mcc)
    p, ms, _ = out.outcome((band.low, band.high))
    return p, ms, data.y, weight, data.groups
