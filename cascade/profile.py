"""Profiles: tiers, members, bands and weights as data (`profiles/*.toml`), checked before anything is loaded.

`load("embedded")` reads a profile that ships with the project, `load("my/own.toml")` one of the operator's. Beside a
profile may lie `<name>.fit.json`, what `calibrate` learned for it: its weights, calibrations and band then replace
the defaults of the TOML file.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from cascade.calibration import Part
from cascade.fusion import Fit, Fusion, Method
from models.checked import fault

SHIPPED = Path(__file__).parent / "profiles"


class ProfileError(ValueError):
    """A profile cannot be used. The message names the file, the key, what was expected and what came."""


class Batching(Part):
    """How requests of concurrent callers are put together: at most `max_size`, those that came while the model was at
    work. `max_wait_ms` lets the first one wait for more even when the model is idle."""

    max_size: int = Field(default=8, ge=1)
    max_wait_ms: float = Field(default=0.0, ge=0)


class Member(Part):
    """One model of a tier. `min_side`: asked only if the picture's shorter side has at least so many pixels."""

    model: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    weight: float = Field(default=1.0, ge=0)
    min_side: int = Field(default=0, ge=0)
    timeout_ms: float = Field(default=2000.0, gt=0)
    batching: Batching = Batching()

    def concerns(self, size: tuple[int, int]) -> bool:
        """Whether this member has anything to say of a picture of `size` (width, height)."""
        return min(size) >= self.min_side


class Tier(Part):
    """Members that are asked side by side. `required`: the miner is ready only while one of them answers."""

    name: str = Field(min_length=1)
    required: bool = False
    expected_ms: float = Field(gt=0)
    members: tuple[Member, ...] = Field(min_length=1)

    def concerns(self, size: tuple[int, int]) -> bool:
        """Whether any of its members has something to say of a picture of `size` (width, height)."""
        return any(member.concerns(size) for member in self.members)


class SecondQuestion(Part):
    """Ask `model` again, showing it the boxes that another member points at, when that member's logit is
    `when_logit_gap` above the doubter's. doubter: a member; `model` itself where none is named."""

    model: str
    doubter: str = ""
    when_logit_gap: float = Field(gt=0)
    timeout_ms: float = Field(default=2000.0, gt=0)

    @property
    def says_no(self) -> str:
        """The member that sees nothing."""
        return self.doubter or self.model


class Profile(Part):
    """One way to decide.

    prior: the probability that is answered when no model has an opinion. prevalence: share of road work where the
    answers are used (validators draw 50/50). band: (low, high); as long as the interval of the fused probability
    touches it, the next tier is asked. second_questions: each is asked once at most, in this order, of what is known by
    then. fusion and quorum: see `cascade.fusion`. catalog: a file beside the profile that
    says what its own models are; those of the project need none.
    """

    name: str = Field(min_length=1)
    prior: float = Field(default=0.5, ge=0, le=1)
    prevalence: float = Field(default=0.5, gt=0, lt=1)
    band: tuple[float, float]
    fusion: Method = "log-odds"
    quorum: float = Field(default=0.7, gt=0, le=1)
    catalog: str = ""
    tiers: tuple[Tier, ...] = Field(min_length=1)
    second_questions: tuple[SecondQuestion, ...] = ()
    fit: Fit | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        low, high = self.band
        if not 0.0 <= low <= high <= 1.0:
            raise ValueError(f"band: expected 0 <= low <= high <= 1, got {list(self.band)}")
        names = [tier.name for tier in self.tiers]
        models = [member.model for member in self.members]
        for what, keys in (("tier", names), ("model", models)):
            if twice := sorted({key for key in keys if keys.count(key) > 1}):
                raise ValueError(f"expected each {what} once, got {', '.join(twice)} more than once")
        for rule in self.second_questions:
            for what, key in (("model", rule.model), ("doubter", rule.says_no)):
                if key not in models:
                    raise ValueError(f"second_questions.{what}: expected a member, got {key!r}")
        if self.fit and (strange := sorted(set(self.fit.pooled.weights) ^ set(models))):
            raise ValueError(
                f"fit: made for other members ({', '.join(strange)} differ); run calibrate again or remove the file"
            )
        return self

    @property
    def members(self) -> tuple[Member, ...]:
        """The members of all tiers, in order."""
        return tuple(member for tier in self.tiers for member in tier.members)

    def asking_all(self) -> Profile:
        """The same profile with a band that is never left and time-outs of a minute: every member is asked and waited
        for. For `calibrate`, which nobody waits for."""
        tiers = tuple(
            tier.model_copy(
                update={"members": tuple(m.model_copy(update={"timeout_ms": 60_000.0}) for m in tier.members)}
            )
            for tier in self.tiers
        )
        return self.model_copy(update={"band": (0.0, 1.0), "tiers": tiers})

    def fused(self) -> Fusion:
        """The fusion this profile asks for."""
        return Fusion(
            {member.model: member.weight for member in self.members},
            prior=self.prior,
            prevalence=self.prevalence,
            method=self.fusion,
            quorum=self.quorum,
            fit=self.fit,
        )


def load(path_or_name: str | Path) -> Profile:
    """The profile in a TOML file, or the shipped one of that name, with its fit if there is one.

    Raises ProfileError.
    """
    path = Path(path_or_name)
    if path.suffix != ".toml":
        path = SHIPPED / f"{path_or_name}.toml"
    if not path.is_file():
        raise ProfileError(f"{path_or_name}: no such profile; expected a .toml file or one of {', '.join(shipped())}")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path}: expected TOML: {error}") from error
    if data.get("catalog"):
        data["catalog"] = str(path.resolve().parent / str(data["catalog"]))
    profile = _checked(data, path)
    artefact = fit_path(path)
    if not artefact.is_file():
        return profile
    try:
        fit = Fit.model_validate_json(artefact.read_bytes())
    except ValidationError as error:
        wrong = fault(error.errors()[0], ())
        raise ProfileError(f"{artefact}: {wrong}; run calibrate again or remove the file") from error
    return _checked({**data, "fit": fit, "band": fit.band}, artefact)


def fit_path(profile_path: Path) -> Path:
    """Where the fit of a profile lies: `embedded.toml` -> `embedded.fit.json`."""
    return profile_path.with_suffix(".fit.json")


def shipped() -> list[str]:
    """Names of the profiles that ship with the project."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def _checked(data: dict[str, Any], path: Path) -> Profile:
    try:
        return Profile.model_validate(data)
    except ValidationError as error:
        raise ProfileError(f"{path}: {_first(error)}") from error


_PARTS: dict[str, type[Part]] = {
    "tiers": Tier,
    "members": Member,
    "batching": Batching,
    "second_questions": SecondQuestion,
}


def _first(error: ValidationError) -> str:
    """The first thing that is wrong, in one line; for an unknown name also what would have been allowed there."""
    first = error.errors()[0]
    parents = [step for step in first["loc"][:-1] if isinstance(step, str)]
    part = _PARTS.get(parents[-1], Profile) if parents else Profile
    return fault(first, sorted(part.model_fields))
