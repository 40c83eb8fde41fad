"""One picture's way through the tiers, without any waiting. The engine and the replay of recorded opinions drive the
same object, so that a replay decides as the engine would have."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from cascade.conditions import claims, settled
from cascade.fusion import Fusion
from cascade.profile import Profile, SecondQuestion, Tier
from cascade.queue import Boxes
from cascade.routing import next_step
from cascade.verdict import Source, Stop, Verdict
from models.base import Failure, ModelUnavailable, Opinion


class Decision:
    """`while tier := decision.next(...): decision.add(tier, ...)`, then `decision.verdict(...)`."""

    def __init__(self, profile: Profile, fusion: Fusion, size: tuple[int, int]) -> None:
        self._band, self._fusion = profile.band, fusion
        self._rules = list(profile.second_questions)  # those that were not asked yet
        self._size = size
        self._waiting = deque(tier for tier in profile.tiers if tier.concerns(size))
        self._opinions: dict[str, Opinion] = {}
        self._failures: list[Failure] = []
        self._asked: list[str] = []
        self._estimate = fusion.prior
        self._stop: Stop | None = None

    def cheapest_only(self) -> None:
        """Ask the first tier and no other."""
        while len(self._waiting) > 1:
            self._waiting.pop()

    def next(self, remaining_ms: float, expected_ms: Callable[[Tier], float]) -> Tier | None:
        """The tier to ask now; None when it is time to answer."""
        known = self._estimate if self._opinions else None
        expected = expected_ms(self._waiting[0]) if self._waiting else None
        self._stop = next_step(known, self._band, expected, remaining_ms)
        return None if self._stop else self._waiting.popleft()

    def add(self, tier: Tier, opinions: Sequence[Opinion], failures: Sequence[Failure]) -> None:
        """What the tier answered. A later opinion of the same model replaces the earlier one."""
        asked = opinions or any(failure.kind != ModelUnavailable.kind for failure in failures)
        if asked and tier.name not in self._asked:
            self._asked.append(tier.name)
        self._opinions.update((opinion.model, opinion) for opinion in opinions)
        self._failures.extend(failures)
        logits = {key: opinion.logit for key, opinion in self._opinions.items()}
        heard = [key for key in logits if self._fusion.hears(key)]
        conditions = settled(self._size, claims(self._opinions.values()), heard)
        self._estimate = self._fusion.estimate(logits, conditions)

    def second_question(self) -> tuple[SecondQuestion, Boxes] | None:
        """The next question to ask again, and the boxes to show: those of the loudest other member that points at some
        and says yes so much louder than the doubter. None if nobody contradicts anybody, or all has been asked."""
        for rule in self._rules:
            if boxes := self._contradicted(rule):
                self._rules.remove(rule)
                return rule, boxes
        return None

    def _contradicted(self, rule: SecondQuestion) -> Boxes | None:
        doubter = rule.says_no
        if rule.model not in self._opinions or doubter not in self._opinions:
            return None
        pointing = [
            opinion
            for key, opinion in self._opinions.items()
            if key not in (rule.model, doubter) and opinion.evidence.get("boxes")
        ]
        loudest = max(pointing, key=lambda opinion: opinion.logit, default=None)
        if loudest is None or loudest.logit < self._opinions[doubter].logit + rule.when_logit_gap:
            return None
        boxes: Boxes = loudest.evidence["boxes"]
        return boxes

    def verdict(self, milliseconds: float) -> Verdict:
        """The answer, with its history."""
        stop = self._stop or Stop.DEADLINE
        estimate = self._estimate
        return Verdict(
            probability=estimate.probability,
            interval=(estimate.low, estimate.high),
            opinions=tuple(self._opinions.values()),
            failures=tuple(self._failures),
            tiers=tuple(self._asked),
            stop=stop,
            source=self._source(stop),
            degraded=bool(self._failures),
            milliseconds=milliseconds,
        )

    def _source(self, stop: Stop) -> Source:
        if not self._opinions:
            return Source.PRIOR
        complete = stop is Stop.DECIDED or (stop is Stop.LAST_TIER and not self._failures)
        return Source.CASCADE if complete else Source.PARTIAL
