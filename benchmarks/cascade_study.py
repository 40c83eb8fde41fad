"""Does the cascade beat its best single member, and at what cost? On simulated experts, or on recorded opinions.

    python benchmarks/cascade_study.py                                   # 5 seeds, 10,000 cases each
    python benchmarks/cascade_study.py --traces FILE --profile embedded  # labelled JSON lines, out of fold by group

Simulated: ten experts in three tiers whose errors are correlated (all share some, relatives share more) and who are
badly calibrated: too sure, biased, and one of them says a flat no to 1 % of all pictures. Everything is fitted on
3,000 other cases. Recorded: every fit is made on other groups (cameras, places) than the pictures it is judged on.

Cost is milliseconds from the first question to the answer; members of one tier work side by side. Intervals are 95 %
bootstrap; the difference between cascade and best single member is a paired bootstrap.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cascade.calibration import Array, sigmoids
from cascade.data import Data
from cascade.estimation import choose_calibration
from cascade.fit import learn
from cascade.measures import class_weight, weighted_mcc
from cascade.profile import Member, Profile, Tier, load
from cascade.resampling import Labels, group_folds, resamples, splits
from cascade.routes import bands, choose_band, course, course_out_of_fold
from cascade.trace import read_all
from models.metrics import bootstrap, brier, ece, mcc

RESAMPLES = 500
Metric = Callable[[Labels, Array], float]


@dataclass(frozen=True)
class Expert:
    """quality: distance of the two labels' scores, in standard deviations of its error. sure: how many times too sure
    it is. bias: log-odds it adds. family: experts of one family share more of their error."""

    key: str
    quality: float
    sure: float
    bias: float
    family: str


TIERS: dict[str, tuple[float, tuple[Expert, ...]]] = {  # name: (milliseconds, experts)
    "encoders": (
        20.0,
        (
            Expert("encoder-a", 2.6, 2.5, 0.0, "encoder"),
            Expert("encoder-b", 2.5, 3.0, 0.8, "encoder"),
            Expert("encoder-c", 2.2, 2.0, -0.5, "encoder"),
        ),
    ),
    "detectors": (
        80.0,
        (
            Expert("detector-a", 2.0, 1.5, 1.0, "detector"),
            Expert("detector-b", 2.0, 2.0, 1.2, "detector"),
            Expert("detector-c", 1.8, 1.5, 0.5, "detector"),
            Expert("detector-d", 1.5, 1.0, 0.0, "detector"),
        ),
    ),
    "vlms": (
        400.0,
        (
            Expert("vlm-small", 2.4, 4.0, 1.5, "vlm"),
            Expert("vlm-middle", 2.7, 4.0, 1.0, "vlm"),
            Expert("vlm-large", 3.2, 5.0, -1.0, "vlm"),
        ),
    ),
}
SHARED, FAMILY = 0.25, 0.35  # shares of an expert's error variance
FLAT_NO = ("detector-d", 0.01, -15.0)  # who says it, to what share of pictures, with what log-odds


def simulated_profile() -> Profile:
    tiers = tuple(
        Tier(name=name, expected_ms=ms, members=tuple(Member(model=e.key, weight=0.2) for e in experts))
        for name, (ms, experts) in TIERS.items()
    )
    return Profile(name="simulated", band=(0.1, 0.9), tiers=tiers)


def simulate(n: int, seed: int) -> Data:
    """`n` cases of all experts, half of them road work."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    experts = [expert for _, members in TIERS.values() for expert in members]
    shared = rng.normal(size=n)
    family = {name: rng.normal(size=n) for name in sorted({e.family for e in experts})}
    columns = []
    for e in experts:
        own = rng.normal(size=n)
        error = np.sqrt(SHARED) * shared + np.sqrt(FAMILY) * family[e.family] + np.sqrt(1 - SHARED - FAMILY) * own
        score = e.quality * ((y - 0.5) * e.quality + error)  # log-odds, were this the only expert and honest
        said = e.sure * score + e.bias
        columns.append(np.where(rng.random(n) < FLAT_NO[1], FLAT_NO[2], said) if e.key == FLAT_NO[0] else said)
    milliseconds = np.tile([ms for ms, _ in TIERS.values()], (n, 1))
    groups = tuple(f"camera {g}" for g in rng.integers(0, 50, n))
    x = np.clip(np.column_stack(columns), -20, 20)
    return Data(tuple(e.key for e in experts), x, y, groups, milliseconds, "", ((640, 360),) * n, ({},) * n)


@dataclass(frozen=True)
class Outcome:
    """What one way to decide says of each picture, and what it takes. p, milliseconds (N,)."""

    p: Array
    milliseconds: Array


def compare(train: Data, test: Data, profile: Profile, share: float) -> dict[str, Outcome]:
    """Each way to decide, fitted on `train`, on the pictures of `test`. share: of the cost of asking everybody that the
    cascade may take."""
    everybody = test.milliseconds.sum(axis=1)
    methods: dict[str, Outcome] = {"best single, as it is": single(train, test, profile, calibrated=False)}
    methods["best single, calibrated"] = single(train, test, profile, calibrated=True)
    for name, method in (
        ("vote, 7 of 10", "vote"),
        ("geometric mean", "geometric-mean"),
        ("sum of log-odds", "log-odds"),
    ):
        plain = profile.model_copy(update={"fusion": method, "fit": None})
        methods[name] = Outcome(course(test, plain).p[:, -1], everybody)
    fit = learn(train, profile)
    fitted = course(test, profile.model_copy(update={"fit": fit}))
    methods["stack"] = Outcome(fitted.p[:, -1], everybody)
    budget = share * float(train.milliseconds.sum(axis=1).mean())
    out = course_out_of_fold(train, profile)
    band = choose_band(bands(out, train.y, class_weight(train.y, profile.prevalence)), budget_ms=budget)
    p, milliseconds, _ = fitted.outcome((band.low, band.high))
    methods[f"cascade, aimed at {share:.0%} of the cost"] = Outcome(p, milliseconds)
    return methods


def single(train: Data, test: Data, profile: Profile, *, calibrated: bool) -> Outcome:
    """The member with the best MCC on `train`. Where it has no opinion the prior is answered."""
    candidates = []
    for column in range(len(train.models)):
        seen, heard = ~np.isnan(train.x[:, column]), ~np.isnan(test.x[:, column])
        z_train, z_test = train.x[seen, column], test.x[heard, column]
        groups = [group for group, there in zip(train.groups, seen, strict=True) if there]
        if calibrated:
            fitted, _ = choose_calibration(z_train, train.y[seen], group_folds(groups, train.y[seen]))
            z_train, z_test = fitted.apply(z_train), fitted.apply(z_test)
        on_train, on_test = np.full(len(train.y), profile.prior), np.full(len(test.y), profile.prior)
        on_train[seen], on_test[heard] = sigmoids(z_train), sigmoids(z_test)
        tier = next(i for i, t in enumerate(profile.tiers) if train.models[column] in [m.model for m in t.members])
        candidates.append((mcc(train.y, on_train), Outcome(on_test, test.milliseconds[:, tier])))
    return max(candidates, key=lambda candidate: candidate[0])[1]


def out_of_fold(data: Data, profile: Profile, share: float) -> dict[str, Outcome]:
    """`compare` with every picture judged by fits on other groups."""
    p: dict[str, Array] = {}
    ms: dict[str, Array] = {}
    for train, test in splits(group_folds(data.groups, data.y)):
        for name, outcome in compare(data.part(train), data.part(test), profile, share).items():
            p.setdefault(name, np.empty(len(data.y)))[test] = outcome.p
            ms.setdefault(name, np.empty(len(data.y)))[test] = outcome.milliseconds
    return {name: Outcome(p[name], ms[name]) for name in p}


def show(y: Labels, groups: tuple[str, ...], methods: Mapping[str, Outcome]) -> None:
    """The table, and cascade minus best single member."""
    by_group = groups if len(set(groups)) >= 10 else None
    print("| | MCC | Brier | ECE | mean ms |\n|---|---|---|---|---|")
    for name, outcome in methods.items():
        cells = [cell(y, outcome.p, metric, by_group) for metric in (mcc, brier, ece)]
        print(f"| {name} | {' | '.join(cells)} | {outcome.milliseconds.mean():.0f} |")
    cascade, best = list(methods.values())[-1], methods["best single, calibrated"]
    gain, low, high = paired(y, groups, cascade.p, best.p)
    print(f"\ncascade - best single, calibrated: MCC {gain:+.4f} [{low:+.4f}, {high:+.4f}]")


def cell(y: Labels, p: Array, metric: Metric, groups: tuple[str, ...] | None) -> str:
    interval = bootstrap(y, p, metric, n=RESAMPLES, groups=groups)
    return f"{metric(y, p):.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def paired(y: Labels, groups: tuple[str, ...], p: Array, q: Array) -> tuple[float, float, float]:
    """MCC of p minus MCC of q, with its interval."""
    differences = [
        weighted_mcc(y, p > 0.5, drawn) - weighted_mcc(y, q > 0.5, drawn) for drawn in resamples(groups, RESAMPLES, 0)
    ]
    low, high = np.percentile(differences, [2.5, 97.5])
    return mcc(y, p) - mcc(y, q), float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--traces", type=Path, help="labelled trace lines, made with every tier asked")
    parser.add_argument("--profile", default="embedded", help="profile the traces are of (default %(default)s)")
    parser.add_argument("--share", type=float, default=0.25, help="of the full cost (default %(default)s)")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.traces:
        profile = load(arguments.profile).model_copy(update={"fit": None})
        with arguments.traces.open(encoding="utf-8") as lines:
            data = Data.of(list(read_all(lines)), profile)
        print(f"{len(data.y)} recorded pictures, {int(data.y.sum())} road work, {len(set(data.groups))} groups\n")
        show(data.y, data.groups, out_of_fold(data, profile, arguments.share))
        return
    profile = simulated_profile()
    summary = []
    for seed in range(arguments.seeds):
        train, test = simulate(3_000, 1_000 + seed), simulate(arguments.cases, seed)
        methods = compare(train, test, profile, arguments.share)
        print(f"\nseed {seed}: {arguments.cases} cases\n")
        show(test.y, test.groups, methods)
        summary.append({name: mcc(test.y, outcome.p) for name, outcome in methods.items()})
    print("\nMCC over the seeds: mean (least to most)\n")
    for name in summary[0]:
        values = [row[name] for row in summary]
        print(f"- {name}: {np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")


if __name__ == "__main__":
    main()
