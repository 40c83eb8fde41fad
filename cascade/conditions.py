"""Under which conditions a picture was taken: covariates of calibration.

The size is known of every picture. Light and weather are known where a member says so in its evidence, as zero-shot
models do: `{"light": {"day": 0.1, "night": 0.9}, "weather": {...}}`, shares by name. What nobody knows is no condition.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from models.base import Opinion

COVARIATES: Mapping[str, tuple[str, ...]] = {
    "size": ("small", "middle", "large"),
    "light": ("day", "dusk", "night"),
    "weather": ("clear", "rain", "snow", "fog"),
}
SMALL, LARGE = 256, 640  # shorter side in pixels: up to the wire size of January 2026; from there on cameras' own
SURE = 0.6  # share from which a member's word is taken

Claims = Mapping[str, tuple[str, ...]]  # by model


def names(covariate: str) -> tuple[str, ...]:
    """Every condition of one covariate, as "light:night"."""
    return tuple(f"{covariate}:{value}" for value in COVARIATES[covariate])


KNOWN = frozenset(name for covariate in COVARIATES for name in names(covariate))


def of_size(size: tuple[int, int]) -> str:
    """The condition that (width, height) is."""
    side = min(size)
    return "size:small" if side <= SMALL else "size:middle" if side < LARGE else "size:large"


def claims(opinions: Iterable[Opinion]) -> dict[str, tuple[str, ...]]:
    """What each opinion says of the conditions, where it says something it is sure of."""
    said = {opinion.model: tuple(_claimed(opinion)) for opinion in opinions}
    return {model: conditions for model, conditions in said.items() if conditions}


def settled(size: tuple[int, int], claimed: Claims, heard: Collection[str]) -> tuple[str, ...]:
    """At most one condition of each covariate, in the order of COVARIATES. Where two members that were `heard` differ,
    the first by name is believed, so that the order they answer in changes nothing."""
    found = {"size": of_size(size)}
    for model in sorted(claimed):
        if model in heard:
            for condition in claimed[model]:
                found.setdefault(condition.partition(":")[0], condition)
    return tuple(found[covariate] for covariate in COVARIATES if covariate in found)


def _claimed(opinion: Opinion) -> Iterable[str]:
    for covariate, values in COVARIATES.items():
        shares = opinion.evidence.get(covariate)
        if isinstance(shares, Mapping):
            for value in values:
                if shares.get(value, 0.0) >= SURE:
                    yield f"{covariate}:{value}"
