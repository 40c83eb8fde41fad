"""What a fit of a whole profile must do on experts whose errors correlate."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from cascade_helpers import profile_of, record, study_records, tier

from cascade import worth
from cascade.data import Data, FitError
from cascade.fit import learn
from cascade.measures import class_weight
from cascade.profile import Member, Profile, fit_path, load
from cascade.replay import what_if
from cascade.routes import Course, bands, choose_band, course
from cascade.worth import Fitted, check, fit_profile
from models.metrics import mcc

PROFILE = profile_of(
    tier("cheap", "a", expected_ms=20.0), tier("dear", "b", expected_ms=300.0), band=(0.1, 0.9), prevalence=0.5
)
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


@cache
def fitted() -> Fitted:
    return fit_profile(study_records(600, seed=1, missing=0.2), PROFILE, now=NOON)


def test_the_artefact_says_where_it_comes_from() -> None:
    fit = fitted().fit
    assert (fit.profile, fit.n, fit.date) == ("test", 600, "2026-11-23T12:00:00+00:00")
    assert len(fit.data_sha256) == 64
    assert fit.prevalence == pytest.approx(fitted().labels.mean())
    assert set(fit.members) == {"a", "b"}
    assert set(fit.subsets) == {"a", "b", "a+b"}


def test_calibration_gets_better_and_the_band_keeps_its_promise() -> None:
    f = fitted()
    before, after, every_tier = f.before.worth, f.after.worth, f.every_tier.worth
    print(
        f"\nout of fold: ECE {before['ece']['value']:.3f} -> {after['ece']['value']:.3f}, MCC "
        f"{before['mcc']['value']:.3f} -> {after['mcc']['value']:.3f} "
        f"(all tiers {every_tier['mcc']['value']:.3f}), {before['mean_ms']:.0f} -> {after['mean_ms']:.0f} ms"
    )
    assert after["ece"]["value"] < 0.03 < before["ece"]["value"]
    assert after["mcc"]["value"] >= every_tier["mcc"]["value"] - 0.03
    assert after["mean_ms"] < every_tier["mean_ms"]
    assert after["escalated"] == pytest.approx(np.average(f.after.asked[:, 1], weights=f.weight))
    gain, low, high = f.gain
    assert gain == pytest.approx(after["mcc"]["value"] - before["mcc"]["value"])
    assert low <= gain <= high
    assert f.chosen in f.candidates
    assert f.fit.band == (f.chosen.low, f.chosen.high)
    assert len(f.labels) == len(f.before.p) == len(f.after.p) == 600


def test_the_saved_fit_is_found_beside_the_profile(tmp_path: Path) -> None:
    path = tmp_path / "test.toml"
    path.write_text(
        'name="test"\nband=[0.1,0.9]\n[[tiers]]\nname="cheap"\nexpected_ms=20\n[[tiers.members]]\nmodel="a"\n'
        '[[tiers]]\nname="dear"\nexpected_ms=300\n[[tiers.members]]\nmodel="b"\n',
        encoding="utf-8",
    )
    fitted().save(fit_path(path))
    assert [entry.name for entry in tmp_path.iterdir() if entry.suffix != ".toml"] == ["test.fit.json"]
    assert load(path).fit == fitted().fit
    assert load(path).band == fitted().profile.band


def test_the_fitted_profile_is_better_on_pictures_it_never_saw() -> None:
    fresh = study_records(1500, seed=2, missing=0.2)
    default, learned = what_if(fresh, PROFILE), what_if(fresh, fitted().profile)
    assert learned.mcc is not None
    assert default.mcc is not None
    assert learned.mcc > default.mcc - 0.005
    promised = fitted().after.worth
    assert promised["mcc"]["low"] - 0.02 <= learned.mcc <= promised["mcc"]["high"] + 0.02


def test_correlated_members_do_not_count_twice() -> None:
    """A copy of an expert brings nothing: the stack shares the weight between the two, the plain sum doubles it."""
    records = study_records(800, seed=3)
    doubled = [
        record(
            {"a": (a := r.verdict.opinions[0].logit), "copy": a, "b": r.verdict.opinions[1].logit},
            r.label,
            group=r.group,
            sha256=r.sha256,
        )
        for r in records
    ]
    single = learn(Data.of(records, PROFILE), PROFILE)
    twins = profile_of(tier("cheap", "a", "copy"), tier("dear", "b"), band=(0.1, 0.9))
    double = learn(Data.of(doubled, twins), twins)
    one, two = single.subsets["a+b"].weights, double.subsets["a+b+copy"].weights
    assert two["a"] + two["copy"] == pytest.approx(one["a"], rel=0.1)
    assert two["b"] == pytest.approx(one["b"], rel=0.1)
    p = course(Data.of(records, PROFILE), PROFILE.model_copy(update={"fit": single})).p[:, -1]
    q = course(Data.of(doubled, twins), twins.model_copy(update={"fit": double})).p[:, -1]
    assert np.abs(p - q).mean() < 0.01


def test_with_little_data_the_fit_stays_near_what_was_known() -> None:
    records = study_records(80, seed=4, missing=1.0)
    fit = learn(Data.of(records, PROFILE), PROFILE)
    assert set(fit.members) == {"a"}
    assert set(fit.subsets) == {"a"}
    assert fit.pooled.weights["b"] == pytest.approx(1.0)  # nobody heard "b": the profile's weight stands
    one_sided = [record({"a": 1.0, "b": -1.0} if i % 2 else {"a": 1.0}, 1 - i % 2, sha256=str(i)) for i in range(100)]
    assert set(learn(Data.of(one_sided, PROFILE), PROFILE).subsets) == {"a"}  # "b" spoke on clear pictures only


def test_a_member_of_weight_0_is_not_heard_after_a_fit_either() -> None:
    muted = profile_of(tier("cheap", Member(model="a", weight=0.0)), tier("dear", "b"), band=(0.1, 0.9))
    fit = learn(Data.of(study_records(300, seed=5), muted), muted)
    assert fit.pooled.weights["a"] == 0.0
    assert set(fit.subsets) == {"b"}


def test_the_decision_of_best_mcc_is_moved_to_one_half_only_if_it_lies_elsewhere() -> None:
    records = study_records(600, seed=6)
    assert learn(Data.of(records, PROFILE), PROFILE).shift == 0.0
    # Pictures that are surely clear and few that are hard: the best decision for MCC is far from even odds.
    rng = np.random.default_rng(7)
    skewed = []
    for i in range(2000):
        label = int(rng.random() < 0.5)
        z = rng.normal(4.0 if label and rng.random() < 0.6 else -4.0, 1.0) if label else rng.normal(-4.0, 1.0)
        skewed.append(record({"a": float(z)}, label, group=str(i % 50), sha256=str(i)))
    profile = profile_of(tier("cheap", "a"), prevalence=0.02)
    data = Data.of(skewed, profile)
    fit = learn(data, profile)

    def worth(shift: float) -> float:
        shifted = profile.model_copy(update={"fit": fit.model_copy(update={"shift": shift})})
        return mcc(data.y, course(data, shifted).p[:, -1], weight=class_weight(data.y, profile.prevalence))

    assert fit.shift != 0.0
    assert worth(fit.shift) > worth(0.0) > worth(-fit.shift)


def test_a_band_for_a_budget() -> None:
    f = fitted()
    data = Data.of(study_records(600, seed=1, missing=0.2), PROFILE)
    out = course(data, f.profile)
    weight = class_weight(data.y, 0.5)
    candidates = bands(out, data.y, weight)
    band = choose_band(candidates, budget_ms=100.0)
    p, ms, _ = out.outcome((band.low, band.high))
    assert np.average(ms, weights=weight) == pytest.approx(band.mean_ms)
    assert mcc(data.y, p, weight=weight) == pytest.approx(band.mcc)
    assert band.mean_ms <= 100.0
    assert band.mcc <= choose_band(candidates, max_lost_mcc=0.0).mcc
    cheapest = choose_band(candidates, budget_ms=0.0)  # cannot be met: the cheapest there is
    assert cheapest.mean_ms == min(candidate.mean_ms for candidate in candidates)


def test_figure_32_each_tier_against_the_cascade_without_it() -> None:
    """A tier that knows nothing new is proposed for dropping; one that knows more, or saves time, is kept."""
    rng = np.random.default_rng(8)
    records = [
        record(
            {o.model: o.logit for o in r.verdict.opinions} | {"noise": float(rng.normal())},
            r.label,
            group=r.group,
            sha256=r.sha256,
            milliseconds={"a": 20.0, "b": 300.0, "noise": 500.0},
        )
        for r in study_records(400, seed=9)
    ]
    useful = check(records, PROFILE, n=200)
    useless = check(records, profile_of(tier("dear", "b"), tier("useless", "noise"), band=(0.1, 0.9)), n=200)
    for c in (*useful, *useless):
        print(
            f"\nfigure 32: {c.tier}: MCC {c.mcc_without:.3f} without, {c.mcc_with:.3f} with; gain {c.gain:.3f} "
            f"[{c.low:.3f}, {c.high:.3f}], {c.added_ms:+.0f} ms: {'earns' if c.earns else 'drop'}",
            end="",
        )
    print()
    assert [(c.tier, c.earns) for c in useful] == [("cheap", True), ("dear", True)]
    assert useful[0].added_ms < -100.0
    assert [(c.tier, c.earns) for c in useless] == [("dear", True), ("useless", False)]


@pytest.mark.parametrize(
    ("wrong", "ms", "earns"),
    [
        ({"with": 0.1, "without": 0.3}, {"with": 900.0, "without": 100.0}, True),  # a certain gain, at any price
        ({"with": 0.2, "without": 0.2}, {"with": 100.0, "without": 100.0}, False),
        ({"with": 0.2, "without": 0.2}, {"with": 95.0, "without": 100.0}, False),  # less than a tenth: an accident
        ({"with": 0.2, "without": 0.2}, {"with": 85.0, "without": 100.0}, True),
        ({"with": 0.3, "without": 0.1}, {"with": 10.0, "without": 100.0}, False),  # loses more than was allowed
        ({"with": 0.205, "without": 0.2}, {"with": 10.0, "without": 100.0}, True),  # may lose no more than that
    ],
)
def test_a_tier_earns_its_cost_by_a_certain_gain_or_by_a_tenth_of_the_time(
    monkeypatch: pytest.MonkeyPatch, wrong: dict[str, float], ms: dict[str, float], earns: bool
) -> None:
    """wrong: share of wrong decisions with the tier "dear" and without."""
    records = study_records(400, seed=13)
    y, luck = np.array([r.label for r in records]), np.random.default_rng(14).random(400)

    def served(way: Profile, *_: object) -> tuple[np.ndarray, np.ndarray, None]:
        kind = "with" if PROFILE.tiers[1] in way.tiers else "without"
        p = np.where(luck < wrong[kind], 1 - y, y) * 0.8 + 0.1
        return p, np.full(400, ms[kind]), None

    monkeypatch.setattr(worth, "course_out_of_fold", lambda _, way: way)
    monkeypatch.setattr(worth, "_served", served)
    dear = check(records, PROFILE, n=200)[1]
    assert (dear.tier, dear.earns) == ("dear", earns)
    assert dear.added_ms == pytest.approx(ms["with"] - ms["without"])
    assert dear.gain == pytest.approx(dear.mcc_with - dear.mcc_without)


def test_one_tier_has_nothing_to_be_compared_with() -> None:
    assert set(fitted().ways) == {"before", "after", "first tier", "every tier"}
    assert set(fit_profile(study_records(100, seed=1), profile_of(tier("cheap", "a"))).ways) == {"before", "after"}
    assert check(study_records(100, seed=1), profile_of(tier("cheap", "a"))) == []


def test_too_few_labels_are_refused_with_the_count() -> None:
    unlabelled = [record({"a": 1.0}) for _ in range(50)]
    with pytest.raises(
        FitError, match="expected at least 20 labelled pictures of road work and 20 without, got 3 and 5"
    ):
        fit_profile(unlabelled + [record({"a": 1.0}, int(i < 3)) for i in range(8)], PROFILE)


def test_pictures_that_concern_no_member_of_a_tier_cost_nothing_there() -> None:
    profile = profile_of(tier("cheap", "a"), tier("signs", Member(model="b", min_side=320), expected_ms=300.0))
    records = [record({"a": 1.0, "stranger": 3.0}, i % 2, size=(224, 224) if i < 20 else (640, 480)) for i in range(40)]
    data = Data.of(records, profile)
    assert data.milliseconds[:, 1].tolist() == [0.0] * 20 + [300.0] * 20
    _, _, asked = course(data, profile).outcome((0.0, 1.0))
    assert asked.tolist() == [[True, False]] * 20 + [[True, True]] * 20


def test_a_member_that_only_one_camera_concerns_gets_no_fit_of_its_own() -> None:
    """Out of fold, nobody could say what it is worth."""
    wide = [r for r in study_records(300, seed=10) if r.group < "camera 13"]
    records = [
        record({o.model: o.logit for o in r.verdict.opinions}, r.label, group="wide", sha256=r.sha256) for r in wide
    ]
    records += study_records(300, seed=11, missing=1.0)
    fit = learn(Data.of(records, PROFILE), PROFILE)
    assert set(fit.members) == {"a"}
    assert set(fit.subsets) == {"a"}


def test_road_work_of_one_camera_only_is_judged_by_picture() -> None:
    records = [
        record(
            {o.model: o.logit for o in r.verdict.opinions},
            r.label,
            group="site" if r.label else r.group,
            sha256=r.sha256,
        )
        for r in study_records(300, seed=12)
    ]
    assert fit_profile(records, PROFILE).after.worth["auc"]["value"] > 0.9


def test_a_course_stops_at_the_first_tier_that_is_sure() -> None:
    c = Course(
        p=np.array([[0.9, 0.95], [0.5, 0.1]]),
        low=np.array([[0.85, 0.9], [0.4, 0.05]]),
        high=np.array([[0.95, 0.99], [0.6, 0.2]]),
        spent=np.array([[20.0, 320.0], [20.0, 320.0]]),
        concerned=np.ones((2, 2), dtype=bool),
    )
    p, ms, asked = c.outcome((0.2, 0.8))
    assert (p.tolist(), ms.tolist()) == ([0.9, 0.1], [20.0, 320.0])
    assert asked.tolist() == [[True, False], [True, True]]
