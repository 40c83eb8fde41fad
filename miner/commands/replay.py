"""`replay`: recorded opinions decided again under other profiles, without any model, in a what-if table."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import Field
from pydantic_settings import CliPositionalArg
from rich.console import Console
from rich.table import Table

from cascade.profile import ProfileError, load
from cascade.replay import WhatIf, what_if
from miner.recording import read_traces
from miner.settings import Settings, UsageError, parse


class Replay(Settings):
    """Decide recorded opinions again under other profiles: MCC, escalation share, mean milliseconds."""

    takes = ("profile",)
    traces: CliPositionalArg[Path] = Field(description="A file that `--trace` or `calibrate --record` wrote.")
    profiles: list[str] = Field(default_factory=list, description="Profiles to compare (name or file); repeatable.")
    as_json: bool = Field(False, description="Print JSON.")


def main(arguments: Sequence[str]) -> int:
    settings = parse(Replay, arguments)
    records = read_traces(settings.traces)
    if not records:
        raise UsageError(f"{settings.traces}: expected at least one trace line, got none")
    try:
        rows = [what_if(records, load(name)) for name in settings.profiles or [settings.profile]]
    except ProfileError as error:
        raise UsageError(str(error)) from None
    if settings.as_json:
        sys.stdout.write(json.dumps([asdict(row) for row in rows]) + "\n")
    else:
        Console().print(_table(rows))
    return 0


def _table(rows: Sequence[WhatIf]) -> Table:
    table = Table("profile", "records", "labelled", "MCC", "asked a second tier", "mean ms", "lack an opinion")
    for row in rows:
        mcc = "-" if row.mcc is None else f"{row.mcc:.3f}"
        shares = f"{row.escalated:.1%}", f"{row.mean_ms:.1f}", f"{row.incomplete:.1%}"
        table.add_row(row.profile, str(row.n), str(row.labelled), mcc, *shares)
    return table
