"""The table of what a training costs on a card: rows that fail, hang or die are told, and the next one is measured."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import train_card

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.utils.tensorboard")

ROWS = """
import json, os, sys, time
what = ["works", "fails", "works", "hangs", "dies", "works"]
for n in range(int(sys.argv[1]), len(what)):
    if what[n] == "hangs":
        time.sleep(600)
    if what[n] == "dies":
        os.abort()
    print(json.dumps({"failed": "on purpose"} if what[n] == "fails" else {"row": n, "from": sys.argv[1]}), flush=True)
    if what[n] == "fails":
        sys.exit(1)
"""


def test_whatever_becomes_of_a_row_the_next_one_is_measured() -> None:
    started: list[subprocess.Popen[bytes]] = []

    def start(first: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", ROWS, str(first)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0, start_new_session=True))
        return started[-1]

    found = list(train_card.answers(start, [15] * 6, until=time.monotonic() + 300))
    assert found == [
        {"row": 0, "from": "0"},
        {"failed": "on purpose"},
        {"row": 2, "from": "2"},
        {"failed": "not done in 15 s"},
        {"failed": "died: exit code -6"},
        {"row": 5, "from": "5"},
    ]
    assert [process.returncode is not None for process in started] == [True] * 4


def test_rows_for_which_no_time_is_left_say_so_and_start_nothing() -> None:
    def start(first: int) -> subprocess.Popen[bytes]:
        raise AssertionError(first)

    assert list(train_card.answers(start, [20] * 2, until=time.monotonic())) == [{"failed": "no time left"}] * 2


def test_a_row_that_compiles_may_take_four_times_as_long() -> None:
    assert train_card.limit_of(("vit-b", "full", 128, ()), 60) == 60
    assert train_card.limit_of(("vit-b", "full", 128, ("--compile",)), 60) == 240


def test_rows_are_steps_of_the_commands_own_loop(tmp_path: Path) -> None:
    train_card.prepare(tmp_path, tiny=True)
    found = []
    for backbone, learns, batch, flags in train_card.TINY_ROWS:
        figures = train_card.measured(backbone, learns, batch, flags, tmp_path, tiny=True)
        assert figures["pictures_per_s"] == pytest.approx(batch / figures["ms_per_step"] * 1e3, rel=0.01, abs=0.06)
        assert figures["views_ms"] > 0
        assert figures["first_s"] > 0
        found.append({"backbone": backbone, "learns": learns, "batch": batch, "flags": " ".join(flags), **figures})
    assert found[0]["learning"] == 2 * 16 + 17, "norm and head"
    table = train_card.table([*found, {**found[0], "failed": "not done in 40 s"}]).splitlines()
    assert [row.count("|") for row in table] == [12, 12, 12, 12, 6]
    assert table[-1] == "| vit-b | head | 4 | - | not done in 40 s |"
