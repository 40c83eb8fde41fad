"""`models`: what the plan names, what is true of it, and every model that a profile may name.

`models` lists, `models show NAME` (a key of the catalog, or a name of the plan) tells all that is known of one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import Field
from pydantic_settings import CliPositionalArg
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from miner.settings import Asked, UsageError, parse
from models import catalog
from models.catalog import Entry, Row

NARROW = 100  # columns, below which the list leaves licences to `models show`
LEVELS = ("foundation", "detection", "zero-shot, depth, time", "fast VLMs", "power", "precision", "consensus")


class Models(Asked):
    """List the models of the plan and others that can be loaded, or show one."""

    words: CliPositionalArg[list[str]] = Field([], description="Nothing, or: show NAME.")
    level: int | None = Field(None, ge=0, le=6, description="Only this level of the plan.")
    licence: str | None = Field(None, description="Only models whose licence holds this text (AGPL, Apache, ...).")
    fits: float | None = Field(None, gt=0, description="Only models whose smallest weights are at most so many GB.")
    runnable: bool = Field(False, description="Only models that this project runs itself.")
    as_json: bool = Field(False, description="JSON instead of tables.")
    markdown: bool = Field(False, description="The text of docs/models.md.")


def main(arguments: Sequence[str]) -> int:
    asked = parse(Models, arguments)
    if asked.markdown:
        sys.stdout.write(markdown())
        return 0
    match asked.words:
        case []:
            _list(asked)
        case ["show", *name] if name:
            _show(" ".join(name), asked.as_json)
        case words:
            raise UsageError(f"expected nothing, or: show NAME; got {' '.join(words)!r}")
    return 0


def chosen(asked: Models) -> list[Entry]:
    """The entries that pass every filter."""
    return [
        entry
        for entry in catalog.entries().values()
        if (asked.level is None or asked.level in _levels(entry))
        and (asked.licence is None or asked.licence.lower() in entry.licence.lower())
        and (asked.fits is None or (entry.memory_gb and min(entry.memory_gb.values()) <= asked.fits))
        and (entry.adapter or not asked.runnable)
    ]


def facts(entry: Entry) -> dict[str, Any]:
    """All that is known of one model, as plain JSON values."""
    data = entry.model_dump(mode="json")
    return data | {"plan": [row.model_dump(mode="json") for row in catalog.rows_for(entry.key)]}


def markdown() -> str:
    """`docs/models.md`: the plan name by name, then the models."""
    lines = [
        "# The models: what the plan names, what is true of it, and what runs here",
        "",
        "Made from `models/plan.toml` and `models/catalog.toml` by `./run_miner.sh models --markdown`; edit those.",
        "GB are 10^9 bytes of weights alone. A model without a revision is pinned on its first fetch. No figure here",
        "is an accuracy. Keys are what a profile's `model = ` names.",
        "",
        "## The plan, name by name",
        "",
        "| level | plan | claimed GB | truth | model | what was found |",
        "|---|---|---|---|---|---|",
        *(
            _line(row.level, row.name, _gb(row.gb), row.truth, row.model and f"`{row.model}`", row.note)
            for row in catalog.plan().row
        ),
        "",
    ]
    for level, name in enumerate(LEVELS):
        members = [entry for entry in catalog.entries().values() if entry.level == level]
        if members:
            lines += [f"## Level {level}, {name}: models", "", *_model_table(members), ""]
    return "\n".join(lines)


def _model_table(entries: Iterable[Entry]) -> list[str]:
    head = "| key | model | library, class | repository | licence | GB | input | runs here | note |"
    return [
        head,
        "|" + "---|" * (head.count("|") - 1),
        *(
            _line(
                f"`{entry.key}`",
                entry.title,
                _library(entry),
                _repository(entry),
                _licence(entry),
                _sizes(entry),
                entry.input_size or "",
                _runs(entry),
                entry.note,
            )
            for entry in entries
        ),
    ]


def _list(asked: Models) -> None:
    entries = chosen(asked)
    if asked.as_json:
        sys.stdout.write(json.dumps([facts(entry) for entry in entries], indent=1) + "\n")
        return
    console = Console()
    if not entries:
        console.print("No model is all of that; without flags all are listed.", highlight=False)
        return
    wide = console.width >= NARROW
    table = Table(
        title=f"{len(entries)} models; models show NAME tells more"
        + ("" if wide else "; licences from 100 columns on"),
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
    )
    for name in ("", "key", "plan's name", *(["licence"] if wide else []), "GB", "runs"):
        table.add_column(name, overflow="fold", no_wrap=name in ("key", "GB", "runs"))
    for entry in sorted(entries, key=lambda entry: entry.level):
        names = ", ".join(row.name for row in catalog.rows_for(entry.key))
        licence = [_licence(entry)] if wide else []
        table.add_row(str(entry.level), entry.key, names, *licence, _size(entry), _runs(entry))
    console.print(table)
    if asked.level is None and asked.licence is None and asked.fits is None and not asked.runnable:
        _print_unmodelled()


def _print_unmodelled() -> None:
    table = Table(
        title="Names of the plan that no model stands for",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
    )
    for name in ("", "plan's name", "claimed GB", "truth", "what was found"):
        table.add_column(name, overflow="fold")
    for row in catalog.plan().row:
        if not row.model:
            table.add_row(str(row.level), row.name, _gb(row.gb), row.truth, row.note)
    Console().print(table)


def _show(name: str, as_json: bool) -> None:
    row = next((row for row in catalog.plan().row if row.name.lower() == name.lower()), None)
    if row and not row.model:
        _print(row.name, row.model_dump(mode="json"), _row_facts(row), as_json)
        return
    key = row.model if row else name
    if key not in catalog.entries():
        raise UsageError(f"no model {name!r}; known: {', '.join(catalog.entries())}; or a name of the plan")
    entry = catalog.entries()[key]
    _print(entry.title, facts(entry), _entry_facts(entry), as_json)


def _print(title: str, data: Mapping[str, Any], told: Mapping[str, str], as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(data, indent=1) + "\n")
        return
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, value in told.items():
        if value:
            table.add_row(name, escape(value))
    Console().print(table)


def _row_facts(row: Row) -> dict[str, str]:
    claimed = _gb(row.gb) and f"{_gb(row.gb)} GB"
    return {"level": _level(row.level), "claimed": claimed, "truth": row.truth, "what was found": row.note}


def _entry_facts(entry: Entry) -> dict[str, str]:
    """What is known of a model, by name; empty where nothing is."""
    fitted = (entry.scale, entry.offset) != (1.0, 0.0)
    revision = f" @ {entry.revision}" if entry.revision else ", pinned on first fetch"
    return {
        "key": entry.key,
        "level": _level(entry.level),
        "task": entry.task,
        "runs here": _runs(entry),
        "adapter": entry.adapter,
        "library": _library(entry),
        "weights from": entry.folder or (entry.repository and entry.repository + revision),
        "file": entry.file + (", a pickle: fetch --allow-pickled" if entry.pickled else ""),
        "licence": _licence(entry),
        "parameters": f"{entry.parameters:,g} million" if entry.parameters else "",
        "weights, GB": _sizes(entry),
        "input": f"{entry.input_size} pixels" if entry.input_size else "",
        "preprocessing": entry.preprocessing,
        "prompts": "\n".join(entry.prompts),
        "against": "\n".join(entry.contrast),
        "classes": entry.classes and f"{entry.classes}, of models/roadwork_classes.toml",
        "on a card": "" if entry.engine else entry.execution,
        "split": f"over {entry.tensor_parallel} cards at most" if entry.tensor_parallel > 1 else "",
        "cache": f"{entry.kv_mb_per_token:g} MB a token" if entry.kv_mb_per_token else "",
        "trust": f"{entry.trust:g}",
        "focal length": f"{entry.focal:g} pixels" if entry.focal else "",
        "calibration": f"{entry.scale:g} * log-odds + {entry.offset:g}" if fitted else "not fitted",
        "note": entry.note,
        "plan": "\n".join(map(_claim, catalog.rows_for(entry.key))) or "not a name of the plan",
    }


def _claim(row: Row) -> str:
    claimed = f", claimed {row.gb:g} GB" if row.gb is not None else ""
    return f"{row.name} (level {row.level}{claimed}): {row.truth}. {row.note}".strip()


def _levels(entry: Entry) -> set[int]:
    return {entry.level, *(row.level for row in catalog.rows_for(entry.key))}


def _level(level: int) -> str:
    return f"{level}, {LEVELS[level]}"


def _repository(entry: Entry) -> str:
    if not entry.repository:
        return ""
    return f"`{entry.repository}`" + (f" @ `{entry.revision[:12]}`" if entry.revision else "")


def _library(entry: Entry) -> str:
    release = f" >= {entry.minimum}" if entry.minimum else ""
    return f"{entry.library}{release}" + (f", {entry.class_name}" if entry.class_name else "")


def _licence(entry: Entry) -> str:
    return entry.licence + (", gated" if entry.gated else "") + ("" if entry.commercial else ", non-commercial")


def _sizes(entry: Entry) -> str:
    return " · ".join(f"{gb:g} {precision}" for precision, gb in entry.memory_gb.items())


def _size(entry: Entry) -> str:
    precision = "bf16" if "bf16" in entry.memory_gb else next(iter(entry.memory_gb), None)
    return f"{entry.memory_gb[precision]:g} {precision}" if precision else ""


def _runs(entry: Entry) -> str:
    if entry.enabled:
        return "default"
    if not entry.adapter:
        return "no"
    return "yes" if entry.library != "external" else "own env."  # made by the operator: its package clashes with ours


def _gb(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _line(*cells: object) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
