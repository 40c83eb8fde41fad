"""What a miner cannot start with ends it at once: exit code 2, and one line that names the thing and the flag."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.process import ROOT

pytestmark = pytest.mark.slow


def refusal(*flags: str) -> str:
    command = [sys.executable, "-P", "-m", "neurons.miner", "--network", "mock", "--state-dir", "state", *flags]
    surroundings = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, env=surroundings, stderr=subprocess.PIPE, text=True, timeout=120)
    assert ended.returncode == 2
    return ended.stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--profile", "nosuch"], "nosuch: no such profile; expected a .toml file or one of "),
        (["--state-dir", "/proc/state"], "state directory /proc/state: No such file or directory; make it writable"),
        (["--trace", "/proc/state/trace.jsonl"], "/proc/state: No such file or directory"),
        (
            ["--axon-host", "192.0.2.1"],
            "axon address 192.0.2.1: Cannot assign requested address; choose another: --axon",
        ),
    ],
)
def test_what_cannot_be_is_one_line(flags: list[str], said: str) -> None:
    told = refusal(*flags)
    assert told.startswith(f"error: {said}")
    assert told.count("\n") == 1


def test_a_port_that_something_else_holds_is_named_with_its_flag(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        axon = refusal("--axon-port", port, "--health-port", "0")
        health = refusal("--axon-port", "0", "--health-port", port)
    assert axon == f"error: axon port {port}: Address already in use; choose another: --axon-port\n"
    assert health == f"error: health port {port}: Address already in use; choose another: --health-port\n"
