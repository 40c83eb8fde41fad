"""The front door: `./run_miner.sh COMMAND ...`. One line a command here, one module a command in `miner/commands`."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from miner.settings import UsageError

COMMANDS = {
    "mock": "Miner and mock validator together on this machine: challenges, live table, report. The default.",
    "serve": "Serve a subnet (finney, test), a local node, or any signed caller (mock), until stopped.",
    "predict": "Probability of road work in pictures, one JSON line each.",
    "evaluate": "Score a folder of labelled pictures: MCC, accuracy, AUC, ECE, Brier with 95 % intervals.",
    "calibrate": "Fit a profile's weights, calibration and exit band on labelled pictures; --check its tiers.",
    "replay": "Decide recorded opinions again under other profiles, without any model.",
    "journal": "What was asked and answered: stats, export as a data set, labels from elsewhere.",
    "improve": "Learn (fit, train) from labelled traffic behind a gate; improve shadow, promote, rollback, audit.",
    "doctor": "Check this machine, the settings, the wallet and the chain; say what to mend.",
    "cost": "What serving costs by the hour and the month, and what it would have to earn.",
    "register": "From a hotkey to a registered miner, step by step; nothing is signed unasked.",
    "train": "Train on your own pictures: a classifier, train distil (a student), train vlm (LoRA of a VLM).",
    "publish": "Put a model with its model_card.json into a public repository.",
    "models": "What the plan names, what is true of it, and every model a profile may name.",
    "plan": "Where the models of a profile go on the cards, or why they do not fit.",
    "fetch": "Download the weights that a profile needs, pinned and checked.",
}
PACKAGES = ("neurons", "miner", "cascade", "models")
ROOT = Path(__file__).resolve().parent.parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code: 0 done, 1 failed, 2 asked wrongly."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in {"-h", "--help", "help"}:
        return _help()
    command = words.pop(0) if words and not words[0].startswith("-") else "mock"
    try:
        _refuse_shadows()
        if command not in COMMANDS:
            raise UsageError(f"unknown command {command!r}; known: {', '.join(COMMANDS)}")
        return int(import_module(f"miner.commands.{command}").main(words))
    except UsageError as error:
        return _refuse(str(error))
    except BrokenPipeError:  # whoever read our output, such as head, has enough
        return 141
    except OSError as error:  # a folder that cannot be written to, a full disk
        if error.filename is None:
            raise
        return _refuse(f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        return 130


def _refuse(message: str) -> int:
    Console(stderr=True).print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    return 2


def leave(code: int) -> NoReturn:
    """End the process without taking the interpreter apart: a thread that is inside a native library then, such as one
    that loads a model, would make it abort. Exit handlers run, so that no process of ours stays behind."""
    atexit._run_exitfuncs()
    with suppress(BrokenPipeError):
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _help() -> int:
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, purpose in COMMANDS.items():
        table.add_row(f"[bold]{name}[/]", purpose)
    console = Console()
    console.print("Usage: ./run_miner.sh [COMMAND] [OPTIONS]     ./run_miner.sh COMMAND --help\n", highlight=False)
    console.print(table)
    return 0


def _refuse_shadows() -> None:
    """Our packages have common names: say so when Python would import somebody else's."""
    for name in PACKAGES:
        found = Path(import_module(name).__file__ or "").resolve()
        if ROOT not in found.parents:
            raise UsageError(
                f"package {name!r} comes from {found.parent}, not from this checkout ({ROOT}); "
                "remove it from the environment, or start with ./run_miner.sh"
            )
