"""Conditions of a picture: what is believed of them, and what a fit makes of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cascade_helpers import picture, profile_of, record, running, study_records, tier
from pydantic import ValidationError

from cascade.calibration import Platt, sigmoid
from cascade.conditions import COVARIATES, KNOWN, claims, names, settled
from cascade.data import Data
from cascade.deadline import Deadline
from cascade.fit import learn
from cascade.fusion import Fit, Stack
from cascade.profile import Member
from cascade.replay import replay
from cascade.trace import Record
from models.base import Frame, Model, ModelSpec, Opinion

NIGHT = {"light": {"day": 0.1, "dusk": 0.0, "night": 0.9}}
DAY = {"light": {"day": 0.9, "dusk": 0.1, "night": 0.0}, "weather": {"rain": 0.7, "clear": 0.3}}
PROFILE = profile_of(tier("cheap", "a", expected_ms=20.0), tier("dear", "b", expected_ms=300.0), band=(0.1, 0.9))


def opinion(model: str, evidence: dict[str, Any], logit: float = 0.0) -> Opinion:
    return Opinion(model, logit, 1.0, evidence)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((224, 224), "size:small"),
        ((400, 256), "size:small"),
        ((512, 288), "size:middle"),
        ((640, 640), "size:large"),
        ((1280, 720), "size:large"),
    ],
)
def test_the_size_is_always_known(size: tuple[int, int], expected: str) -> None:
    assert settled(size, {}, ()) == (expected,)


def test_what_members_are_sure_of_is_believed_if_they_are_heard() -> None:
    said = claims([opinion("a", NIGHT), opinion("b", DAY), opinion("c", {"boxes": []})])
    assert said == {"a": ("light:night",), "b": ("light:day", "weather:rain")}
    assert settled((224, 224), said, ("a", "b")) == ("size:small", "light:night", "weather:rain")
    assert settled((224, 224), dict(reversed(said.items())), ("b", "a")) == settled((224, 224), said, ("a", "b"))
    assert settled((224, 224), said, ("b",)) == ("size:small", "light:day", "weather:rain")
    assert settled((224, 224), said, ()) == ("size:small",)


def test_unsure_and_unreadable_evidence_is_no_condition() -> None:
    assert claims([opinion("a", {"light": {"day": 0.5, "dusk": 0.5}}), opinion("b", {"light": "night"})]) == {}


def test_names() -> None:
    assert {name for covariate in COVARIATES for name in names(covariate)} == KNOWN


def at_night(records: list[Record], share: float, brighter: float, seed: int = 3) -> list[Record]:
    """The same records, a share of them taken at night, where member "a" says too much by `brighter`."""
    drawn = np.random.default_rng(seed).random(len(records)) < share
    changed = []
    for one, dark in zip(records, drawn, strict=True):
        opinions = tuple(
            replace(o, logit=o.logit + brighter * dark, evidence=NIGHT if dark else DAY) if o.model == "a" else o
            for o in one.verdict.opinions
        )
        changed.append(replace(one, verdict=replace(one.verdict, opinions=opinions)))
    return changed


def test_a_condition_that_matters_is_learned_and_helps_on_pictures_never_seen() -> None:
    profile = profile_of(tier("cheap", "a", expected_ms=20.0))
    train, test = (at_night(study_records(800, seed=seed), 0.3, 4.0) for seed in (1, 2))
    fit = learn(Data.of(train, profile), profile)
    assert {"light:night", "light:day"} <= set(fit.conditions)
    assert fit.conditions["light:night"].bias < -0.5 < fit.conditions["light:day"].bias
    blind = fit.model_copy(update={"conditions": {}})

    def loss(chosen: Fit) -> float:
        used = profile.model_copy(update={"fit": chosen, "prevalence": fit.prevalence})
        p = np.array([replay(one, used).probability for one in test])
        y = np.array([one.label for one in test])
        return float(-np.log(np.where(y == 1, p, 1.0 - p)).mean())

    print(f"\nlog loss on new pictures: {loss(blind):.3f} without conditions, {loss(fit):.3f} with")
    assert loss(fit) < loss(blind) - 0.01


def test_a_condition_that_changes_nothing_is_not_learned() -> None:
    data = Data.of(at_night(study_records(600, seed=1), 0.3, 0.0), PROFILE)
    assert learn(data, PROFILE).conditions == {}


def test_nor_is_one_of_too_few_pictures_or_of_one_camera() -> None:
    few = at_night(study_records(600, seed=1), 0.03, 4.0)
    assert "light:night" not in learn(Data.of(few, PROFILE), PROFILE).conditions
    same = [replace(one, group="camera 0" if i < 200 else one.group) for i, one in enumerate(study_records(600, 1))]
    dark = [*at_night(same[:200], 1.0, 4.0), *at_night(same[200:], 0.0, 0.0)]
    assert "light:night" not in learn(Data.of(dark, PROFILE), PROFILE).conditions


def fit_with(conditions: dict[str, Platt]) -> Fit:
    stack = Stack(weights={"a": 1.0, "b": 1.0})
    return Fit(
        profile="test",
        date="2026-11-24T12:00:00+00:00",
        data_sha256="0" * 64,
        n=100,
        prevalence=0.5,
        band=(0.1, 0.9),
        members={},
        pooled=stack,
        subsets={},
        conditions=conditions,
    )


def test_a_fit_applies_them_in_order_and_refuses_strange_ones() -> None:
    fit = fit_with({"size:small": Platt(slope=0.5, bias=0.0), "light:night": Platt(slope=1.0, bias=-1.0)})
    fusion = PROFILE.model_copy(update={"fit": fit}).fused()
    assert fusion.estimate({"a": 2.0}).probability == pytest.approx(sigmoid(2.0))
    assert fusion.estimate({"a": 2.0}, ("size:small",)).probability == pytest.approx(sigmoid(1.0))
    assert fusion.estimate({"a": 2.0}, ("size:small", "light:night")).probability == pytest.approx(sigmoid(0.0))
    assert Fit.model_validate_json(fit.model_dump_json()) == fit
    with pytest.raises(ValidationError, match=r"conditions: expected some of .*light:dusk.*, got light:dark"):
        fit_with({"light:dark": Platt(slope=1.0, bias=0.0)})


def test_a_member_of_weight_0_is_not_believed_about_the_conditions_either() -> None:
    fit = fit_with({"light:night": Platt(slope=1.0, bias=-1.0)})
    (dark,) = at_night([record({"a": 1.0, "b": 2.0})], 1.0, 0.0)
    heard, muted = (profile_of(tier("all", Member(model="a", weight=weight), "b"), fit=fit) for weight in (1.0, 0.0))
    assert replay(dark, heard).probability == pytest.approx(sigmoid(3.0 - 1.0))
    assert replay(dark, muted).probability == pytest.approx(sigmoid(2.0))


class Sighted:
    """Says the same of every picture, and that it is night."""

    spec = ModelSpec("a", "test", "test", "Sighted")

    def load(self, device: str) -> None:
        pass

    def warm_up(self) -> None:
        pass

    def assess(self, frames: list[Frame]) -> list[Opinion]:
        return [opinion("a", NIGHT, 2.0) for _ in frames]

    def close(self) -> None:
        pass


async def test_the_engine_and_a_replay_know_the_same_conditions() -> None:
    fit = fit_with({"size:middle": Platt(slope=1.0, bias=0.5), "light:night": Platt(slope=1.0, bias=-1.0)})
    profile = profile_of(tier("all", "a", "b"), band=(0.1, 0.9), fit=fit)
    silent: Model = Sighted()
    other = Sighted()
    other.spec = ModelSpec("b", "test", "test", "Sighted")
    async with running(profile, [silent, other]) as engine:
        verdict = await engine.decide(picture(512, 288), Deadline.after(5.0))
    assert verdict.probability == pytest.approx(sigmoid(4.0 + 0.5 - 1.0))
    assert replay(record({"a": 4.0}, size=(512, 288)), profile).probability == pytest.approx(sigmoid(4.0 + 0.5))
