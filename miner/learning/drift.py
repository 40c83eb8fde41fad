"""Whether the pictures still are what the miner was fitted for; alarms that propose what to do.

- Scores and novelty: a conformal test martingale (Vovk et al. 2021, "Retrain or not retrain", Simple Jumper). It bets
  that a new value does not rank like the ones before. Restarted whenever its wealth falls below 1 (CUSUM), it raises a
  false alarm on average not before as many answers as its threshold: with 10^6, at 10,000 answers a day, not in a
  hundred days.
- Prevalence: the share of road work that explains the calibrated probabilities best (Saerens et al. 2002, EM), put
  together with the share among recent labels that nobody picked for being hard. The first believes that only the share
  changed, and bad weather that makes clear streets look like road work fools it; so it is never trusted to less than
  +-0.1, and moves nothing by itself short of a share below 0.25 or above 0.75. What both say beyond doubt is corrected
  in log-odds, slowly and within limits.
- PSI (population stability index) of the journal's daily score histograms, for the months that nobody watched.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from cascade.calibration import logit, sigmoid
from cascade.deadline import Deadline
from cascade.verdict import Source, Verdict
from miner.journal import novelty
from miner.journal_views import Views
from miner.service import Decide
from miner.stability import psi
from models.base import Frame

log = logging.getLogger(__name__)

WINDOW = 2000  # answers the prevalence is estimated from
EVERY = 100  # answers between two estimates
LEAST_LABELS = 30  # recent labels that are worth asking
LEAST_PSI = 500  # answers on each side for a PSI
DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something drifted. action: what the operator is advised to do. at: Unix time."""

    kind: str
    message: str
    action: str
    at: float


@dataclass(frozen=True, slots=True)
class Limits:
    """threshold: wealth of a martingale that is an alarm. sure: standard errors by which the prevalence must differ.
    doubt: least standard error of a prevalence that no label confirms. step, most: log-odds that the correction may
    move at a time, and may reach (0: it corrects nothing). told: log-odds that are an alarm, if they are not corrected.
    psi: index that is an alarm."""

    threshold: float = 1e6
    sure: float = 2.5
    doubt: float = 0.1
    step: float = 0.1
    most: float = 1.0
    told: float = 1.0
    psi: float = 0.25


class Martingale:
    """Bets against the exchangeability of values in [0, 1], kept in `bins` counts: memory does not grow."""

    JUMP = 0.01

    def __init__(self, bins: int = 1000, chance: Callable[[], float] = random.random) -> None:
        self._counts = np.zeros(bins, dtype=np.int64)
        self._chance = chance
        self._capital = np.full(3, 1 / 3)  # betting on smaller ranks, not betting, betting on larger ones
        self.n = 0

    @property
    def wealth(self) -> float:
        """At least 1; high wealth is evidence of a change."""
        return float(self._capital.sum())

    def observe(self, value: float) -> float:
        """Take one value into account; gives the wealth after it."""
        bin_ = min(int(value * len(self._counts)), len(self._counts) - 1)
        self._counts[bin_] += 1
        self.n += 1
        above = int(self._counts[bin_ + 1 :].sum())
        rank = (above + self._chance() * int(self._counts[bin_])) / self.n  # uniform if nothing changes
        mixed = (1 - self.JUMP) * self._capital + self.JUMP * self._capital.sum() / 3
        self._capital = mixed * (1 + np.array([-1.0, 0.0, 1.0]) * (rank - 0.5))
        if self.wealth < 1.0:
            self._capital[:] = 1 / 3
        return self.wealth


def prevalence(probabilities: ArrayLike, prior: float) -> tuple[float, float]:
    """Share of road work (and its standard error) that explains probabilities (N,) calibrated at the share `prior`."""
    p = np.clip(np.asarray(probabilities, dtype=np.float64), 1e-6, 1 - 1e-6)
    ratio = p / (1 - p) * (1 - prior) / prior  # how much likelier each picture is under road work
    share = prior
    for _ in range(200):
        before, share = share, float(np.mean(share * ratio / (share * ratio + 1 - share)))
        if abs(share - before) < 1e-6:
            break
    share = min(max(share, 1e-4), 1 - 1e-4)
    information = float((((ratio - 1) / (share * ratio + 1 - share)) ** 2).sum())
    return share, 1.0 / math.sqrt(max(information, 1e-12))


class Watch:
    """Watches the answers of one model version. prior: share of road work the cascade is calibrated for."""

    def __init__(
        self,
        prior: float,
        version: Callable[[], str],
        limits: Limits = Limits(),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._prior, self._version, self._limits, self._clock = prior, version, limits, clock
        self._alarms: dict[str, Alarm] = {}
        self._labels = 0, 0
        self._watched, self._since, self._shift = "", 0, 0.0
        self._reset()

    @property
    def shift(self) -> float:
        """Log-odds to add to what the cascade says now."""
        return self._shift

    @property
    def prevalence(self) -> float:
        """The share of road work that the correction assumes."""
        return sigmoid(logit(self._prior) + self._shift)

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """Those of the last day, one of each kind, newest last."""
        fresh = [alarm for alarm in list(self._alarms.values()) if self._clock() - alarm.at < DAY]
        return tuple(sorted(fresh, key=lambda alarm: alarm.at))

    def observe(self, verdict: Verdict) -> None:
        """Take one uncorrected verdict into account. An answer without an opinion says nothing of the picture."""
        if self._version() != self._watched:
            self._reset()
        if verdict.source is Source.PRIOR or not verdict.opinions:
            return
        self._bet("scores", self._scores, verdict.probability, "collect labels on the review page, then run improve")
        if new := novelty(verdict):
            self._bet("novelty", self._novelty, new, "review the queue's novel pictures first, then run improve")
        self._window.append(verdict.probability)
        self._since += 1
        if self._since >= EVERY and len(self._window) >= WINDOW // 4:
            self._since = 0
            self._correct()

    def told(self, labels: int, roadwork: int) -> None:
        """How many recent labels of representative pictures there are, and how many of them are road work."""
        self._labels = labels, roadwork

    def compare(self, views: Views) -> float | None:
        """PSI of the last day against the version's first week on record; None while either is too small."""
        now = self._clock()
        today = views.scores(now - DAY, now + 3600, self._watched)
        begun = views.begun(self._watched)
        reference = views.scores(begun, min(begun + 7 * DAY, now - DAY), self._watched)
        if min(int(today.sum()), int(reference.sum())) < LEAST_PSI:
            return None
        index = psi(reference, today)
        if index > self._limits.psi:
            message = f"the last day's scores differ from the version's first week: PSI {index:.2f}"
            self._raise("psi", message, "collect labels on the review page, then run improve")
        return index

    def moved(self, of: str, index: float) -> None:
        """Told the PSI of something that others measure; NaN: not known yet."""
        if index > self._limits.psi:
            message = f"{of} differ from those of the first days: PSI {index:.2f}"
            self._raise(of, message, "look at recent pictures on the review page, label them, then run improve")

    def _reset(self) -> None:
        self._watched = self._version()
        self._scores, self._novelty = Martingale(), Martingale()
        self._window: deque[float] = deque(maxlen=WINDOW)
        self._since = 0
        self._shift = 0.0

    def _bet(self, kind: str, martingale: Martingale, value: float, action: str) -> None:
        if martingale.observe(value) > self._limits.threshold:
            message = f"{kind} no longer rank like those before: wealth {martingale.wealth:.1g} after {martingale.n}"
            self._raise(kind, message, action)
            if kind == "scores":
                self._scores = Martingale()
            else:
                self._novelty = Martingale()

    def _correct(self) -> None:
        share, error = self._share()
        wanted = 0.0
        if abs(share - self._prior) > self._limits.sure * error:
            wanted = logit(share) - logit(self._prior)
        if abs(wanted) > max(self._limits.most, self._limits.told):
            message = f"road work seems to be {share:.0%} of the pictures, fitted for {self._prior:.0%}"
            self._raise(
                "prevalence", message, "label fifty pictures of today; if it is true, set the profile's prevalence"
            )
        wanted = min(max(wanted, -self._limits.most), self._limits.most)
        self._shift += min(max(wanted - self._shift, -self._limits.step), self._limits.step)

    def _share(self) -> tuple[float, float]:
        """Today's share of road work and its standard error: scores and labels, weighted by what each is sure of."""
        share, error = prevalence(list(self._window), self._prior)
        error = max(error, self._limits.doubt)
        n, roadwork = self._labels
        if n < LEAST_LABELS:
            return share, error
        told = (roadwork + 1) / (n + 2)
        trust = error**-2, n / (told * (1 - told))
        return (trust[0] * share + trust[1] * told) / sum(trust), sum(trust) ** -0.5

    def _raise(self, kind: str, message: str, action: str) -> None:
        if kind not in {alarm.kind for alarm in self.alarms}:
            log.warning("drift: %s. %s.", message, action.capitalize())
            self._alarms[kind] = Alarm(kind, message, action, self._clock())


class Corrected:
    """Wraps the cascade's `decide`: shows each verdict to the watch, and adds the watch's shift."""

    def __init__(self, decide: Decide, watch: Watch) -> None:
        self._decide, self._watch = decide, watch

    async def decide(self, frame: Frame, deadline: Deadline, caller: str) -> Verdict:
        verdict = await self._decide(frame, deadline, caller)
        self._watch.observe(verdict)
        return shifted(verdict, self._watch.shift) if verdict.source is not Source.PRIOR else verdict


def shifted(verdict: Verdict, shift: float) -> Verdict:
    """The same verdict with `shift` added to its log-odds."""
    if shift == 0.0:
        return verdict
    p, low, high = (sigmoid(logit(value) + shift) for value in (verdict.probability, *verdict.interval))
    return replace(verdict, probability=p, interval=(min(low, p), max(high, p)))
