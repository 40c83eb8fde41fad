"""Labelled trace records as arrays: what `cascade.fit` learns from and `cascade.worth` judges on."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cascade.calibration import Array, bounded
from cascade.conditions import Claims, claims, settled
from cascade.fusion import Fusion
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

    def estimates(self, fusion: Fusion, models: Collection[str]) -> tuple[Array, Array, Array]:
        """What `fusion` makes of the opinions of `models`: probability, low and high (N,) each."""
        columns = [column for column, key in enumerate(self.models) if key in models and fusion.hears(key)]
        alike: dict[tuple[bytes, tuple[str, ...]], list[int]] = {}
        present = ~np.isnan(self.x[:, columns])
        for row in range(len(self.y)):
            heard = [self.models[column] for column, there in zip(columns, present[row], strict=True) if there]
            conditions = settled(self.sizes[row], self.claimed[row], heard)
            alike.setdefault((present[row].tobytes(), conditions), []).append(row)
        found = np.tile([[fusion.prior.probability], [fusion.prior.low], [fusion.prior.high]], len(self.y))
        for (_, conditions), some in alike.items():
            rows = np.array(some)
            there = [column for column, seen in zip(columns, present[rows[0]], strict=True) if seen]
            if there:
                opinions = {self.models[column]: self.x[rows, column] for column in there}
                found[:, rows] = fusion.estimates(opinions, conditions)
        p, low, high = found
        return p, low, high

    def known(self) -> list[tuple[str, ...]]:
        """The conditions of each picture, every member heard."""
        return [settled(size, claimed, self.models) for size, claimed in zip(self.sizes, self.claimed, strict=True)]


def _tier_ms(tier: Tier, record: Record) -> float:
    """Milliseconds of the slowest member; 0 if the picture concerns none; the expected time if none was asked."""
    members = {member.model for member in tier.members if member.concerns(record.size)}
    taken = [answer.milliseconds for answer in record.verdict.opinions if answer.model in members]
    return max(taken, default=tier.expected_ms if members else 0.0)


def enough(y: Labels, folds: Index) -> bool:
    """Whether pictures of these labels (N,), in these folds (N,), allow a fit of their own and say what it is worth."""
    return min(int(y.sum()), len(y) - int(y.sum())) >= LEAST and len(np.unique(folds)) > 1
