"""Recorded opinions decided again under another profile, without any model; and what that would have given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cascade.decision import Decision
from cascade.fusion import Fusion
from cascade.profile import Member, Profile
from cascade.trace import Record
from cascade.verdict import Verdict
from models.base import Failure, ModelTimeout, ModelUnavailable, Opinion
from models.metrics import mcc

NOT_RECORDED = "not in the trace"  # detail of a failure: the recorded cascade never asked this member


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
    while tier := decision.next(left := seconds * 1e3 - spent, lambda tier: tier.expected_ms):
        answers = [_answer(member, opinions, failures, left) for member in tier.members if member.concerns(record.size)]
        heard = [answer for answer in answers if isinstance(answer, Opinion)]
        missing = [answer for answer in answers if isinstance(answer, Failure)]
        spent += max(answer.milliseconds for answer in answers)
        decision.add(tier, heard, missing)
    return decision.verdict(spent)


def _answer(
    member: Member, opinions: Mapping[str, Opinion], failures: Mapping[str, Failure], left_ms: float
) -> Opinion | Failure:
    """What the record holds of one member, if it came in time."""
    opinion, limit = opinions.get(member.model), min(left_ms, member.timeout_ms)
    if opinion is None:
        return failures.get(member.model) or Failure(member.model, ModelUnavailable.kind, NOT_RECORDED, 0.0)
    if opinion.milliseconds > limit:
        return Failure(member.model, ModelTimeout.kind, f"no opinion within {limit:.0f} ms", limit)
    return opinion


def what_if(records: Sequence[Record], profile: Profile) -> WhatIf:
    """Replay all of `records` (at least one) under `profile`."""
    if not records:
        raise ValueError("expected at least one trace record, got none")
    fusion = profile.fused()
    verdicts = [replay(record, profile, fusion) for record in records]
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
        incomplete=sum(any(f.detail == NOT_RECORDED for f in v.failures) for v in verdicts) / n,
    )
