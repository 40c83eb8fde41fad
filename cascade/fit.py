"""What `calibrate` learns from labelled records: calibrations, weights per set of members, the band; and whether each
tier earns its cost. Applied by `cascade.calibration` and `cascade.fusion`.

Everything that is reported is out of fold, and folds never split a group (pictures of one camera or place), because
near-copies of a picture on both sides would flatter any fit. Fits shrink towards what is known without them: a
calibration towards the identity, the pooled weights towards the profile's, those of one set of members towards the
pooled ones.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from cascade.calibration import Array, bounded, logits
from cascade.estimation import (
    Index,
    Labels,
    choose_calibration,
    class_weight,
    fit_interval,
    group_folds,
    logistic,
    mcc_at,
    resamples,
    splits,
    weighted_mcc,
)
from cascade.fusion import Fit, Stack, subset_key
from cascade.profile import Profile, Tier
from cascade.trace import Record
from models.metrics import summary

LEAST = 20  # pictures of each label that a set of members needs for a fit of its own


class FitError(ValueError):
    """The records do not allow a fit. The message says what is missing."""


@dataclass(frozen=True)
class Data:
    """Labelled opinions as arrays.

    x (N, M): logits, NaN where a member has no opinion. milliseconds (N, T): of each tier. sha256: of pictures and
    labels.
    """

    models: tuple[str, ...]
    x: Array
    y: Labels
    groups: tuple[str, ...]
    milliseconds: Array
    sha256: str

    @classmethod
    def of(cls, records: Sequence[Record], profile: Profile) -> Data:
        """From the labelled ones of `records`; a tier nobody recorded counts its expected time. Raises FitError."""
        known = [record for record in records if record.label >= 0]
        labels = np.array([record.label for record in known], dtype=np.int64)
        positives = int(labels.sum())
        if min(positives, len(known) - positives) < LEAST:
            raise FitError(
                f"expected at least {LEAST} labelled pictures of road work and {LEAST} without, got {positives} and "
                f"{len(known) - positives}"
            )
        models = tuple(member.model for member in profile.members)
        x = np.full((len(known), len(models)), np.nan)
        for row, record in enumerate(known):
            for opinion in record.verdict.opinions:
                if opinion.model in models:
                    x[row, models.index(opinion.model)] = bounded(opinion.logit)
        milliseconds = np.array([[_tier_ms(tier, record) for tier in profile.tiers] for record in known])
        lines = sorted(f"{record.sha256} {record.label}" for record in known)
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        return cls(models, x, labels, tuple(record.group or record.sha256 for record in known), milliseconds, digest)

    def part(self, rows: Index) -> Data:
        groups = tuple(self.groups[row] for row in rows)
        return Data(self.models, self.x[rows], self.y[rows], groups, self.milliseconds[rows], self.sha256)

    def heard(self, row: int, models: Sequence[str]) -> dict[str, float]:
        """The opinions of `models` on one picture, as `Fusion.estimate` wants them."""
        values = zip(self.models, self.x[row], strict=True)
        return {key: float(value) for key, value in values if key in models and not np.isnan(value)}


def _tier_ms(tier: Tier, record: Record) -> float:
    """Milliseconds of the slowest member; 0 if the picture concerns none; the expected time if none was asked."""
    members = {member.model for member in tier.members if member.concerns(record.size)}
    taken = [answer.milliseconds for answer in record.verdict.opinions if answer.model in members]
    return max(taken, default=tier.expected_ms if members else 0.0)


def learn(data: Data, profile: Profile, now: datetime | None = None) -> Fit:
    """Calibrations, weights, intervals and shift from all of `data`; the band is left as the profile has it."""
    folds = group_folds(data.groups, data.y)
    members, x = {}, data.x.copy()
    for column, key in enumerate(data.models):
        seen = ~np.isnan(data.x[:, column])
        if _enough(data.y[seen]):
            members[key] = choose_calibration(data.x[seen, column], data.y[seen], folds[seen])[0]
            x[seen, column] = members[key].apply(data.x[seen, column])
    defaults = {member.model: member.weight for member in profile.members}
    centre = np.array([*(defaults[key] for key in data.models), 0.0])
    trusted = centre[:-1] > 0  # a member of weight 0 is not heard, fit or no fit
    columns = np.flatnonzero(trusted)
    coefficients = np.zeros(len(centre))
    chosen = np.append(trusted, True)
    coefficients[chosen] = logistic(np.nan_to_num(x)[:, columns], data.y, centre[chosen])
    pooled = Stack(
        weights=dict(zip(data.models, map(float, coefficients[:-1]), strict=True)),
        bias=float(coefficients[-1]),
        n=len(data.y),
    )
    subsets = {}
    for subset in _subsets(data, profile):
        rows = np.flatnonzero(~np.isnan(x[:, subset]).any(axis=1))
        if _enough(data.y[rows]):
            key = subset_key(data.models[column] for column in subset)
            subsets[key] = _stack(x[rows][:, subset], data, rows, folds[rows], pooled, subset)
    fit = Fit(
        profile=profile.name,
        date=(now or datetime.now(UTC)).isoformat(timespec="seconds"),
        data_sha256=data.sha256,
        n=len(data.y),
        prevalence=float(data.y.mean()),
        band=profile.band,
        members=members,
        pooled=pooled,
        subsets=subsets,
    )
    return fit.model_copy(update={"shift": _shift(data, fit, profile)})


def _enough(y: Labels) -> bool:
    return min(int(y.sum()), len(y) - int(y.sum())) >= LEAST


def _subsets(data: Data, profile: Profile) -> list[list[int]]:
    """Sets of columns to fit: what was heard after each tier, and that without one of its members."""
    seen: Counter[tuple[int, ...]] = Counter()
    trusted = {member.model for member in profile.members if member.weight > 0}
    so_far: list[int] = []
    for tier in profile.tiers:
        so_far += [data.models.index(member.model) for member in tier.members if member.model in trusted]
        for row in ~np.isnan(data.x[:, so_far]):
            seen[tuple(np.array(so_far)[row])] += 1
    whole = [subset for subset, n in seen.items() if subset and n >= 2 * LEAST]
    less = [tuple(c for c in subset if c != left_out) for subset in whole for left_out in subset]
    return [list(map(int, subset)) for subset in dict.fromkeys([*whole, *less]) if subset]


def _stack(x: Array, data: Data, rows: Index, folds: Index, pooled: Stack, subset: Sequence[int]) -> Stack:
    """The pool of one set of members, shrunk towards the pooled fit; calibrated on scores out of fold."""
    names = [data.models[column] for column in subset]
    centre = np.array([*(pooled.weights[name] for name in names), pooled.bias])
    y = data.y[rows]
    z = np.empty(len(rows))
    for train, test in splits(folds):
        theta = logistic(x[train], y[train], centre)
        z[test] = x[test] @ theta[:-1] + theta[-1]
    theta = logistic(x, y, centre)
    return Stack(
        weights=dict(zip(names, map(float, theta[:-1]), strict=True)),
        bias=float(theta[-1]),
        calibration=choose_calibration(z, y, folds)[0],
        interval=fit_interval(z, y),
        n=len(rows),
    )


def _shift(data: Data, fit: Fit, profile: Profile) -> float:
    """What moves the decision of best MCC to 0.5, if 100 resamples agree that it lies elsewhere; 0 otherwise."""
    fusion = profile.model_copy(update={"fit": fit}).fused()
    p = np.array([fusion.estimate(data.heard(row, data.models)).probability for row in range(len(data.y))])
    z = logits(p)
    candidates = np.linspace(-2.0, 2.0, 81)
    weight = class_weight(data.y, profile.prevalence)
    best = []
    for drawn in resamples(data.groups, 100, seed=0):
        scores = mcc_at(data.y, z, weight * drawn, candidates)
        best.append(float(candidates[scores >= scores.max() - 1e-12].mean()))  # the middle of a plateau
    low, middle, high = np.percentile(best, [2.5, 50.0, 97.5])
    return 0.0 if low <= 0.0 <= high else -float(middle)


@dataclass(frozen=True)
class Course:
    """What a cascade would have said of each picture after each tier: p, low, high and milliseconds so far (N, T)."""

    p: Array
    low: Array
    high: Array
    spent: Array

    def outcome(self, band: tuple[float, float]) -> tuple[Array, Array, Index]:
        """(probabilities, milliseconds, tiers asked), each (N,), with this band."""
        out = (self.high < band[0]) | (self.low > band[1])
        out[:, -1] = True
        last = out.argmax(axis=1)
        rows = np.arange(len(last))
        return self.p[rows, last], self.spent[rows, last], last + 1


def course(data: Data, profile: Profile) -> Course:
    """The course of every picture of `data` under `profile`, all tiers asked."""
    fusion, tiers = profile.fused(), profile.tiers
    estimates = np.empty((3, len(data.y), len(tiers)))
    for row in range(len(data.y)):
        heard: list[str] = []
        for column, tier in enumerate(tiers):
            heard += [member.model for member in tier.members]
            e = fusion.estimate(data.heard(row, heard))
            estimates[:, row, column] = e.probability, e.low, e.high
    p, low, high = estimates
    return Course(p, low, high, data.milliseconds.cumsum(axis=1))


def course_out_of_fold(data: Data, profile: Profile) -> Course:
    """The same, with each picture's fit learned from other groups only."""
    parts = np.empty((4, len(data.y), len(profile.tiers)))
    for train, test in splits(group_folds(data.groups, data.y)):
        fit = learn(data.part(train), profile)
        c = course(data.part(test), profile.model_copy(update={"fit": fit}))
        parts[:, test] = c.p, c.low, c.high, c.spent
    return Course(*parts)


def choose_band(
    course: Course,
    y: Labels,
    weight: Array,
    *,
    max_lost_mcc: float = 0.01,
    budget_ms: float | None = None,
) -> tuple[float, float]:
    """The band of least mean milliseconds whose MCC is at most `max_lost_mcc` below asking every tier; or, given a
    budget in mean milliseconds per picture, the band of best MCC within it."""
    full = weighted_mcc(y, course.p[:, -1] > 0.5, weight)
    lows = np.array([0.0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5])
    rows = []
    for low in lows:
        for high in 1.0 - lows:
            p, spent, _ = course.outcome((low, high))
            rows.append((weighted_mcc(y, p > 0.5, weight), float(np.average(spent, weights=weight)), low, high))
    if budget_ms is not None:
        affordable = [row for row in rows if row[1] <= budget_ms] or [min(rows, key=lambda row: row[1])]
        _, _, low, high = max(affordable, key=lambda row: (row[0], -row[1]))
    else:
        good = [row for row in rows if row[0] >= full - max_lost_mcc]  # never empty: (0, 1) asks every tier
        _, _, low, high = min(good, key=lambda row: (row[1], -row[0]))
    return float(low), float(high)


@dataclass(frozen=True)
class Fitted:
    """What `fit_profile` learned and what it is worth.

    profile: with fit and band, ready to serve. before, after: `models.metrics.summary` and "mean_ms", "escalated" of
    the default profile and of the fitted one, the latter out of fold in every respect. asking_all: the same with every
    tier asked. labels (N,), probabilities_before, probabilities_after (N,): for a reliability diagram.
    tiers_asked (N,): for a routing plot.
    """

    profile: Profile
    fit: Fit
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    asking_all: Mapping[str, Any]
    labels: Labels
    probabilities_before: Array
    probabilities_after: Array
    tiers_asked: Index

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

    def band_of(rows: Index) -> tuple[float, float]:
        part = Course(out.p[rows], out.low[rows], out.high[rows], out.spent[rows])
        return choose_band(part, data.y[rows], weight[rows], max_lost_mcc=max_lost_mcc, budget_ms=budget_ms)

    out = course_out_of_fold(data, default)
    p_after, ms_after, asked = np.empty(len(data.y)), np.empty(len(data.y)), np.empty(len(data.y), dtype=np.int64)
    for train, test in splits(group_folds(data.groups, data.y)):
        p, ms, tiers = out.outcome(band_of(train))  # the band, too, is chosen on other groups
        p_after[test], ms_after[test], asked[test] = p[test], ms[test], tiers[test]
    p_before, ms_before, asked_before = course(data, default).outcome(default.band)
    p_all, ms_all, asked_all = out.outcome((0.0, 1.0))

    fit = learn(data, default, now).model_copy(update={"band": band_of(np.arange(len(data.y)))})
    return Fitted(
        profile=profile.model_copy(update={"fit": fit, "band": fit.band}),
        fit=fit,
        before=_worth(data, p_before, ms_before, asked_before),
        after=_worth(data, p_after, ms_after, asked),
        asking_all=_worth(data, p_all, ms_all, asked_all),
        labels=data.y,
        probabilities_before=p_before,
        probabilities_after=p_after,
        tiers_asked=asked,
    )


def _worth(data: Data, p: Array, ms: Array, asked: Index) -> dict[str, Any]:
    groups = data.groups if len(set(data.groups)) >= 10 else None
    extra = {"mean_ms": float(ms.mean()), "escalated": float((asked > 1).mean())}
    return {**summary(data.y, p, groups=groups), **extra}


@dataclass(frozen=True, slots=True)
class TierCheck:
    """What one tier brings: MCC gained with its 95 % interval (paired bootstrap), and mean milliseconds it costs
    (negative if it saves more than it takes). earns: its gain is certain, or it saves time and loses no more MCC than
    was allowed."""

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
            update={"tiers": tuple(t for t in profile.tiers if t is not tier), "second_question": None, "fit": None}
        )
        p_without, ms_without, *_ = _cascade(records, rest, max_lost_mcc)
        gains = [
            weighted_mcc(y, p_with > 0.5, weight * drawn) - weighted_mcc(y, p_without > 0.5, weight * drawn)
            for drawn in resamples(groups, n, seed)
        ]
        low, high = map(float, np.percentile(gains, [2.5, 97.5]))
        with_, without = weighted_mcc(y, p_with > 0.5, weight), weighted_mcc(y, p_without > 0.5, weight)
        added = float(np.average(ms_with, weights=weight) - np.average(ms_without, weights=weight))
        earns = low > 0.0 or (added < 0.0 and with_ - without >= -max_lost_mcc)
        checks.append(TierCheck(tier.name, with_, without, with_ - without, low, high, added, earns))
    return checks


def _cascade(
    records: Sequence[Record], profile: Profile, max_lost_mcc: float
) -> tuple[Array, Array, Labels, Array, tuple[str, ...]]:
    """(probabilities, milliseconds, labels, class weights, groups) of the cascade, out of fold."""
    default = profile.model_copy(update={"fit": None})
    data = Data.of(records, default)
    weight = class_weight(data.y, profile.prevalence)
    out = course_out_of_fold(data, default)
    p, ms, _ = out.outcome(choose_band(out, data.y, weight, max_lost_mcc=max_lost_mcc))
    return p, ms, data.y, weight, data.groups
