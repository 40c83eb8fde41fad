"""`fetch PROFILE`: the weights of every model of a profile, after it is known that they fit on the cards and the disk.

Takes keys of the catalog too. What is already there and whole is not downloaded again.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from pydantic_settings import CliPositionalArg
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from cascade import profile
from miner.commands.plan import cards, members
from miner.settings import Asked, UsageError, parse
from models import catalog, planner, weights
from models.base import ModelError
from models.catalog import Entry


class Fetch(Asked):
    """Download, check and pin the weights of a profile (or of single models)."""

    names: CliPositionalArg[list[str]] = Field(description="A profile (name or .toml file), or keys of the catalog.")
    gpus: str | None = Field(None, description="GB of each card to fetch for, e.g. 80,80. Default: this machine's.")
    allow_pickled: bool = Field(False, description="Also fetch pickled weights, which can run any code when loaded.")


def main(arguments: Sequence[str]) -> int:
    asked = parse(Fetch, arguments)
    console = Console(stderr=True)
    try:
        entries = wanted(asked)
        if not entries:
            console.print("nothing to fetch: these models ship with the project")
            return 0
        if not weights.offline():
            snapshots = [weights.inspect(entry, allow_pickled=asked.allow_pickled) for entry in entries]
            whole, left = sum(each.size for each in snapshots), weights.missing(snapshots)
            console.print(f"{whole / 1e9:.1f} GB of weights, {left / 1e9:.1f} GB of them to download", highlight=False)
            weights.require_room(snapshots)
        with progress(console) as bars:
            for entry in entries:
                _fetch(entry, asked.allow_pickled, bars)
    except ModelError as error:
        raise UsageError(str(error)) from None
    return 0


def wanted(asked: Fetch) -> list[Entry]:
    """The entries to bring. Raises UsageError when a profile does not fit on the cards: before any download."""
    known = catalog.entries()
    if len(asked.names) == 1 and (asked.names[0] in profile.shipped() or asked.names[0] not in known):
        keys = members(asked.names[0])  # profiles go before models of the same name: `embedded` is both
        _refuse_what_does_not_fit(keys, asked)
    elif all(name in known for name in asked.names):
        keys = list(asked.names)
    else:
        strange = next(name for name in asked.names if name not in known)
        raise UsageError(f"expected one profile, or keys of the catalog; {strange!r} is no key of the catalog")
    known = catalog.entries()  # with those that the profile brought
    return [entry for entry in (known[key] for key in dict.fromkeys(keys)) if entry.repository]


def _refuse_what_does_not_fit(keys: Sequence[str], asked: Fetch) -> None:
    if not planner.jobs(keys, [])[0]:
        return
    try:
        planner.place(keys, cards(asked.gpus))
    except planner.DoesNotFit as error:
        raise UsageError(
            f"nothing was downloaded: {error}; see ./run_miner.sh plan --profile {asked.names[0]}"
        ) from None


def _fetch(entry: Entry, allow_pickled: bool, bars: Progress) -> None:
    if weights.offline():
        weights.locate(entry)
        return
    snapshot = weights.inspect(entry, allow_pickled=allow_pickled)
    task = bars.add_task(entry.key, total=snapshot.size)
    came = 0

    def report(name: str, size: int) -> None:
        nonlocal came
        came += size
        bars.update(task, completed=min(came, snapshot.size), description=f"{entry.key} {name}")

    weights.fetch(entry, allow_pickled=allow_pickled, report=report)
    bars.update(task, completed=snapshot.size, description=f"{entry.key} {snapshot.revision[:12]}")


def progress(console: Console) -> Progress:
    """Bars with bytes of the total, speed and time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
