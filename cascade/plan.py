"""A profile at work: its fusion and the supervisors of its models, made and loaded together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cascade.fusion import Fusion
from cascade.profile import Profile
from cascade.supervisor import Factory, Policy, Supervisor
from models.base import Model

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Plan:
    """A profile at work. `requests` that began under it finish under it, also after a reload."""

    profile: Profile
    fusion: Fusion
    supervisors: Mapping[str, Supervisor]
    requests: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    async def load(self, new: Mapping[str, Supervisor]) -> None:
        """Load the models of `new`, a part of the supervisors, side by side. Raises the ModelError of a required tier
        of which no member could be loaded, and closes them again; others that could not be are left out."""
        errors = await asyncio.gather(*(s.start() for s in new.values()), return_exceptions=True)
        failed = dict(zip(new, errors, strict=True))
        for key, error in failed.items():
            if error is not None:
                log.error("%s: not loaded: %s", key, error)
        for tier in self.profile.tiers:
            missing = [failed.get(member.model) for member in tier.members]
            if tier.required and all(missing) and (error := missing[0]):
                await asyncio.gather(*(supervisor.close() for supervisor in new.values()))
                raise error


def make_plan(
    profile: Profile,
    models: Mapping[str, Model],
    kept: Mapping[str, Supervisor],
    *,
    factory: Factory | None,
    device_of: Callable[[str], str],
    policy: Policy,
) -> Plan:
    """A plan whose models come from `models`, else from `kept`, else from the factory; nothing is loaded yet. Raises
    ValueError if a model is nowhere to be had."""
    supervisors = {}
    for member in profile.members:
        key = member.model
        if key in kept and key not in models:
            supervisors[key] = kept[key]
            continue
        model = models.get(key) or (factory(key) if factory else None)
        if model is None:
            raise ValueError(f"profile {profile.name}: no model {key!r} was given; got {sorted(models)}")
        supervisors[key] = Supervisor(member, model, device=device_of(key), factory=factory, policy=policy)
    return Plan(profile, profile.fused(), supervisors)
