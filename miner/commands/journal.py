"""`journal stats | export | label`: what was asked and answered, as a data set, and labels from elsewhere."""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg
from rich.console import Console
from rich.table import Column, Table

from miner.export import ExportError, export
from miner.journal import Journal, Keep
from miner.journal_schema import JournalError
from miner.journal_views import Views, days_ago
from miner.settings import STATE, Settings, UsageError, parse


class Stats(Settings):
    """Requests, answers, faults and labels on record, by version and caller.

    Also: journal export DIR, journal label FILE.
    """

    takes = STATE
    days: float = Field(7, ge=0, description="Count the last so many days; 0: ever.")
    as_json: bool = Field(False, description="Print JSON.")


class Export(Settings):
    """Write requests and labelled pictures as Parquet files that Hugging Face datasets loads."""

    takes = STATE
    directory: CliPositionalArg[Path] = Field(description="Where to; made if missing.")
    days: float = Field(0, ge=0, description="Only the last so many days; 0: all.")


class Label(Settings):
    """Take labels from a CSV file with the columns sha256 and label (1 road work, 0 clear)."""

    takes = STATE
    file: CliPositionalArg[Path] = Field(description="The CSV file.")
    source: Literal["consensus", "human", "testnet"] = Field("consensus", description="Who says so.")


def main(arguments: Sequence[str]) -> int:
    words = list(arguments)
    if not words or words[0].startswith("-"):
        words.insert(0, "stats")
    run = {"stats": _stats, "export": _export, "label": _label}.get(words[0])
    if run is None:
        raise UsageError(f"unknown: journal {words[0]!r}; known: journal stats, journal export DIR, journal label FILE")
    try:
        return run(words[1:])
    except (JournalError, ExportError) as error:
        raise UsageError(str(error)) from None


def _stats(arguments: Sequence[str]) -> int:
    settings = parse(Stats, arguments, "stats")
    views = Views(settings.state / "journal")
    try:
        stats = views.stats(days_ago(settings.days))
    finally:
        views.close()
    if settings.as_json:
        sys.stdout.write(json.dumps(stats) + "\n")
    else:
        _print(stats)
    return 0


def _print(stats: dict[str, Any]) -> None:
    console = Console()
    labels = ", ".join(f"{n} {source}" for source, n in stats["labels"].items()) or "none"
    console.print(
        f"{stats['requests']} requests; {stats['pictures']} pictures ever, {stats['kept']} kept "
        f"({stats['kept_bytes'] / 1e9:.2f} GB); labels: {labels}",
        highlight=False,
    )
    table = Table(Column(overflow="fold"), "requests", "road work", "faults", "mean ms", "slowest ms", box=None)
    for kind in ("versions", "callers"):
        for name, row in stats[kind].items():
            values = (row["requests"], f"{row['roadwork_share']:.0%}", row["faults"], row["mean_ms"], row["slowest_ms"])
            table.add_row(f"{kind[:-1]} {name}", *map(str, values))
    console.print(table)


def _export(arguments: Sequence[str]) -> int:
    settings = parse(Export, arguments, "export")
    views = Views(settings.state / "journal")
    try:
        requests, pictures = export(views, settings.directory, days_ago(settings.days))
    finally:
        views.close()
    sys.stdout.write(f"{requests} requests and {pictures} labelled pictures in {settings.directory}\n")
    return 0


def _label(arguments: Sequence[str]) -> int:
    settings = parse(Label, arguments, "label")
    directory = settings.state / "journal"
    Views(directory).close()  # says so when there is none, instead of making one
    journal = Journal(directory, lambda: "", Keep(enabled=False, quota_gb=math.inf))  # pictures are not its business
    taken = unknown = 0
    try:
        for sha256, label in _rows(settings.file):
            try:
                journal.label(sha256, label, settings.source, settings.file.name).result(30)
                taken += 1
            except KeyError:
                unknown += 1
    finally:
        journal.close()
    sys.stdout.write(f"{taken} labels taken, {unknown} of pictures that were never seen here\n")
    return 0


def _rows(path: Path) -> list[tuple[str, int]]:
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            rows = [(row["sha256"], int(row["label"])) for row in csv.DictReader(lines)]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: expected CSV with the columns sha256 and label: {error!r}") from None
    if bad := [label for _, label in rows if label not in (0, 1)]:
        raise UsageError(f"{path}: expected labels 0 and 1, got {bad[0]}")
    if strange := [sha256 for sha256, _ in rows if not re.fullmatch("[0-9a-fA-F]{64}", sha256)]:
        raise UsageError(f"{path}: expected a SHA-256 of 64 hexadecimal digits, got {strange[0][:80]!r}")
    return rows
