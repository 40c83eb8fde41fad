"""Does the cascade beat its best single member, and at what cost? On simulated experts, or on recorded opinions.

    python benchmarks/cascade_study.py                                   # 5 seeds, 10,000 cases each
    python benchmarks/cascade_study.py --traces FILE --profile FILE      # labelled JSON lines, out of fold by group
    python benchmarks/cascade_study.py --traces FILE --profile FILE --bands  # exit bands of the profile as it is

Simulated: ten experts in three tiers whose errors are correlated (all share some, relatives share more) and who are
badly calibrated: too sure, biased, and one of them says a flat no to 1 % of all pictures. Everything is fitted on
3,000 other cases. Recorded: every fit is made on other groups (cameras, places) than the pictures it is judged on;
small pictures (224 x 224, as validators sent them in January 2026) and larger ones are fitted together and shown apart.

A single member gets all that a fit can do for one: calibration, conditions, the shift that puts its best decision at
0.5. Cost is milliseconds from the first question to the answer; members of one tier work side by side. Every measure is
what it would be with as much road work as the profile's prevalence says. Intervals are 95 % bootstrap; the difference
between cascade and best single member is a paired bootstrap.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cascade.calibration import Array
from cascade.conditions import of_size
from cascade.data import Data
from cascade.fit import learn
from cascade.measures import class_weight, paired_gain
from cascade.profile import Member, Profile, Tier, load
from cascade.resampling import Index, group_folds, splits
from cascade.routes import bands, choose_band, course, course_out_of_fold
from cascade.trace import read_all
from models import metrics

BANDS = ((0.5, 0.5), (0.25, 0.5), (0.1, 0.5), (0.05, 0.5), (0.02, 0.5), (0.1, 0.75), (0.1, 0.9), (0.0, 1.0))
SHOWN = {"mcc": "MCC", "auc": "AUC", "brier": "Brier", "ece": "ECE"}


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
    methods: dict[str, Outcome] = {"best single, as it is": single(train, test, profile, fitted=False)}
    methods["best single, fitted"] = single(train, test, profile, fitted=True)
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


def single(train: Data, test: Data, profile: Profile, *, fitted: bool) -> Outcome:
    """The member with the best MCC on `train`. Where it has no opinion the prior is answered."""
    weight = class_weight(train.y, profile.prevalence)
    candidates = []
    for column, key in enumerate(train.models):
        tier = next(t for t in profile.tiers if key in [member.model for member in t.members])
        there = profile.tiers.index(tier)
        alone = profile.model_copy(update={"tiers": (_only(tier, key),), "second_questions": ()})
        one_train, one_test = (
            replace(data, models=(key,), x=data.x[:, [column]], milliseconds=data.milliseconds[:, [there]])
            for data in (train, test)
        )
        if fitted:
            alone = alone.model_copy(update={"fit": learn(one_train, alone)})
        on_train, on_test = (course(data, alone).p[:, 0] for data in (one_train, one_test))
        worth = metrics.mcc(train.y, on_train, weight=weight)
        candidates.append((worth, Outcome(on_test, test.milliseconds[:, there])))
    return max(candidates, key=lambda candidate: candidate[0])[1]


def _only(tier: Tier, key: str) -> Tier:
    """The tier with one member, at full weight."""
    member = next(member for member in tier.members if member.model == key)
    return tier.model_copy(update={"members": (member.model_copy(update={"weight": 1.0}),)})


def out_of_fold(data: Data, profile: Profile, share: float) -> dict[str, Outcome]:
    """`compare` with every picture judged by fits on other groups."""
    p: dict[str, Array] = {}
    ms: dict[str, Array] = {}
    for train, test in splits(group_folds(data.groups, data.y)):
        for name, outcome in compare(data.part(train), data.part(test), profile, share).items():
            p.setdefault(name, np.empty(len(data.y)))[test] = outcome.p
            ms.setdefault(name, np.empty(len(data.y)))[test] = outcome.milliseconds
    return {name: Outcome(p[name], ms[name]) for name in p}


def show(data: Data, methods: Mapping[str, Outcome], prevalence: float) -> dict[str, float]:
    """The table, and cascade minus best single member. Gives the MCC of each method."""
    weight = class_weight(data.y, prevalence)
    print(f"| | {' | '.join(SHOWN.values())} | mean ms |\n|---|{'---|' * (len(SHOWN) + 1)}")
    found = {}
    for name, outcome in methods.items():
        row = metrics.grouped_summary(data.y, outcome.p, data.groups, weight=weight)
        cells = [metrics.told(row[key], 3) for key in SHOWN]
        print(f"| {name} | {' | '.join(cells)} | {np.average(outcome.milliseconds, weights=weight):.0f} |")
        found[name] = float(row["mcc"]["value"])
    cascade, best = list(methods.values())[-1], methods["best single, fitted"]
    gain = paired_gain(data.y, cascade.p, best.p, weight, data.groups)
    print(f"\ncascade - best single, fitted: MCC {metrics.gained(*gain, digits=4)}\n")
    return found


def show_by_size(data: Data, methods: Mapping[str, Outcome], prevalence: float) -> None:
    """The same for the pictures of each size."""
    sizes = np.array([of_size(size) for size in data.sizes])
    for size in np.unique(sizes):
        rows: Index = np.flatnonzero(sizes == size)
        print(f"### {size}: {len(rows)} pictures, {int(data.y[rows].sum())} road work\n")
        part = {name: Outcome(outcome.p[rows], outcome.milliseconds[rows]) for name, outcome in methods.items()}
        show(data.part(rows), part, prevalence)


def show_bands(data: Data, profile: Profile) -> None:
    """What the profile without a fit asks and says under each exit band; MCC gained over its own band is paired."""
    weight = class_weight(data.y, profile.prevalence)
    way = course(data, profile)
    own, *_ = way.outcome(profile.band)
    print("| exit band | asked, road work | asked, clear | mean ms | MCC | gained over the profile's own | Brier |")
    print(f"|---|{'---|' * 6}")
    for band in dict.fromkeys((profile.band, *BANDS)):
        p, milliseconds, tiers = way.outcome(band)
        row = metrics.grouped_summary(data.y, p, data.groups, weight=weight)
        asked = [f"{np.mean(tiers[data.y == label].sum(axis=1) > 1):.1%}" for label in (1, 0)]
        gain = metrics.gained(*paired_gain(data.y, p, own, weight, data.groups), digits=4)
        cells = [*asked, f"{np.average(milliseconds, weights=weight):.0f}", metrics.told(row["mcc"], 3), gain]
        print(f"| {band[0]} to {band[1]} | {' | '.join(cells)} | {metrics.told(row['brier'], 3)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--traces", type=Path, help="labelled trace lines, made with every tier asked")
    parser.add_argument("--profile", default="embedded", help="profile the traces are of (default %(default)s)")
    parser.add_argument("--share", type=float, default=0.25, help="of the full cost (default %(default)s)")
    parser.add_argument("--bands", action="store_true", help="compare exit bands of the profile as it is instead")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.traces:
        profile = load(arguments.profile).model_copy(update={"fit": None})
        with arguments.traces.open(encoding="utf-8") as lines:
            data = Data.of(list(read_all(lines)), profile)
        print(f"{len(data.y)} recorded pictures, {int(data.y.sum())} road work, {len(set(data.groups))} groups\n")
        if arguments.bands:
            show_bands(data, profile)
            return
        methods = out_of_fold(data, profile, arguments.share)
        show(data, methods, profile.prevalence)
        show_by_size(data, methods, profile.prevalence)
        return
    profile = simulated_profile()
    found = []
    for seed in range(arguments.seeds):
        train, test = simulate(3_000, 1_000 + seed), simulate(arguments.cases, seed)
        print(f"seed {seed}: {arguments.cases} cases\n")
        found.append(show(test, compare(train, test, profile, arguments.share), profile.prevalence))
    print("MCC over the seeds: mean (least to most)\n")
    for name in found[0]:
        values = [row[name] for row in found]
        print(f"- {name}: {np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")


if __name__ == "__main__":
    main()
