"""Profiles are data, checked before anything is loaded; what is wrong is named with its place."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from cascade_helpers import PATIENT, profile_of, tier

from cascade.fusion import Fit, Stack
from cascade.profile import Profile, ProfileError, fit_path, load, shipped

GOOD = """
name = "mine"
band = [0.2, 0.8]

[[tiers]]
name = "first"
required = true
expected_ms = 10

[[tiers.members]]
model = "embedded"
batching = { max_size = 4, max_wait_ms = 1.5 }
"""
CATALOG = Path(__file__).parents[2] / "models" / "catalog.toml"


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["embedded", "one-80gb", "two-80gb", "consensus"])
def test_shipped_profiles_load_and_name_models_of_the_catalog(name: str) -> None:
    profile = load(name)
    assert profile.name == name
    assert {member.model for member in profile.members} <= set(tomllib.loads(CATALOG.read_text(encoding="utf-8")))
    assert profile.tiers[0].required


@pytest.mark.parametrize("name", shipped())
def test_no_picture_waits_for_others_at_an_idle_model(name: str) -> None:
    assert not any(member.batching.max_wait_ms for member in load(name).members)


def test_all_shipped_profiles_are_listed() -> None:
    assert shipped() == ["consensus", "embedded", "one-80gb", "two-80gb"]


def test_a_profile_of_ones_own(tmp_path: Path) -> None:
    profile = load(written(tmp_path, GOOD))
    assert profile.members[0].batching.max_wait_ms == 1.5
    assert profile.fit is None


def test_a_catalog_beside_the_profile_is_found_from_anywhere(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD.replace("band =", 'catalog = "catalog.toml"\nband ='))
    assert load(path).catalog == str(tmp_path.resolve() / "catalog.toml")
    assert load("embedded").catalog == ""


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            "bnad = 1\n" + GOOD,
            r"mine\.toml: bnad: unknown name; known: band, catalog, fit, fusion, name, prevalence, prior",
        ),
        (
            GOOD.replace("required", "requird"),
            r"tiers\.0\.requird: unknown name; known: expected_ms, members, name",
        ),
        (GOOD + "wieght = 1", r"tiers\.0\.members\.0\.wieght: unknown name; known: batching, min_side, model"),
        (GOOD.replace("max_size", "size"), r"batching\.size: unknown name; known: max_size, max_wait_ms"),
        (GOOD + "[[second_questions]]\nmdl='x'", r"second_questions\.0\.model: Field required$"),
        (GOOD.replace("expected_ms = 10", ""), r"tiers\.0\.expected_ms: Field required$"),
        (GOOD.replace("= 10", "= -3"), r"tiers\.0\.expected_ms: Input should be greater than 0, got -3"),
        (GOOD.replace('"embedded"', '"Embedded Net"'), r"model: String should match pattern .*, got 'Embedded Net'"),
        (GOOD.replace("[0.2, 0.8]", "[0.8, 0.2]"), r"band: expected 0 <= low <= high <= 1, got \[0\.8, 0\.2\]"),
        (GOOD.replace("[0.2, 0.8]", "[0.2, nan]"), r"band\.1: Input should be a finite number, got nan"),
        (GOOD + '[[tiers.members]]\nmodel="embedded"', r"expected each model once, got embedded more than once"),
        (
            GOOD + "[[tiers]]\nname='first'\nexpected_ms=1\n[[tiers.members]]\nmodel='x'",
            r"expected each tier once, got first more than once",
        ),
        (
            GOOD + "[[second_questions]]\nmodel='x'\nwhen_logit_gap=1",
            r"second_questions\.model: expected a member, got 'x'",
        ),
        (
            GOOD + "[[second_questions]]\nmodel='embedded'\ndoubter='x'\nwhen_logit_gap=1",
            r"second_questions\.doubter: expected a member, got 'x'",
        ),
        ("name = ", r"mine\.toml: expected TOML"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, bad: str, message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        load(written(tmp_path, bad))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ProfileError, match=r"embeded: no such profile; expected .* consensus, embedded, one-80gb"):
        load("embeded")


def fit(models: list[str]) -> Fit:
    return Fit(
        profile="mine",
        date="2026-11-23T12:00:00+00:00",
        data_sha256="0" * 64,
        n=100,
        prevalence=0.4,
        band=(0.05, 0.7),
        members={},
        pooled=Stack(weights=dict.fromkeys(models, 0.5), bias=0.1),
        subsets={},
    )


def test_a_fit_beside_the_profile_is_used_with_its_band(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    fit_path(path).write_text(fit(["embedded"]).model_dump_json(), encoding="utf-8")
    profile = load(path)
    assert profile.fit == fit(["embedded"])
    assert profile.band == (0.05, 0.7)


def test_a_fit_for_other_members_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    fit_path(path).write_text(fit(["embedded", "other"]).model_dump_json(), encoding="utf-8")
    with pytest.raises(
        ProfileError, match=r"fit\.json: .*made for other members \(other differ\); run calibrate again"
    ):
        load(path)


def test_a_broken_fit_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    fit_path(path).write_text('{"profile": "mine"', encoding="utf-8")
    with pytest.raises(ProfileError, match=r"mine\.fit\.json: .*run calibrate again or remove the file"):
        load(path)


def test_asking_all_never_leaves_the_band_and_waits_for_everybody() -> None:
    profile: Profile = profile_of(tier("one", "a"))
    patient = profile.asking_all()
    assert patient.band == (0.0, 1.0)
    assert patient.members[0].timeout_ms == 60_000.0
    assert (profile.band, profile.members[0].timeout_ms) == ((0.2, 0.8), PATIENT)
