"""The end of a training on a terminal of 80 columns: what was trained, what it is worth and where, what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from models import catalog, metrics
from models.foundation import HEAD, heads_path

FILES = {
    "model.onnx": "the network for any CPU, compared with torch",
    "model.safetensors": "the same weights for torch",
    "adapter_model.safetensors": "the LoRA matrices",
    "merged": "the whole model with them",
    HEAD: "the head alone, calibrated",
    "calibration.json": "from log-odds to probabilities",
    "profile.toml": "what serves it",
    "README.md": "these figures, and all others",
    "reliability.png": "probability said and share that was road work",
}
LOOK: dict[str, Any] = {
    "title_justify": "left",
    "caption_justify": "left",
    "box": box.SIMPLE_HEAD,
    "padding": 0,
}
MEASURES = {name: metrics.TITLES[name] for name in ("mcc", "auc", "accuracy")}


def show(console: Console, card: Mapping[str, Any], out: Path) -> None:
    """Print it. card: what `package.finish` makes; out: the run's folder."""
    folder, measured = out / "model", card["measured"]
    console.print(f"\n[bold]{card['model_name']}[/]: {card['description']}", highlight=False)
    console.print(_shown(card))
    console.print(_by_kind(measured), _by_source(measured))
    if warning := _warning(card):
        console.print(f"[bold yellow]warning:[/] {escape(warning)}\n", highlight=False)
    console.print(f"Files in {folder}:", highlight=False, markup=False, soft_wrap=True)
    for name, what in FILES.items():
        if (folder / name).exists():
            console.print(f"  {name:26} {what}", highlight=False)
    console.print("\nNext:")
    profile = folder / "profile.toml"
    commands = [f"./run_miner.sh predict --profile {profile} PICTURE.jpg"] if profile.exists() else []
    commands += [f"./run_miner.sh publish --repo YOU/NAME --folder {folder}"]
    if (folder / HEAD).exists():  # every profile that asks the backbone itself has a head for it then
        there = heads_path(catalog.find(card["settings"]["backbone"]))
        commands += [f"install -D -m 644 {folder / HEAD} {there}"]
    for command in commands:  # not wrapped, so that they can be copied
        console.print(f"  {command}", highlight=False, markup=False, soft_wrap=True)


def _shown(card: Mapping[str, Any]) -> Table:
    """Which sources did what, and how much was shown."""
    table = Table.grid(padding=(0, 2, 0, 2))
    for part in ("train", "calibrate", "test"):
        sources = [s for s in card["sources"] if s["part"] == part]
        work, clear = (sum(s[label] for s in sources) for label in ("roadwork", "clear"))
        table.add_row(part, Text(f"{work} road work, {clear} clear: {', '.join(s['source'] for s in sources)}"))
    steps, batch = card["settings"]["steps"], card["settings"]["batch"]
    table.add_row("shown", f"{steps * batch:,} pictures in {steps:,} steps\n")
    return table


def _by_kind(measured: Mapping[str, Any]) -> Table:
    n = next(iter(measured.values()))["all"]["n"]
    title = f"On {n} pictures of sources never seen, with 95 % intervals"
    table = Table(title=title, **LOOK)
    for name in ("picture", *MEASURES.values(), "ECE"):
        table.add_column(name, no_wrap=True)
    for kind, rows in measured.items():
        row = rows["all"]
        table.add_row(kind, *(metrics.told(row[name]) for name in MEASURES), f"{row['ece']['value']:.3f}")
    return table


def _warning(card: Mapping[str, Any]) -> str:
    """What to do where the calibration made the measured sources worse than no calibration; else nothing."""
    rows = card["measured"].values()
    after, before = (float(np.mean([row[when]["brier"]["value"] for row in rows])) for when in ("all", "before"))
    if after <= before:
        return ""
    of = ", ".join(s["source"] for s in card["sources"] if s["part"] == "calibrate")
    return (
        f"The calibration made these sources worse (Brier score {before:.3f} before, {after:.3f} after): {of} are not "
        "like them. Choose more sources, like those that validators send, with --calibrate, before you serve this."
    )


def _by_source(measured: Mapping[str, Any]) -> Table:
    """MCC only of sources with both labels."""
    table = Table(title="By source", caption="below a source: how many of its pictures show road work", **LOOK)
    table.add_column("source", overflow="fold", max_width=16)
    table.add_column("", no_wrap=True)
    for kind in measured:
        table.add_column(kind, no_wrap=True)
    kinds = list(measured.values())
    for source, first in kinds[0]["sources"].items():
        for name in ("accuracy", "mcc"):
            cells = [kind["sources"][source][name] for kind in kinds]
            if cells[0]["value"] is not None:
                head = f"{source}\n{first['positives']} of {first['n']}" if name == "accuracy" else ""
                table.add_row(head, MEASURES[name], *map(_cell, cells))
    return table


def _cell(measure: Mapping[str, float | None]) -> str:
    """The value, and its interval on a line below."""
    return f"{measure['value']:.2f}\n{metrics.bounds(measure)}".rstrip()
