"""Everything a profile can learn from labelled opinions: calibrations, weights per set of members, intervals, what the
conditions of a picture change, and the shift that puts the decision of best MCC at 0.5.

Fits shrink towards what is known without them: a calibration towards the identity, the pooled weights towards the
profile's, those of one set of members towards the pooled ones, a condition towards no difference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from cascade.calibration import Array, Calibration, Platt, logits
from cascade.conditions import COVARIATES, names
from cascade.data import LEAST, Data, enough
from cascade.estimation import choose_calibration, fit_interval, log_losses, logistic
from cascade.fusion import Fit, Stack, subset_key
from cascade.measures import class_weight, mcc_at
from cascade.profile import Profile
from cascade.resampling import Index, Labels, group_folds, resamples, splits

CONDITION_RIDGE = 5.0  # pull of a condition towards no difference: its pictures' worth of curvature
RESAMPLES = 200


def learn(data: Data, profile: Profile, now: datetime | None = None) -> Fit:
    """Everything, from all of `data`; the band is left as the profile has it."""
    folds = group_folds(data.groups, data.y)
    members, x = _calibrated(data, folds)
    pooled = _pooled(x, data, profile)
    fit = Fit(
        profile=profile.name,
        date=(now or datetime.now(UTC)).isoformat(timespec="seconds"),
        data_sha256=data.sha256,
        n=len(data.y),
        prevalence=float(data.y.mean()),
        band=profile.band,
        members=members,
        pooled=pooled,
        subsets=_stacks(x, data, profile, folds, pooled),
    )
    fit = fit.model_copy(update={"conditions": _conditions(data, _fused(data, fit, profile, fit.prevalence), folds)})
    shift = _shift(data, _fused(data, fit, profile, profile.prevalence), profile.prevalence)
    return fit.model_copy(update={"shift": shift})


def _calibrated(data: Data, folds: Index) -> tuple[dict[str, Calibration], Array]:
    """A calibration of each member with enough opinions, and all opinions (N, M) after it."""
    members, x = {}, data.x.copy()
    for column, key in enumerate(data.models):
        seen = ~np.isnan(data.x[:, column])
        if enough(data.y[seen], folds[seen]):
            members[key] = choose_calibration(data.x[seen, column], data.y[seen], folds[seen])[0]
            x[seen, column] = members[key].apply(data.x[seen, column])
    return members, x


def _pooled(x: Array, data: Data, profile: Profile) -> Stack:
    """Weights for any set of members: silence counts as 0. One of weight 0 is not heard, fit or no fit."""
    defaults = {member.model: member.weight for member in profile.members}
    centre = np.array([*(defaults[key] for key in data.models), 0.0])
    heard = np.flatnonzero(centre[:-1] > 0)
    coefficients = np.zeros(len(centre))
    chosen = np.append(heard, len(centre) - 1)
    coefficients[chosen] = logistic(np.nan_to_num(x)[:, heard], data.y, centre[chosen])
    weights = dict(zip(data.models, map(float, coefficients[:-1]), strict=True))
    return Stack(weights=weights, bias=float(coefficients[-1]), n=len(data.y))


def _stacks(x: Array, data: Data, profile: Profile, folds: Index, pooled: Stack) -> dict[str, Stack]:
    """A pool of its own for each set of members that answered often enough."""
    stacks = {}
    for subset in _subsets(data, profile):
        rows = np.flatnonzero(~np.isnan(x[:, subset]).any(axis=1))
        if enough(data.y[rows], folds[rows]):
            key = subset_key(data.models[column] for column in subset)
            stacks[key] = _stack(x[rows][:, subset], data, rows, folds[rows], pooled, subset)
    return stacks


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


def _fused(data: Data, fit: Fit, profile: Profile, prevalence: float) -> Array:
    """The log-odds (N,) that `fit` gives to all opinions of each picture, where road work has this prevalence."""
    fusion = profile.model_copy(update={"fit": fit, "prevalence": prevalence}).fused()
    return logits(data.estimates(fusion, data.models)[0])


def _conditions(data: Data, z: Array, folds: Index) -> dict[str, Platt]:
    """What each condition changes in the fused log-odds z (N,). One covariate after the other, on what those before it
    left; kept only where the log loss out of fold gets better for certain."""
    known = data.known()
    found: dict[str, Platt] = {}
    for covariate in COVARIATES:
        after, out, maps = z.copy(), z.copy(), {}
        for name in names(covariate):
            rows = np.flatnonzero([name in conditions for conditions in known])
            if len(rows) == len(z) or not enough(data.y[rows], folds[rows]):
                continue  # all pictures: the calibration knows already; too few: nobody can know
            maps[name] = _condition(z[rows], data.y[rows])
            after[rows] = maps[name].apply(z[rows])
            for train, test in splits(folds[rows]):
                out[rows[test]] = _condition(z[rows[train]], data.y[rows[train]]).apply(z[rows[test]])
        gain = log_losses(data.y, z) - log_losses(data.y, out)
        drawn = [float(np.average(gain, weights=w)) for w in resamples(data.groups, RESAMPLES, seed=0)]
        if maps and np.percentile(drawn, 2.5) > 0.0:
            found |= maps
            z = after
    return found


def _condition(z: Array, y: Labels) -> Platt:
    slope, bias = logistic(z[:, None], y, np.array([1.0, 0.0]), CONDITION_RIDGE)
    return Platt(slope=float(slope), bias=float(bias))


def _shift(data: Data, z: Array, prevalence: float) -> float:
    """What moves the decision of best MCC to 0, if 100 resamples agree that it lies elsewhere; 0 otherwise."""
    candidates = np.linspace(-2.0, 2.0, 81)
    weight = class_weight(data.y, prevalence)
    best = []
    for drawn in resamples(data.groups, 100, seed=0):
        scores = mcc_at(data.y, z, weight * drawn, candidates)
        best.append(float(candidates[scores >= scores.max() - 1e-12].mean()))  # the middle of a plateau
    low, middle, high = np.percentile(best, [2.5, 50.0, 97.5])
    return 0.0 if low <= 0.0 <= high else -float(middle)
