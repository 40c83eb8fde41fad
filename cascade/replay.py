"""Recorded opinions decided again under another profile, without any model; and what that would have given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cascade.decision import Decision
from cascade.fusion import Fusion
from cascade.profile import Profile, Tier
from cascade.trace import Record
from cascade.verdict import Verdict
from models.base import Failure
from models.metrics import mcc

NOT_RECORDED = "not-recorded"  # kind of failure: the trace ended before this member was asked


@dataclass(frozen=True, slots=True)
class WhatIf:
    """One row of the what-if table.

    mcc: over the labelled records; None if there are none of both labels. escalated: share that asked more than one
    tier. mean_ms: of the recorded members' times, side by side within a tier. incomplete: share of records that lack an
    opinion this profile would have asked for.
    """

    profile: str
    n: int
    labelled: int
    mcc: float | None
    escalated: float
    mean_ms: float
    incomplete: float


def replay(record: Record, profile: Profile, fusion: Fusion | None = None, seconds: float = 8.0) -> Verdict:
    """The verdict that `profile` gives on the recorded opinions, `seconds` being the deadline. Time passes as recorded:
    a tier takes as long as its slowest member did."""
    opinions = {opinion.model: opinion for opinion in record.verdict.opinions}
    failures = {failure.model: failure for failure in record.verdict.failures}
    decision = Decision(profile, fusion or profile.fused(), record.size)
    spent = 0.0
    while tier := decision.next(seconds * 1e3 - spent, lambda tier: tier.expected_ms):
        members = [member.model for member in tier.members if member.concerns(record.size)]
        absent = [key for key in members if key not in opinions]
        missing = [failures.get(key) or Failure(key, NOT_RECORDED, "not in the trace", 0.0) for key in absent]
        heard = [opinions[key] for key in members if key in opinions]
        spent += tier_ms(tier, record)
        decision.add(tier, heard, missing)
    return decision.verdict(spent)


def tier_ms(tier: Tier, record: Record) -> float:
    """Recorded milliseconds of the slowest member of `tier`; 0 if none was asked."""
    members = {member.model for member in tier.members}
    taken = (*record.verdict.opinions, *record.verdict.failures)
    return max((answer.milliseconds for answer in taken if answer.model in members), default=0.0)


def what_if(records: Sequence[Record], profile: Profile, seconds: float = 8.0) -> WhatIf:
    """Replay all of `records` (at least one) under `profile`."""
    if not records:
        raise ValueError("expected at least one trace record, got none")
    fusion = profile.fused()
    verdicts = [replay(record, profile, fusion, seconds) for record in records]
    known = [(r.label, v.probability) for r, v in zip(records, verdicts, strict=True) if r.label >= 0]
    labels = [label for label, _ in known]
    n = len(records)
    return WhatIf(
        profile=profile.name,
        n=n,
        labelled=len(known),
        mcc=mcc(labels, [p for _, p in known]) if 0 < sum(labels) < len(labels) else None,
        escalated=sum(len(v.tiers) > 1 for v in verdicts) / n,
        mean_ms=sum(v.milliseconds for v in verdicts) / n,
        incomplete=sum(any(f.kind == NOT_RECORDED for f in v.failures) for v in verdicts) / n,
    )
