"""Labelled trace records as arrays: what `cascade.fit` learns from and `cascade.worth` judges on."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cascade.calibration import Array, bounded
from cascade.conditions import Claims, claims, settled
from cascade.profile import Profile, Tier
from cascade.resampling import Index, Labels
from cascade.trace import Record

LEAST = 20  # pictures of each label that a set of members needs for a fit of its own


class FitError(ValueError):
    """The records do not allow a fit. The message says what is missing."""


@dataclass(frozen=True)
class Data:
    """Labelled opinions as arrays.

    x (N, M): logits, NaN where a member has no opinion. milliseconds (N, T): of each tier. sha256: of pictures and
    labels. sizes (N): of the pictures. claimed (N): conditions that members claimed, by model.
    """

    models: tuple[str, ...]
    x: Array
    y: Labels
    groups: tuple[str, ...]
    milliseconds: Array
    sha256: str
    sizes: tuple[tuple[int, int], ...]
    claimed: tuple[Claims, ...]

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
        groups = tuple(record.group or record.sha256 for record in known)
        claimed = tuple(claims(record.verdict.opinions) for record in known)
        return cls(models, x, labels, groups, milliseconds, digest, tuple(record.size for record in known), claimed)

    def part(self, rows: Index) -> Data:
        """Those of some pictures."""
        return replace(
            self,
            x=self.x[rows],
            y=self.y[rows],
            groups=tuple(self.groups[row] for row in rows),
            milliseconds=self.milliseconds[rows],
            sizes=tuple(self.sizes[row] for row in rows),
            claimed=tuple(self.claimed[row] for row in rows),
        )

    def conditions(self, row: int, models: Collection[str]) -> tuple[str, ...]:
        """The conditions of one picture that are known once `models` were heard."""
        return settled(self.sizes[row], self.claimed[row], models)

    def heard(self, row: int, models: Collection[str]) -> dict[str, float]:
        """The opinions of `models` on one picture, as `Fusion.estimate` wants them."""
        values = zip(self.models, self.x[row], strict=True)
        return {key: float(value) for key, value in values if key in models and not np.isnan(value)}


def _tier_ms(tier: Tier, record: Record) -> float:
    """Milliseconds of the slowest member; 0 if the picture concerns none; the expected time if none was asked."""
    members = {member.model for member in tier.members if member.concerns(record.size)}
    taken = [answer.milliseconds for answer in record.verdict.opinions if answer.model in members]
    return max(taken, default=tier.expected_ms if members else 0.0)


def enough(y: Labels) -> bool:
    """Whether pictures of these labels allow a fit of their own."""
    return min(int(y.sum()), len(y) - int(y.sum())) >= LEAST
