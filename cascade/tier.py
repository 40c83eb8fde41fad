"""The members of one tier, asked side by side. Whoever fails or is late is left out and named."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cascade.deadline import Deadline
from cascade.profile import Member, Tier
from cascade.supervisor import Supervisor
from models.base import Failure, Frame, ModelError, Opinion


@dataclass(frozen=True, slots=True)
class Answers:
    """What a tier had to say of one picture."""

    opinions: Sequence[Opinion]
    failures: Sequence[Failure]


@dataclass(frozen=True, slots=True)
class TierReadiness:
    """Whether a tier can answer. reason: empty if so, else what each member suffers from."""

    name: str
    required: bool
    ready: bool
    reason: str


async def ask(
    tier: Tier, supervisors: Mapping[str, Supervisor], frame: Frame, deadline: Deadline, caller: str
) -> Answers:
    """The opinions of all members that are concerned, by the deadline."""
    members = [member for member in tier.members if member.concerns(frame.size)]
    answers = await asyncio.gather(
        *(_one(member, supervisors[member.model], frame, deadline, caller) for member in members)
    )
    return Answers(
        [answer for answer in answers if isinstance(answer, Opinion)],
        [answer for answer in answers if isinstance(answer, Failure)],
    )


def expected_ms(tier: Tier, supervisors: Mapping[str, Supervisor], size: tuple[int, int]) -> float:
    """What asking the tier now about a picture of `size` would take: what the profile says, or more if a member that is
    concerned and can answer was slower than that lately, or has work waiting; but nobody is waited for beyond his
    time-out."""
    found = [tier.expected_ms]
    for member in tier.members:
        supervisor = supervisors[member.model]
        if member.concerns(size) and supervisor.available:
            found.append(min(1e3 * supervisor.expected, member.timeout_ms))
    return max(found)


def readiness(tier: Tier, supervisors: Mapping[str, Supervisor]) -> TierReadiness:
    """Ready while at least one member answers."""
    states = {member.model: supervisors[member.model] for member in tier.members}
    ready = any(supervisor.available for supervisor in states.values())
    reasons = [f"{key}: {supervisor.breaker.reason or 'loading'}" for key, supervisor in states.items()]
    return TierReadiness(tier.name, tier.required, ready, "" if ready else "; ".join(reasons))


async def _one(
    member: Member, supervisor: Supervisor, frame: Frame, deadline: Deadline, caller: str
) -> Opinion | Failure:
    begun = time.monotonic()
    try:
        return await supervisor.ask(frame, deadline, caller)
    except ModelError as error:
        return Failure(member.model, error.kind, str(error), (time.monotonic() - begun) * 1e3)
