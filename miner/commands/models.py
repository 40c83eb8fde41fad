"""`models`: what the plan names, what is true of it, and every model that a profile may name.

`models` lists, `models show NAME` (a key of the catalog, or a name of the plan) tells all that is known of one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from miner.settings import UsageError, parse
from models import catalog
from models.catalog import Entry, Row

NEWER = "newer than the plan"
LEVELS = ("foundation", "detection", "zero-shot, depth, time", "fast VLMs", "power", "precision", "consensus")


class Models(BaseSettings):
    """List the models of the plan and the newer ones, or show one."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="MINER_",
        cli_prog_name="run_miner.sh models",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    words: CliPositionalArg[list[str]] = Field([], description="Nothing, or: show NAME.")
    level: int | None = Field(None, ge=0, le=6, description="Only this level of the plan.")
    licence: str | None = Field(None, description="Only models whose licence holds this text (AGPL, Apache, ...).")
    fits: float | None = Field(None, gt=0, description="Only models whose smallest weights are at most so many GB.")
    runnable: bool = Field(False, description="Only models that this project runs itself.")
    json_: bool = Field(False, alias="json", description="JSON instead of tables.")
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
            _show(" ".join(name), asked.json_)
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
                entry.repository
                and f"`{entry.repository}`" + (f" @ `{entry.revision[:12]}`" if entry.revision else ""),
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
    if asked.json_:
        sys.stdout.write(json.dumps([facts(entry) for entry in entries], indent=1) + "\n")
        return
    table = Table(
        title=f"{len(entries)} models; models show NAME tells more",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
    )
    for name in ("", "key", "plan's name", "licence", "GB", "runs"):
        table.add_column(name, overflow="fold", no_wrap=name == "key")
    for entry in entries:
        names = ", ".join(row.name for row in catalog.rows_for(entry.key)) or "(newer)"
        table.add_row(str(entry.level), entry.key, names, _licence(entry), _size(entry), _runs(entry))
    Console().print(table)
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
    key = row.model if row else name
    if row and not row.model:
        _print_facts(row.name, row.model_dump(mode="json"), as_json)
        return
    if key not in catalog.entries():
        raise UsageError(f"no model {name!r}; known: {', '.join(catalog.entries())}; or a name of the plan")
    entry = catalog.entries()[key]
    _print_facts(entry.title, facts(entry), as_json)


def _print_facts(title: str, data: dict[str, Any], as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(data, indent=1) + "\n")
        return
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, value in data.items():
        if name == "plan":
            value = "\n".join(_claim(Row(**row)) for row in value) or NEWER
        elif name == "revision":
            value = value or "pin on first fetch"
        elif isinstance(value, dict):
            value = ", ".join(f"{key} {gb:g}" for key, gb in value.items())
        elif isinstance(value, list):
            value = "\n".join(map(str, value))
        if value not in ("", 0, None):
            table.add_row(name, str(value))
    Console().print(table)


def _claim(row: Row) -> str:
    claimed = f", claimed {row.gb:g} GB" if row.gb is not None else ""
    return f"{row.name} (level {row.level}{claimed}): {row.truth}. {row.note}".strip()


def _levels(entry: Entry) -> set[int]:
    return {entry.level, *(row.level for row in catalog.rows_for(entry.key))}


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
    return "yes" if entry.adapter else ("as a VLM" if entry.library == "vllm" else "no")


def _gb(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _line(*cells: object) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
