"""The decision: one picture in, one calibrated probability out, in time, whatever the models do.

    engine = Engine(profile.load("embedded"), {"embedded": Embedded(), "sign-reading": SignReader()})
    await engine.start()
    verdict = await engine.decide(frame, Deadline.after(8.0), caller=hotkey)
    await engine.close()

Tiers are asked in order, cheapest first; the members of a tier side by side. After each tier the opinions are fused;
as soon as the interval of the fused probability lies outside the profile's band, or the next tier does not fit into
the time that is left, the answer goes out. All methods belong to one event loop; models work in threads of their own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial

from cascade import tier as tiers
from cascade.deadline import Deadline
from cascade.decision import Decision
from cascade.plan import Plan, make_plan
from cascade.profile import Profile, Tier
from cascade.supervisor import Factory, ModelState, Policy
from cascade.tier import TierReadiness
from cascade.verdict import Verdict
from models.base import Failure, Frame, Model, ModelError

log = logging.getLogger(__name__)


class Engine:
    """models: one per model key of the profile, not loaded. factory: makes a fresh one (after a hang, for a reload);
    without it a broken model is tried again as it is. device: where models go, one for all or by key.

    Raises ValueError if a model is missing."""

    def __init__(
        self,
        profile: Profile,
        models: Mapping[str, Model],
        *,
        factory: Factory | None = None,
        device: str | Callable[[str], str] = "cpu",
        policy: Policy | None = None,
    ) -> None:
        self._policy = policy or Policy()
        device_of = device if callable(device) else lambda key: device
        self._make = partial(make_plan, factory=factory, device_of=device_of, policy=self._policy)
        self._plan = self._make(profile, models, {})
        self._watch: asyncio.Task[None] | None = None
        self._replacing = asyncio.Lock()

    @property
    def profile(self) -> Profile:
        return self._plan.profile

    async def start(self) -> None:
        """Load all models side by side; those that are there answer meanwhile. Raises the ModelError of a required tier
        of which no member could be loaded; other models that could not be are left out and tried again later."""
        self._watch = asyncio.create_task(self._look_after())
        try:
            await self._plan.load(self._plan.supervisors)
        except BaseException:
            self._watch.cancel()
            raise

    async def close(self) -> None:
        """Stop looking after the models and close them. Safe to call twice."""
        if self._watch:
            self._watch.cancel()
        await asyncio.gather(*(supervisor.close() for supervisor in self._plan.supervisors.values()))

    async def decide(self, frame: Frame, deadline: Deadline, caller: str = "") -> Verdict:
        """The verdict, by the deadline; never raises because of a model. caller: for fairness between callers."""
        return await self._decide(frame, deadline, caller, cheaply=False)

    async def decide_cheap(self, frame: Frame, deadline: Deadline, caller: str = "") -> Verdict:
        """The verdict of the first tier alone: what is given under load."""
        return await self._decide(frame, deadline, caller, cheaply=True)

    async def _decide(self, frame: Frame, deadline: Deadline, caller: str, *, cheaply: bool) -> Verdict:
        plan, begun = self._plan, deadline.clock()
        decision = Decision(plan.profile, plan.fusion, frame.size)
        if cheaply:
            decision.cheapest_only()
        expected_ms = partial(tiers.expected_ms, supervisors=plan.supervisors, size=frame.size)
        plan.requests += 1
        plan.idle.clear()
        try:
            while tier := decision.next(deadline.remaining() * 1e3, expected_ms):
                answers = await tiers.ask(tier, plan.supervisors, frame, deadline, caller)
                decision.add(tier, answers.opinions, answers.failures)
                await self._ask_again(plan, decision, tier, frame, deadline, caller)
        finally:
            plan.requests -= 1
            if not plan.requests:
                plan.idle.set()
        return decision.verdict((deadline.clock() - begun) * 1e3)

    async def _ask_again(
        self, plan: Plan, decision: Decision, tier: Tier, frame: Frame, deadline: Deadline, caller: str
    ) -> None:
        """The second questions, where a member that points at boxes contradicts one that sees nothing."""
        while question := decision.second_question():
            rule, boxes = question
            supervisor = plan.supervisors[rule.model]
            if rule.timeout_ms > deadline.remaining() * 1e3 or not supervisor.can_examine:
                continue
            begun = deadline.clock()
            soon = Deadline(min(deadline.at, begun + rule.timeout_ms / 1e3), deadline.clock)
            try:
                decision.add(tier, [await supervisor.ask(frame, soon, caller, boxes)], [])
            except ModelError as error:
                milliseconds = (deadline.clock() - begun) * 1e3
                decision.add(tier, [], [Failure(rule.model, error.kind, f"second question: {error}", milliseconds)])

    async def canary(self) -> tuple[TierReadiness, ...]:
        """Send the canary picture through every model now, and say which tiers can answer."""
        await asyncio.gather(*(supervisor.canary() for supervisor in self._plan.supervisors.values()))
        return self.readiness()

    def readiness(self) -> tuple[TierReadiness, ...]:
        """Which tiers can answer, as far as is known without asking."""
        plan = self._plan
        return tuple(tiers.readiness(tier, plan.supervisors) for tier in plan.profile.tiers)

    def state(self) -> dict[str, ModelState]:
        """Breaker, queue and restarts of each model, for telemetry."""
        return {key: supervisor.state() for key, supervisor in self._plan.supervisors.items()}

    async def replace(self, profile: Profile, models: Mapping[str, Model] | None = None) -> None:
        """Go on under another profile without losing a request. What `models` holds takes the place of what is there;
        other new members come from the factory. All are loaded first. Raises ValueError or ModelError, and the old
        profile stays."""
        async with self._replacing:
            old = self._plan
            plan = self._make(profile, models or {}, old.supervisors)
            await plan.load({key: s for key, s in plan.supervisors.items() if old.supervisors.get(key) is not s})
            for member in profile.members:
                plan.supervisors[member.model].adopt(member)
            self._plan = plan
            log.info("profile %s replaces %s", profile.name, old.profile.name)
            if old.requests:
                await old.idle.wait()
            dropped = [s for key, s in old.supervisors.items() if plan.supervisors.get(key) is not s]
            await asyncio.gather(*(supervisor.close() for supervisor in dropped))

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(self._policy.tick)
            for supervisor in self._plan.supervisors.values():
                supervisor.tick()
