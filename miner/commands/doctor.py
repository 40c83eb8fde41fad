"""`doctor`: check this machine, the settings, the wallet and the chain. Exit code: the number of failures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

from pydantic import Field
from rich.console import Console
from rich.table import Table
from rich.text import Text

from miner.doctor.examination import as_json, examine, failures
from miner.doctor.finding import Finding, Outcome
from miner.doctor.world import World, read_chain
from miner.settings import Settings, parse

COLOURS = {Outcome.OK: "green", Outcome.WARN: "yellow", Outcome.FAIL: "bold red", Outcome.UNKNOWN: "dim"}


class Doctor(Settings):
    """Check this machine, the settings, the wallet and the chain; say what to mend. Exit code: the failures."""

    takes = tuple(Settings.model_fields)  # it looks at what serve would do with the same flags
    as_json: bool = Field(False, description="Print JSON for a program.")
    reflector: str = Field("", description="An echoip server (https://ifconfig.co) to try the axon port from outside.")


def main(arguments: Sequence[str]) -> int:
    settings = parse(Doctor, arguments)
    findings = examine(World(settings, partial(read_chain, settings), reflector=settings.reflector.rstrip("/")))
    if settings.as_json:
        sys.stdout.write(as_json(findings) + "\n")
    else:
        Console().print(table(findings))
    return failures(findings)


def table(findings: Sequence[Finding]) -> Table:
    """The findings for people: one row a check, its remedy below the figure."""
    rows = Table(box=None, padding=(0, 1), caption=f"{failures(findings)} failed", caption_justify="left")
    for title in ("", "check", "what was seen, and what to do"):
        rows.add_column(title, overflow="fold")
    for finding in findings:
        colour = COLOURS[finding.verdict]
        told = Text(finding.figure)
        if finding.remedy:
            told.append(f"\n-> {finding.remedy}", style="cyan")
        rows.add_row(Text(finding.verdict, style=colour), finding.name, told)
    return rows
