"""`calibrate`: weights, calibration and exit band of a profile, from labelled pictures, traces or the journal."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import Field
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table

from cascade.data import FitError
from cascade.profile import SHIPPED, Profile, fit_path
from cascade.trace import Record, write
from cascade.worth import Fitted, TierCheck, check, fit_profile
from miner.assembly import profile_of, running_engine
from miner.calibration_report import page
from miner.journal_schema import JournalError
from miner.journal_views import Views
from miner.recording import read_traces, record
from miner.settings import DECIDING, STATE, Settings, UsageError, parse
from models import metrics
from models.data.labelled import read_folder

LOOK: dict[str, Any] = {"box": SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False}  # for 80 columns


class Calibrate(Settings):
    """Fit a profile's weights, calibration and exit band on labelled pictures; report before and after, out of fold."""

    takes = (*DECIDING, *STATE)
    images: Path | None = Field(None, description="Labelled pictures: <source>/<roadwork|clear>/*.jpg below it.")
    traces: Path | None = Field(None, description="Or labelled trace lines, recorded before.")
    from_journal: bool = Field(False, description="Or the labelled pictures of this miner's own journal.")
    record: Path | None = Field(None, description="Keep the opinions taken from --images in this trace file.")
    out: Path | None = Field(None, description="Where the fit goes. Default: beside the profile, where it is used.")
    report: Path | None = Field(None, description="HTML page with reliability and routing. Default: beside the fit.")
    check: bool = Field(False, description="Say whether each tier earns its cost; fit nothing.")
    max_lost_mcc: float = Field(0.01, ge=0, le=1, description="MCC that the exit band may give up to save time.")
    budget_ms: float | None = Field(
        None, gt=0, description="Mean time a picture may take; then the best MCC within it."
    )
    as_json: bool = Field(False, description="Print JSON.")


def main(arguments: Sequence[str]) -> int:
    settings = parse(Calibrate, arguments)
    if [settings.images is not None, settings.traces is not None, settings.from_journal].count(True) != 1:
        raise UsageError("expected one of --images DIR, --traces FILE and --from-journal")
    profile = profile_of(settings)
    records = _records(settings, profile)
    try:
        if settings.check:
            return _say_checks(check(records, profile, max_lost_mcc=settings.max_lost_mcc), settings.as_json)
        limits = {"max_lost_mcc": settings.max_lost_mcc, "budget_ms": settings.budget_ms}
        fitted = fit_profile(records, profile, **limits)  # type: ignore[arg-type]
    except FitError as error:
        raise UsageError(str(error)) from None
    if settings.out is None and settings.budget_ms is None and fitted.gain[2] < -settings.max_lost_mcc:
        raise UsageError(
            f"nothing was written: served with this fit the profile is worse than without, MCC by "
            f"{metrics.gained(*fitted.gain)}, paired; give more or other pictures, or name a place for it with --out"
        )
    out = settings.out or fit_path(_path(settings.profile))
    report = settings.report or out.with_suffix(".html")
    try:
        fitted.save(out)
        report.write_text(page(fitted), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{error.filename or out}: {error.strerror}; name another place with --out") from None
    return _say_fit(fitted, out, report, settings.as_json)


def _records(settings: Calibrate, profile: Profile) -> list[Record]:
    if settings.traces:
        return read_traces(settings.traces)
    if settings.images:
        return asyncio.run(_recorded(settings, profile))
    try:
        with closing(Views(settings.state / "journal")) as views:
            return [example.record for example in views.labelled() if example.representative]
    except JournalError as error:
        raise UsageError(str(error)) from None


async def _recorded(settings: Calibrate, profile: Profile) -> list[Record]:
    assert settings.images is not None
    try:
        pictures = read_folder(settings.images)
    except ValueError as error:
        raise UsageError(str(error)) from None
    async with running_engine(settings, profile.asking_all()) as engine:
        shown = track(pictures, "Asking every tier", console=Console(stderr=True))
        records = [await record(engine, picture, settings.max_pixels) for picture in shown]
    if settings.record:
        settings.record.write_text("".join(write(one) + "\n" for one in records), encoding="utf-8")
    return records


def _path(profile: str) -> Path:
    path = Path(profile)
    return path if path.suffix == ".toml" else SHIPPED / f"{profile}.toml"


def _say_fit(fitted: Fitted, out: Path, report: Path, as_json: bool) -> int:
    ways = fitted.ways
    if as_json:
        values = {
            name: {**way.worth, "reliability": metrics.columns(fitted.labels, way.p, fitted.weight)}
            for name, way in ways.items()
        }
        written = {"fit": str(out), "report": str(report), "band": fitted.fit.band, "gain": fitted.gain}
        sys.stdout.write(json.dumps(written | values) + "\n")
        return 0
    title = f"{fitted.profile.name}: {len(fitted.labels)} pictures, out of fold"
    title += f", as with {fitted.profile.prevalence:.0%} road work"
    table = Table("", *ways, title=title, title_justify="left", **LOOK)
    for key, name in metrics.TITLES.items():
        table.add_row(name, *(_cell(way.worth[key]) for way in ways.values()))
    table.add_row("asked a second tier", *(f"{way.worth['escalated']:.1%}" for way in ways.values()))
    table.add_row("mean ms", *(f"{way.worth['mean_ms']:.1f}" for way in ways.values()))
    console = Console()
    console.print(table)
    console.print(f"MCC after - before: {metrics.gained(*fitted.gain)}, paired{_doubt(fitted)}", highlight=False)
    console.print(f"exit band {fitted.fit.band}", highlight=False)
    console.print(f"written to {out}\ndiagrams in {report}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _doubt(fitted: Fitted) -> str:
    _, low, high = fitted.gain
    return "; nothing certain, and deleting the file takes the fit back" if low <= 0.0 <= high else ""


def _cell(measure: dict[str, float | None]) -> str:
    """The value, and its interval on a line below."""
    value = measure["value"]
    return "-" if value is None else f"{value:.3f}\n[dim]{metrics.bounds(measure, 3)}[/]"


def _say_checks(checks: Sequence[TierCheck], as_json: bool) -> int:
    if as_json:
        sys.stdout.write(json.dumps([asdict(one) for one in checks]) + "\n")
        return 0
    titles = ("MCC\nwith", "\nwithout", "\ngain (95 %)", "added\nms", "\nverdict")
    table = Table(Column("\ntier", overflow="fold"), *(Column(title, no_wrap=True) for title in titles), **LOOK)
    for one in checks:
        brings = metrics.gained(one.gain, one.low, one.high)
        verdict = "earns its cost" if one.earns else "drop it"
        with_, without = f"{one.mcc_with:.3f}", f"{one.mcc_without:.3f}"
        table.add_row(one.tier, with_, without, brings, f"{one.added_ms:+.1f}", verdict)
    Console().print(table)
    return 0
