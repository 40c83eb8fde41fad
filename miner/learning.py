"""What makes the miner better by being used, put together: journal, duplicates, drift, shadow and review.

    learning = Learning(settings.state, engine.decide, lambda: engine.profile)
    Service(learning.decide, ..., observers=[..., learning.observe])
    health_app(..., [*dashboard.routes(), *learning.routes(guard)])
    learning.refresh()  # every hour, in a thread
    learning.close()

The order of the wrappers: a repeat is answered before anything else; what is new goes to the cascade, its verdict past
the shadow (a staged candidate) and through the correction for a shifted prevalence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from starlette.routing import Route

from cascade.profile import Profile, load
from miner.drift import Alarm, Corrected, Watch
from miner.duplicates import Duplicates, Repeats, finder
from miner.improve import Shadow, Versions
from miner.journal import Counts, Embed, Journal, Keep
from miner.journal_views import Views, days_ago
from miner.review import Guard, loopback_only, routes
from miner.service import Answered, Decide

LABELS_COUNT = 14.0  # days that a label says something of today's share of road work


@dataclass(frozen=True, slots=True)
class Habits:
    """What the operator may choose. near_bits: bits of dHash within which a picture is a repeat, 0 for the same bytes
    only, -1 for never. recheck: share of repeats put to the cascade all the same. canary: share of pictures that a
    staged candidate answers."""

    keep: Keep = field(default_factory=Keep)
    near_bits: int = 0
    recheck: float = 0.02
    correct_prevalence: bool = True
    canary: float = 0.0


class Learning:
    """All of it for one miner. state: the hotkey's directory. embed: gives kept pictures their vector.

    Raises JournalError when the journal cannot be opened: serve without it then.
    """

    def __init__(
        self,
        state: Path,
        decide: Decide,
        profile: Callable[[], Profile],
        habits: Habits = Habits(),
        revision: str = "",
        embed: Embed | None = None,
        embedder: str = "embedder",
    ) -> None:
        self._profile, self._revision = profile, revision
        self._named: tuple[Profile, str] | None = None
        self.journal = Journal(state / "journal", self.version, habits.keep, embed, embedder)
        self.views = Views(self.journal.directory)
        self.watch = Watch(profile().prevalence, self.version)
        self._duplicates: Duplicates | None = None
        self.decide = decide
        versions = Versions(state / "versions")
        staged = versions.profile_path("staged")
        if staged is not None:
            shadow = Shadow(self.decide, load(staged), versions.staged(), self.journal.shadow, habits.canary)
            self.decide = shadow.decide
        if habits.correct_prevalence:
            self.decide = Corrected(self.decide, self.watch).decide
        if habits.near_bits >= 0:
            find = finder(self.views, habits.near_bits)
            self._duplicates = Duplicates(self.decide, find, self.version, habits.recheck)
            self.decide = self._duplicates.decide

    def version(self) -> str:
        """Names what answers now: the profile with its fit, and the weights (`revision`)."""
        profile = self._profile()
        if self._named is None or self._named[0] is not profile:
            self._named = profile, version_of(profile, self._revision)
        return self._named[1]

    def observe(self, answered: Answered) -> None:
        """An observer of the service."""
        self.journal(answered)

    def routes(self, guard: Guard = loopback_only) -> list[Route]:
        """The review page."""
        return routes(self.journal, guard)

    def refresh(self) -> None:
        """What needs the journal: the labels' share and PSI, for the watch. Every hour or so, in a thread."""
        self.watch.told(*self.views.labelled_share(days_ago(LABELS_COUNT)))
        self.watch.compare(self.views)

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """Drift of the last day."""
        return self.watch.alarms

    @property
    def counts(self) -> Counts:
        """What became of the requests on their way to the journal."""
        return self.journal.counts

    @property
    def repeats(self) -> Repeats:
        """How often pictures came again."""
        return self._duplicates.repeats if self._duplicates else Repeats()

    def close(self) -> None:
        """Write what is left. Safe to call twice."""
        self.journal.close()
        self.views.close()


def version_of(profile: Profile, revision: str = "") -> str:
    """`<name>-<8 hexadecimal digits>` of the profile with its fit and of `revision`."""
    digest = hashlib.sha256(f"{profile.model_dump_json()} {revision}".encode()).hexdigest()
    return f"{profile.name}-{digest[:8]}"


def profile_in_force(state: Path, own: str) -> Profile:
    """The promoted version's profile, else the miner's `own` (a name or a path). For the start and for SIGHUP.

    Raises ProfileError.
    """
    return load(Versions(state / "versions").profile_path() or own)
