"""What makes the miner better by being used, put together: journal, duplicates, drift, shadow and review.

    learning = Learning(settings.state, engine.decide, lambda: engine.profile)
    Service(learning.decide, ..., observers=[..., learning.observe])
    health_app(..., [*dashboard.routes(), *learning.routes(guard)])
    learning.follow(profile)  # every few seconds: a version that was staged meanwhile
    learning.refresh()  # every quarter of an hour, in a thread
    learning.close()

The order of the wrappers: a repeat is answered before anything else; what is new goes to the cascade, its verdict past
the shadow (a staged candidate) and through the correction for a shifted prevalence.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from starlette.routing import Route

from cascade.profile import Profile, ProfileError
from miner.duplicates import Duplicates
from miner.journal import JOURNAL_TIER, Counts, Journal, Keep
from miner.journal_views import Views, days_ago
from miner.learning.drift import Alarm, Corrected, Limits, Watch
from miner.learning.shadow import Shadow
from miner.learning.versions import Versions
from miner.review import Guard, loopback_only, routes
from miner.service import Answered, Decide
from miner.stability import EmbeddingDrift
from models.base import ModelError
from models.memory import Embedder

log = logging.getLogger(__name__)

LABELS_COUNT = 14.0  # days that a label says something of today's share of road work


@dataclass(frozen=True, slots=True)
class Habits:
    """How it goes about it. recheck: share of repeats put to the cascade all the same. correction: most log-odds by
    which answers follow a shift of the prevalence, 0 for never. canary: share of pictures that a staged candidate
    answers."""

    keep: Keep = field(default_factory=Keep)
    recheck: float = 0.02
    correction: float = 0.0
    canary: float = 0.0


class Learning:
    """All of it for one miner. state: the hotkey's directory. embedder: gives pictures their vectors.

    Raises JournalError when the journal cannot be opened: serve without it then.
    """

    def __init__(
        self,
        state: Path,
        decide: Decide,
        profile: Callable[[], Profile],
        habits: Habits = Habits(),
        revision: str = "",
        embedder: Embedder | None = None,
    ) -> None:
        self._profile, self._revision, self._embedder = profile, revision, embedder
        self._named: tuple[Profile, str] | None = None
        embed = (lambda frame: embedder.embed([frame])[0]) if embedder else None
        name = embedder.name if embedder else ""
        self.journal = Journal(state / "journal", self.version, habits.keep, embed, name)
        self.views = Views(self.journal.directory)
        self.watch = Watch(profile().prevalence, self.version, Limits(most=habits.correction))
        self.looks = EmbeddingDrift(state / f"first-{name or 'none'}.npz")
        self.drift: dict[str, float] = {}
        self._versions = Versions(state / "versions")
        known = embedder.known if embedder else (lambda sha256: None)
        self.shadow = Shadow(decide, self.journal.shadow, habits.canary, known)
        self.follow(profile())
        corrected = Corrected(self.shadow.decide, self.watch)
        self.decide = Duplicates(corrected.decide, self.views.find, self.version, habits.recheck).decide

    def version(self) -> str:
        """Names what answers now: the profile with its fit, and the weights (`revision`)."""
        profile = self._profile()
        if self._named is None or self._named[0] is not profile:
            self._named = profile, version_of(profile, self._revision)
        return self._named[1]

    def observe(self, answered: Answered) -> None:
        """An observer of the service."""
        self.journal(answered)
        verdict = answered.verdict
        if self._embedder and answered.frame and verdict and verdict.tiers != (JOURNAL_TIER,):
            embedding = self._embedder.known(answered.frame.sha256)
            if embedding is not None:
                self.looks.add(embedding)

    def follow(self, own: Profile) -> None:
        """Let the version that is staged now run in the shadow. A version that cannot be read is left out."""
        staged = self._versions.staged()
        if staged == self.shadow.name:
            return
        try:
            self.shadow.run(staged, self._versions.read(staged, own) if staged else None)
        except (ProfileError, ModelError) as error:
            self.shadow.run(staged, None)
            log.error("staged version %s cannot be used: %s", staged, error)
        else:
            log.info("in the shadow: %s", staged or "nothing")

    def routes(self, guard: Guard = loopback_only) -> list[Route]:
        """The review page."""
        return routes(self.journal, guard)

    def refresh(self) -> None:
        """What takes time: the labels' share and the stability of scores and embeddings, for the watch. In a thread."""
        self.watch.told(*self.views.labelled_share(days_ago(LABELS_COUNT)))
        self.drift["scores"] = self.watch.compare(self.views) or float("nan")
        self.drift["embeddings"] = self.looks.psi()
        self.watch.moved("embeddings", self.drift["embeddings"])

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """Drift of the last day."""
        return self.watch.alarms

    @property
    def counts(self) -> Counts:
        """What became of the requests on their way to the journal."""
        return self.journal.counts

    def close(self) -> None:
        """Write what is left. Safe to call twice."""
        self.journal.close()
        self.views.close()


def version_of(profile: Profile, revision: str = "") -> str:
    """`<name>-<8 hexadecimal digits>` of the profile with its fit and of `revision`."""
    digest = hashlib.sha256(f"{profile.model_dump_json()} {revision}".encode()).hexdigest()
    return f"{profile.name}-{digest[:8]}"
