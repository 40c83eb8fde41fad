"""A mock validator: asks a running miner as the subnet's validators do, and reports what came of it.

    python -m neurons.validator --miner http://127.0.0.1:9100

`--miner` is the miner's health port; its `/readyz` says where the axon is. Requests leave through real, signed
dendrites, one a validator, each with a development key that the in-memory network knows; organic requests leave
beside them through a second one. The exit code is 0 only if every request was answered with a number in [0, 1].
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import bittensor
from bittensor.core.settings import version_as_int
from bittensor.utils import networking
from pydantic import Field
from pydantic_settings import SettingsConfigDict
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cascade.trace import Record, TraceError, read_all
from miner.asking import Asking
from miner.challenge import Challenge, DrawnSource, Era, FolderSource, HubSource, Plan, Source
from miner.mocknet import dev_validator
from miner.protocol import ImageSynapse
from miner.report import DRAWN, Board, Exchange, Run, cause_of, figures, write
from miner.settings import UsageError, parse
from models import metrics

TIMEOUT = 9.0  # seconds a validator waits
TRACE_WAIT = 2.0  # seconds for the miner to write its last line


class Options(Asking):
    """Ask a running miner as the subnet's validators do, and report what came of it."""

    model_config = SettingsConfigDict(cli_prog_name="validator")

    miner: str = Field("http://127.0.0.1:9100", description="URL of the miner's health port.")
    trace: Path | None = Field(None, description="The miner's trace file, for tiers and routing.")


@dataclass(frozen=True, slots=True)
class Target:
    """What `/readyz` says of the miner. ip, port: of its axon."""

    hotkey: str
    uid: int | None
    network: str
    ip: str
    port: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Run once. Returns the exit code: 0 all answered, 1 not all, 2 asked wrongly."""
    try:
        options = parse(Options, sys.argv[1:] if arguments is None else arguments)
        target = ready(options.miner)
        source = source_of(options)
    except (UsageError, ValueError, ModuleNotFoundError) as error:
        return _complain(error)
    bittensor.logging.off()  # it prints to standard output, where the report goes; failures are counted here
    code = 2
    try:
        code = asyncio.run(_run(options, target, source))
    except* ValueError as errors:  # from a task: no picture could be read
        _complain(_first(errors))
    except* KeyboardInterrupt:
        code = 130
    return code


def _complain(error: BaseException) -> int:
    Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
    return 2


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def ready(url: str) -> Target:
    """Where the miner listens. Raises UsageError when it is not there or not ready, with what it says."""
    try:
        with urlopen(f"{url.rstrip('/')}/readyz", timeout=10) as answer:
            said = json.load(answer)
        ip = said["axon"]["ip"]
        anywhere = ip in ("", "0.0.0.0", "::")
        ip = (urlsplit(url).hostname or "127.0.0.1") if anywhere else ip
        return Target(said["hotkey"], said["uid"], said["network"], ip, int(said["axon"]["port"]))
    except HTTPError as error:
        reason = error.read(4096).decode("utf-8", "replace")
        raise UsageError(f"the miner at {url} is not ready ({error.code}): {reason}") from None
    except (URLError, OSError) as error:
        raise UsageError(f"no miner at {url} ({error}); start one: ./run_miner.sh serve --network mock") from None
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{url}/readyz: expected a miner's JSON with hotkey and axon, but {error!r}") from None


def source_of(options: Options) -> Source:
    """The pictures to ask with. Raises ValueError or ModuleNotFoundError that says what to do."""
    if options.images is not None:
        return FolderSource(options.images)
    return HubSource(options.dataset) if options.dataset is not None else DrawnSource()


class Validator:
    """One validator: a key, a dendrite for its challenges, and one for the organic requests it passes on."""

    def __init__(self, index: int, target: Target, began: float) -> None:
        networking.get_external_ip = lambda: "127.0.0.1"  # the SDK would ask a public service
        key = dev_validator(index)
        # Two dendrites, because requests of one share a uuid, and those that overlap may arrive out of nonce order.
        self._dendrites = {organic: bittensor.Dendrite(wallet=key) for organic in (False, True)}
        host = f"[{target.ip}]" if ":" in target.ip else target.ip
        self._axon = bittensor.AxonInfo(
            version=version_as_int,
            ip=host,
            port=target.port,
            ip_type=6 if ":" in target.ip else 4,
            hotkey=target.hotkey,
            coldkey=target.hotkey,
        )
        self._index = index
        self._began = began

    async def ask(self, challenge: Challenge) -> Exchange:
        """Send one challenge and wait for what comes."""
        synapse = ImageSynapse(image=challenge.image)
        sent = time.perf_counter()
        answer = await self._dendrites[challenge.organic].call(self._axon, synapse, TIMEOUT, deserialize=False)
        milliseconds = (time.perf_counter() - sent) * 1000
        status = answer.dendrite.status_code
        code = int(status) if status is not None else None
        cause = cause_of(code, answer.dendrite.status_message or "", answer.prediction)
        prediction = -1.0 if code != 200 or answer.prediction is None else float(answer.prediction)
        return Exchange(
            validator=self._index,
            at=sent - self._began,
            milliseconds=milliseconds,
            prediction=prediction,
            cause=cause,
            sha256=challenge.sha256,
            label=challenge.label,
            era=str(challenge.era),
            level=challenge.level,
            source=challenge.source,
            organic=challenge.organic,
        )

    async def close(self) -> None:
        for dendrite in self._dendrites.values():
            await dendrite.aclose_session()


async def exchanges(options: Options, target: Target, source: Source) -> AsyncIterator[Exchange]:
    """Every exchange as it ends. Validators ask side by side, each one challenge after the other; organic requests
    are not waited for before the next challenge leaves."""
    eras = tuple(Era) if options.era == "both" else (Era(options.era),)
    plan = Plan(source, eras, options.organic, options.seed)
    done: asyncio.Queue[Exchange] = asyncio.Queue()

    async def work(validator: Validator, index: int, share: int) -> None:
        async def one(challenge: Challenge) -> None:
            done.put_nowait(await validator.ask(challenge))

        async with asyncio.TaskGroup() as beside:
            for number in range(share):
                challenge = await asyncio.to_thread(plan.challenge, index, number)
                asked = beside.create_task(one(challenge))
                if not challenge.organic:
                    await asked

    began = time.perf_counter()
    shares = [len(range(i, options.challenges, options.validators)) for i in range(options.validators)]
    validators = [Validator(i, target, began) for i in range(options.validators)]
    try:
        async with asyncio.TaskGroup() as group:
            for i, validator in enumerate(validators):
                group.create_task(work(validator, i, shares[i]))
            for _ in range(options.challenges):
                yield await done.get()
    finally:
        for validator in validators:
            await validator.close()


async def _run(options: Options, target: Target, source: Source) -> int:
    started = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    began = time.perf_counter()
    board = Board(options.validators)
    console = Console(stderr=options.as_json)
    async with _shown(board, options, console) as tell:
        async for exchange in exchanges(options, target, source):
            board.add(exchange)
            tell(exchange)
    run = Run(
        miner=options.miner,
        hotkey=target.hotkey,
        uid=target.uid,
        network=target.network,
        source_kind=source.kind,
        source=source.name,
        eras=tuple(str(era) for era in Era) if options.era == "both" else (options.era,),
        validators=options.validators,
        seed=options.seed,
        started=started,
        seconds=round(time.perf_counter() - began, 3),
    )
    values = figures(run, board, await _traced(options.trace, {e.sha256 for e in board.of()}))
    if options.report is not None:
        values_path, page_path = write(values, options.report)
    if options.as_json:
        sys.stdout.write(json.dumps(values, allow_nan=False) + "\n")
    else:
        console.print(_final(values))
        if options.report is not None:
            console.print(f"Report: {page_path} and {values_path}", highlight=False, soft_wrap=True)
    return 0 if all(exchange.valid for exchange in board.of()) else 1


async def _traced(path: Path | None, asked: set[str]) -> list[Record]:
    """The trace's verdicts of the pictures that were asked; the miner may still be writing the last one."""
    if path is None:
        return []
    give_up = time.monotonic() + TRACE_WAIT
    while True:
        records = [r for r in _records(path) if r.sha256 in asked]
        if len({r.sha256 for r in records}) >= len(asked) or time.monotonic() > give_up:
            return records
        await asyncio.sleep(0.1)


def _records(path: Path) -> list[Record]:
    try:
        with path.open(encoding="utf-8") as lines:
            return list(read_all(lines))
    except (OSError, TraceError):  # not there yet, or a line half written
        return []


# ---- what the person sees -------------------------------------------------------------------------------------------


@asynccontextmanager
async def _shown(board: Board, options: Options, console: Console) -> AsyncIterator[Any]:
    """A live table on a terminal; elsewhere a line every so often."""
    if console.is_terminal and not options.as_json:
        with Live(_live(board, options), console=console, refresh_per_second=8) as live:
            yield lambda _: live.update(_live(board, options))
        return
    every = max(1, options.challenges // 10)

    def line(exchange: Exchange) -> None:
        count = len(board.exchanges)
        if exchange.cause or count % every == 0 or count == options.challenges:
            console.print(_line(board, options, exchange), highlight=False, soft_wrap=True)

    yield line


def _line(board: Board, options: Options, exchange: Exchange) -> str:
    total, answered = board.total, sum(e.valid for e in board.exchanges)
    said = exchange.cause or f"last p {exchange.prediction:.3f} in {exchange.milliseconds:.0f} ms"
    return (
        f"{len(board.exchanges)}/{options.challenges} asked, {answered} answered, MCC(100) {total.mcc:.3f}, "
        f"accuracy(10) {total.accuracy:.2f}, reward {total.reward:.3f}, {said}"
    )


def _live(board: Board, options: Options) -> Table:
    table = Table(title="Asking the miner", title_justify="left", caption_justify="left")
    for name in ("validator", "asked", "answered", "MCC\n(100)", "accuracy\n(10)", "reward", "last p"):
        table.add_column(name, justify="left" if name == "validator" else "right")
    for i, standing in enumerate(board.standings):
        table.add_row(dev_validator(i).ss58_address[:8] + "..", *_live_cells(board.of(i), standing))
    table.add_section()
    table.add_row(f"all of {options.challenges}", *_live_cells(board.of(), board.total), style="bold")
    return table


def _live_cells(asked: Sequence[Exchange], standing: Any) -> list[str]:
    last = asked[-1] if asked else None
    mark = {None: "", 0: " clear", 1: " road work"}[None if last is None or last.organic else last.label]
    said = "" if last is None else f"[red]{last.cause}[/]" if last.cause else f"{last.prediction:.3f}{mark}"
    figures = (f"{standing.mcc:.3f}", f"{standing.accuracy:.2f}", f"{standing.reward:.3f}")
    return [str(len(asked)), str(sum(e.valid for e in asked)), *figures, said]


def _final(values: dict[str, Any]) -> Group:
    answers, total, quality, times = (
        values["answers"],
        values["reward"]["total"],
        values["quality"],
        values["milliseconds"],
    )
    table = Table(title="Report", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_row(
        "challenges", f"{answers['challenges']}, of which {answers['organic']} organic (no label, not scored)"
    )
    table.add_row("answered", f"{answers['answered']} with a number in [0, 1]")
    table.add_row("MCC, last 100", f"{total['mcc']:.3f}")
    table.add_row("accuracy, last 10", f"{total['accuracy']:.2f}")
    table.add_row("reward", f"{total['reward']:.3f}   (MCC/2 + accuracy/2)^3, as validators compute it")
    for name in ("mcc", "auc", "ece", "brier") if quality else ():
        row = quality[name]
        if row["low"] is None:
            continue
        figure = f"{row['value']:.3f}   95 %: {metrics.bounds(row, 3)}"
        table.add_row("MCC, all" if name == "mcc" else metrics.TITLES[name], figure)
    if times:
        table.add_row("latency", "   ".join(f"{name} {times[name]:.0f} ms" for name in ("p50", "p95", "p99")))
    if values["cascade"]:
        table.add_row("tiers asked", "\n".join(f"{n} x {name}" for name, n in values["cascade"]["tiers"].items()))
        table.add_row("stopped", "\n".join(f"{n} x {name}" for name, n in values["cascade"]["stops"].items()))
    table.add_row("failures", "\n".join(f"{n} x {cause}" for cause, n in answers["failures"].items()) or "none")
    views = Table("era", "level", "n", "MCC", "accuracy", "p50", box=None, header_style="dim")
    for row in values["views"]:
        level = "native" if row["level"] is None else f"level {row['level']}"
        mcc = "-" if row["mcc"] is None else f"{row['mcc']:.3f}"
        views.add_row(row["era"], level, str(row["n"]), mcc, f"{row['accuracy']:.3f}", f"{row['p50']:.0f} ms")
    parts: list[Any] = [table, views]
    if values["note"]:
        parts.append(Text(DRAWN[0].upper() + DRAWN[1:] + ".", style="yellow"))
    return Group(*parts)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    sys.exit(main())
