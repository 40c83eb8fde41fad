"""The pages of the documentation that are made from the code: settings, metrics, commands.

`python -m miner.reference` writes them into `docs/`; a test compares what is committed with what would be written.
"""

from __future__ import annotations

from pathlib import Path

from pydantic_settings import BaseSettings

from miner.cli import COMMANDS
from miner.doctor.examination import CHECKS
from miner.settings import OFFICIAL, Settings, variables
from miner.telemetry import Metrics

DOCS = Path(__file__).resolve().parent.parent / "docs"
MADE = "<!-- Made by `python -m miner.reference`. Do not edit. -->\n"


def configuration(settings: type[BaseSettings] = Settings) -> str:
    """Every setting: flag, variable, type, default, meaning."""
    rows = []
    for variable, field in variables(settings).items():
        info = settings.model_fields[field]
        default = "" if info.default is None else f"`{info.default}`"
        flag = "" if field in OFFICIAL else f"`--{field.replace('_', '-')}`"
        rows.append([flag, f"`{variable}`", default, (info.description or "").rstrip(".") + "."])
    return (
        "# Configuration\n\n" + MADE + "\n"
        "Flags win over the environment, the environment over `.env`, `.env` over `miner.env`. The official miner's\n"
        "variables are understood as they are. An unknown name or a bad value ends the start with exit code 2 and\n"
        "names it. `.env.example` holds the same list, ready to be copied.\n\n"
        + _table(["Flag", "Variable", "Default", "Meaning"], rows)
    )


def metrics() -> str:
    """Every metric: name, type, labels, meaning."""
    rows = [
        [f"`{each.name}`", each.kind, ", ".join(f"`{label}`" for label in each.labels), each.meaning]
        for each in Metrics().described
    ]
    return (
        "# Metrics\n\n" + MADE + "\n"
        "`/metrics` on the health port, in Prometheus' text format. A histogram exposes `_bucket`, `_sum`, `_count`.\n"
        "Besides these there are the usual `process_*` metrics and, when vLLM runs in the same process, its own\n"
        "(`vllm:*`). Rules and dashboards that use them are in `deploy/`.\n\n"
        + _table(["Name", "Type", "Labels", "Meaning"], rows)
    )


def commands() -> str:
    """Every command of the front door, and what `doctor` looks at."""
    rows = [[f"`./run_miner.sh {name}`", purpose] for name, purpose in COMMANDS.items()]
    checks = "\n".join(f"1. {name}" for name in CHECKS)
    return (
        "# Commands\n\n" + MADE + "\n"
        "Exit codes: 0 done, 1 failed, 2 asked wrongly; `doctor` ends with the number of failed checks.\n"
        "`./run_miner.sh COMMAND --help` lists a command's flags; any other is refused. The environment and `.env`\n"
        "may hold every setting: a command uses those that mean something to it.\n\n"
        + _table(["Command", "Purpose"], rows)
        + "\n## What `doctor` looks at\n\n"
        "Each check says ok, warn, fail or unknown, what was seen, and what to do about it.\n\n" + checks + "\n"
    )


PAGES = {"configuration.md": configuration, "metrics.md": metrics, "commands.md": commands}


def _table(titles: list[str], rows: list[list[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")
