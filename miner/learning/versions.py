"""Versions on disk, the one in force, and what became of each.

A version is a directory with a whole profile in it (`<name>.toml`, `<name>.fit.json`, perhaps `head.json` and
`memory.npz`), so that serving one is serving a profile; a network that it had trained (`miner.learning.retrain`) lies
in `trained/`, since later versions go on with it. `current` points to the one in force; without it the miner's own
profile is.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cascade.profile import Profile, ProfileError, fit_path
from miner.learning.candidate import Candidate, no_pictures
from miner.learning.examples import ImproveError
from miner.learning.judging import Judgement
from miner.profiles import load
from miner.settings import UsageError
from models.head import Weights
from models.memory import Memory

MADE = ("staged", "promoted")  # events of the audit log, the first of which says when a version was made


class Versions:
    """The versions on disk, the one in force, and the audit log (`audit.jsonl`), one JSON line for each event."""

    def __init__(self, directory: Path, keep: int = 5, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.directory, self._keep, self._now = directory, keep, now
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            wrong = f"state directory {error.filename}: {error.strerror}"
            raise UsageError(f"{wrong}; make it writable, or choose another: --state-dir") from None

    @property
    def gate_file(self) -> Path:
        return self.directory / "gate.jsonl"

    def current(self) -> str:
        """Name of the version in force; empty: the miner's own profile."""
        return self._target("current")

    def names(self) -> list[str]:
        """All versions on disk, oldest first."""
        return sorted(path.name for path in self.directory.iterdir() if path.is_dir() and path.name.isdigit())

    def profile_path(self, name: str = "current") -> Path | None:
        """The profile of a version, to be served as any other; None when there is none."""
        return next(iter(sorted((self.directory / name).glob("*.toml"))), None)

    def read(self, name: str, fallback: Profile) -> Candidate:
        """One version; the empty name is `fallback`, the miner's own profile."""
        path = self.profile_path(name) if name else None
        if path is None:
            return Candidate(fallback)
        head, memories = path.with_name("head.json"), path.with_name("memory.npz")
        memory = Memory(no_pictures, memories) if memories.is_file() else None
        if memory is not None:
            memory.load("cpu")
        profile = load(path)
        said = self._said(profile)
        return Candidate(profile, Weights.read(head) if head.is_file() else None, memory, said)

    def write(self, candidate: Candidate) -> str:
        """Put a candidate on disk. Gives its name."""
        name = f"{max(map(int, self.names()), default=self._last_number()) + 1:04d}"
        draft = self.directory / f".{name}.new"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        path = draft / f"{candidate.profile.name}.toml"
        path.write_text(to_toml(self._beside(candidate.profile)), encoding="utf-8")
        if candidate.profile.fit:
            fit_path(path).write_text(candidate.profile.fit.model_dump_json(indent=1) + "\n", encoding="utf-8")
        if candidate.head is not None:
            candidate.head.save(draft / "head.json")
        if candidate.memory is not None:
            candidate.memory.save(draft / "memory.npz")
        load(path)  # what cannot be read back is never put in force
        draft.rename(self.directory / name)
        return name

    def _beside(self, profile: Profile) -> Profile:
        """The profile with the catalog of a trained network named from its version, so that all may be moved as one."""
        home = Path(profile.catalog).resolve()
        if not profile.catalog or not home.is_relative_to(self.trained.resolve()):
            return profile  # an operator's own catalog stays where it is
        return profile.model_copy(update={"catalog": Path("..", home.relative_to(self.directory.resolve())).as_posix()})

    def promote(self, name: str, judgement: Judgement, **facts: Any) -> None:
        """Put a version in force, forget the oldest beyond `keep`."""
        before = self.current()
        self._point_to(name)
        self._note("promoted", version=name, previous=before, **asdict(judgement), **facts)
        spare = [each for each in self.names() if each not in {name, before, self.staged()}]
        for old in spare[: max(len(self.names()) - self._keep, 0)]:
            shutil.rmtree(self.directory / old)

    def stage(self, name: str, judgement: Judgement, **facts: Any) -> None:
        """Let a version run beside the live one (`Shadow`) before it may be promoted."""
        self._point_to(name, "staged")
        self._note("staged", version=name, previous=self.current(), **asdict(judgement), **facts)

    def staged(self) -> str:
        """Name of the version that runs in the shadow; empty: none."""
        return self._target("staged")

    def unstage(self) -> None:
        self._point_to("", "staged")

    def refuse(self, judgement: Judgement, **facts: Any) -> None:
        """Note that a candidate did not pass; the version in force stays."""
        self._note("refused", version=self.current(), **asdict(judgement), **facts)

    def fail(self, why: str, **facts: Any) -> None:
        """Note that a round broke off; the version in force stays."""
        self._note("failed", version=self.current(), reason=why, **facts)

    @property
    def trained(self) -> Path:
        """Where trained networks lie, one directory each, named by the member's key."""
        return self.directory / "trained"

    def tidy(self) -> None:
        """Delete the trained networks that no version on disk asks."""
        asked = "".join(path.read_text(encoding="utf-8") for path in self.directory.glob("[0-9]*/*.toml"))
        for home in self.trained.iterdir() if self.trained.is_dir() else ():
            if home.name not in asked:
                shutil.rmtree(home)

    def rollback(self, name: str | None = None, who: str = "") -> str:
        """Put an older version in force (default: the one before). Gives its name; empty: the miner's own profile.

        Raises ImproveError when there is nothing to go back to.
        """
        before = self.current()
        if not before and name is None:
            raise ImproveError("the miner's own profile is in force: there is nothing to go back to")
        target = name if name is not None else self._previous_of(before)
        if target and target not in self.names():
            known = ", ".join(self.names()) or "none"
            raise ImproveError(f"version {target} is not on disk (there: {known})")
        self._point_to(target)
        self._note("rollback", version=target, previous=before, who=who)
        return target

    def unusable(self, name: str, why: str) -> None:
        """Note that the miner could not serve a version that is in force, and goes on with what it served."""
        self._note("unusable", version=name, reason=why)

    def audit(self) -> list[dict[str, Any]]:
        """Every event, oldest first."""
        path = self.directory / "audit.jsonl"
        if not path.is_file():
            return []
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]

    def made(self, name: str) -> float:
        """Unix time at which a version was made: it learned from no later label. 0 for the miner's own profile."""
        made = [line["time"] for line in self.audit() if line["version"] == name and line["event"] in MADE]
        return datetime.fromisoformat(made[0]).timestamp() if made else 0.0

    def _said(self, profile: Profile) -> dict[str, dict[str, float]]:
        home = Path(profile.catalog).resolve().parent
        if not profile.catalog or home.parent != self.trained.resolve():
            return {}
        path = home / "opinions.json"
        try:
            said: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ProfileError(f"{path}: expected what the trained network said: {error}; roll back") from error
        return {home.name: said}

    def _previous_of(self, name: str) -> str:
        lines = [line for line in self.audit() if line["event"] == "promoted" and line["version"] == name]
        return str(lines[-1]["previous"]) if lines else ""

    def _last_number(self) -> int:
        return max((int(line["version"]) for line in self.audit() if line.get("version")), default=0)

    def _target(self, link: str) -> str:
        path = self.directory / link
        return os.readlink(path) if path.is_symlink() else ""

    def _point_to(self, name: str, link: str = "current") -> None:
        path = self.directory / link
        if not name:
            path.unlink(missing_ok=True)
            return
        draft = self.directory / f".{link}.new"
        draft.unlink(missing_ok=True)
        draft.symlink_to(name)
        draft.replace(path)

    def _note(self, event: str, **facts: Any) -> None:
        line = {"time": self._now().isoformat(timespec="seconds"), "event": event, **facts}
        with (self.directory / "audit.jsonl").open("a", encoding="utf-8") as log_file:
            log_file.write(json.dumps(line) + "\n")
            log_file.flush()
            os.fsync(log_file.fileno())


def to_toml(profile: Profile) -> str:
    """The profile without its fit as TOML that `cascade.profile.load` reads."""
    data = profile.model_dump(mode="json", exclude={"fit"}, exclude_none=True)
    tiers = data.pop("tiers")
    lines = [f"{key} = {inline(value)}" for key, value in data.items()]
    for tier in tiers:
        members = tier.pop("members")
        lines += ["", "[[tiers]]", *(f"{key} = {inline(value)}" for key, value in tier.items())]
        for member in members:
            lines += ["", "[[tiers.members]]", *(f"{key} = {inline(value)}" for key, value in member.items())]
    return "\n".join(lines) + "\n"


def inline(value: Any) -> str:
    """A value as TOML writes it on one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {inline(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    return json.dumps(value)  # strings, numbers and booleans are the same in TOML
