"""A newcomer's first minutes: the README's commands, word for word, in a copy of the project with nothing beside it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from miner.cli import COMMANDS, ROOT

pytestmark = pytest.mark.slow

README = (ROOT / "README.md").read_text(encoding="utf-8")
MEGABYTES = 600  # what a first run may take


def commands() -> list[str]:
    """The lines of the README's shell blocks."""
    return [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's own files and nothing else: no environment, no cache."""
    clone = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, clone / name)
    return clone


def run(clone: Path, command: str) -> subprocess.CompletedProcess[str]:
    bare = {name: os.environ[name] for name in os.environ if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return subprocess.run(command, shell=True, cwd=clone, env=bare, capture_output=True, text=True)


def test_the_first_two_commands_are_the_ones_a_newcomer_needs() -> None:
    assert commands()[:2] == ["./run_miner.sh", "./run_tests.sh"]
    assert os.access(ROOT / "run_tests.sh", os.X_OK)  # what runs this test


def test_the_first_command_ends_well_in_little_space_with_a_report(clone: Path) -> None:
    started = time.monotonic()
    ran = run(clone, commands()[0])
    seconds = time.monotonic() - started
    print(ran.stdout)
    assert ran.returncode == 0, ran.stderr
    megabytes = sum(path.lstat().st_size for path in (clone / ".venv").rglob("*")) / 1e6
    print(f"first run: {seconds:.0f} s, {megabytes:.0f} MB")
    assert megabytes < MEGABYTES
    [report] = (clone / "runs").glob("*/report.json")
    answers = json.loads(report.read_text())["answers"]
    assert answers["challenges"] == answers["answered"] > 100
    assert "<svg" in report.with_suffix(".html").read_text()


@pytest.mark.parametrize("command", commands()[2:])
def test_every_other_command_in_a_shell_block_runs(clone: Path, command: str) -> None:
    ran = run(clone, command)
    assert ran.returncode == 0, ran.stderr


def test_every_command_the_readme_names_exists() -> None:
    named = set(re.findall(r"`\./run_miner\.sh ([a-z]+)", README))
    assert named <= set(COMMANDS), f"unknown: {named - set(COMMANDS)}"
