"""`improve`: learn from the journal's labels behind a gate; `improve shadow | promote | rollback | audit`."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import Field
from rich.console import Console

from miner.assembly import embedder_name, profile_of
from miner.commands.train import require_extra
from miner.journal_schema import JournalError
from miner.journal_views import Views, days_ago
from miner.learning.examples import ImproveError, assemble, base_examples
from miner.learning.improve import TRAIN, improve, promote_staged, shadow_comparison
from miner.learning.judging import Judgement, told
from miner.learning.retrain import Retrain
from miner.learning.versions import Versions
from miner.settings import DECIDING, STATE, Settings, UsageError, parse

log = logging.getLogger(__name__)


class Improve(Settings):
    """Learn from the journal's labels; promote only what is better at 95 % on the frozen gate set and the new labels.

    Also: improve shadow, improve promote, improve rollback, improve audit.
    """

    takes = (*DECIDING, *STATE)
    base: Path | None = Field(None, description="Labelled trace lines to learn from too (calibrate --record).")
    days: float = Field(180, ge=0, description="Use labels of the last so many days; 0: all.")
    steps: str = Field("head,refit", description="What to fit, in order, with commas: head, memory, train, refit.")
    training: Path | None = Field(None, description="For the step train: TOML file of settings of train or distil.")
    training_hours: float = Field(12, gt=0, description="A training that takes longer is stopped.")
    embedder: str = Field(embedder_name(), description="Name of the embeddings in the journal that are learned from.")
    keep: int = Field(5, ge=1, description="Versions that stay on disk.")
    shadow: bool = Field(False, description="Do not promote: let the candidate run beside the live version first.")
    every: float = Field(0, ge=0, description="Do it again every so many hours, until stopped; 0: once.")
    as_json: bool = Field(False, description="Print JSON.")


class Rollback(Settings):
    """Put an older version in force: the one before, or the one named."""

    takes = STATE
    to: str | None = Field(None, description="Version to go back to; own: the miner's own profile.")


class Promote(Settings):
    """Put the staged version in force if it was better on the labelled pictures that both answered."""

    takes = STATE
    as_json: bool = Field(False, description="Print JSON.")


class Shadowed(Settings):
    """What the staged version said beside the live one, and how many answers were its own (canary)."""

    takes = STATE
    as_json: bool = Field(False, description="Print JSON.")


class Audit(Settings):
    """What was promoted, refused and rolled back, and on what figures."""

    takes = STATE
    as_json: bool = Field(False, description="Print the JSON lines as they are.")


def main(arguments: Sequence[str]) -> int:
    word = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    steps = {"shadow": _shadow, "promote": _promote, "rollback": _rollback, "audit": _audit}
    if word and word not in steps:
        raise UsageError(f"unknown: improve {word!r}; known: improve, improve {', improve '.join(steps)}")
    try:
        return steps[word](arguments[1:]) if word else _improve(arguments)
    except (ImproveError, JournalError) as error:
        raise UsageError(str(error)) from None


def versions_of(settings: Settings, keep: int = 5) -> Versions:
    """Where this miner's versions lie: `serve` takes its profile from there (`profile_path`) when one is in force."""
    return Versions(settings.state / "versions", keep)


def _improve(arguments: Sequence[str]) -> int:
    settings = parse(Improve, arguments)
    if TRAIN in _steps(settings):
        require_extra()
    if not settings.every:
        return _once(settings)
    while True:
        try:
            _once(settings)
        except (ImproveError, JournalError) as error:
            log.warning("nothing learned this time: %s", error)
        time.sleep(3600.0 * settings.every)


def _steps(settings: Improve) -> list[str]:
    return [step.strip() for step in settings.steps.split(",") if step.strip()]


def _once(settings: Improve) -> int:
    versions = versions_of(settings, settings.keep)
    base = base_examples(settings.base) if settings.base else []
    views = Views(settings.state / "journal")
    try:
        labelled = views.labelled(days_ago(settings.days), embedder=settings.embedder)
        data = assemble(labelled, base, versions.gate_file, versions.made(versions.current()))
        training = settings.training
        train = Retrain(settings, training, views, versions, 3600 * settings.training_hours) if training else None
        own = profile_of(settings)
        name, judgement = improve(data, versions, own, _steps(settings), settings.shadow, train)
    finally:
        views.close()
    return _say(name, judgement, "staged" if settings.shadow else "promoted", settings.as_json)


def _promote(arguments: Sequence[str]) -> int:
    settings = parse(Promote, arguments, "promote")
    versions, views = versions_of(settings), Views(settings.state / "journal")
    try:
        seen = views.shadows(versions.staged())
    finally:
        views.close()
    name, judgement = promote_staged(versions, seen)
    return _say(name, judgement, "promoted", settings.as_json)


def _shadow(arguments: Sequence[str]) -> int:
    settings = parse(Shadowed, arguments, "shadow")
    views = Views(settings.state / "journal")
    try:
        staged = versions_of(settings).staged()
        (seen, answered, agreed), labelled = views.shadow_totals(staged), views.shadows(staged)
    finally:
        views.close()
    if not staged:
        raise ImproveError("no version is staged; run improve --shadow first")
    it = shadow_comparison(labelled)
    if settings.as_json:
        facts = {"version": staged, "seen": seen, "answered": answered, "agreed": agreed, "labelled": len(labelled)}
        sys.stdout.write(json.dumps({**facts, "comparison": asdict(it) if it else None}) + "\n")
        return 0
    console = Console()
    counts = f"saw {seen} pictures, {answered} got its answer, {agreed} lie on the live version's side of 0.5"
    console.print(f"version {staged} {counts}", highlight=False)
    few = f"{len(labelled)} of them are labelled: too few to compare on"
    console.print(f"labelled: {told(it)}" if it else few, highlight=False)
    return 0


def _rollback(arguments: Sequence[str]) -> int:
    settings = parse(Rollback, arguments, "rollback")
    to = "" if settings.to == "own" else settings.to
    name = versions_of(settings).rollback(to, who="operator")
    sys.stdout.write(f"in force: {name or 'the own profile'}; a running miner serves it within seconds\n")
    return 0


def _audit(arguments: Sequence[str]) -> int:
    settings = parse(Audit, arguments, "audit")
    lines = versions_of(settings).audit()
    for line in lines:
        sys.stdout.write((json.dumps(line) if settings.as_json else summary(line)) + "\n")
    if not (lines or settings.as_json):
        sys.stdout.write(f"nothing yet: improve has changed nothing in {settings.state}\n")
    return 0


def summary(line: dict[str, object]) -> str:
    """One audit line for people."""
    parts = [f"{line['time']}  {line['event']:9s} {line['version'] or 'own profile'}"]
    parts += [str(line["reason"])] if "reason" in line else []
    compared = [(name, it) for name in ("gate", "new", "both") if isinstance(it := line.get(name), dict)]
    parts += [
        f"{name} {it['mcc_before']:.3f} -> {it['mcc_after']:.3f} (n {it['n']}, low {it['low']:+.4f})"
        for name, it in compared
    ]
    if isinstance(reasons := line.get("reasons"), list):
        parts += [str(reason) for reason in reasons]
    return "; ".join(parts)


def _say(name: str, judgement: Judgement, done: str, as_json: bool) -> int:
    if as_json:
        facts = {"version": name, "event": done if name else "refused", **asdict(judgement)}
        sys.stdout.write(json.dumps(facts) + "\n")
        return 0
    console = Console()
    compared = (("gate set", judgement.gate), ("new labels", judgement.new), ("together", judgement.both))
    for title, it in compared:
        if it is not None:
            console.print(f"{title:10s} {told(it)}", highlight=False)
    if name:
        running = "a running miner lets it answer in the shadow" if done == "staged" else "a running miner serves it"
        then = f"{running} within seconds"
        console.print(f"[bold green]{done}[/] version {name}; {then}", highlight=False)
    else:
        console.print(f"[bold yellow]refused[/] {'; '.join(judgement.reasons)}", highlight=False)
    return 0
