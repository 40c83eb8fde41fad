"""The real vLLM on the CPU, with a tiny Qwen3-VL of random weights. Runs in .venv-vllm (requirements/vllm.sh)."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"  # GiB
os.environ["YOLO_CONFIG_DIR"] = tempfile.mkdtemp(prefix="yolo-")
sys.path.insert(0, str(Path(__file__).parents[1] / "adapters"))
atexit.register(shutil.rmtree, os.environ["YOLO_CONFIG_DIR"], ignore_errors=True)

MEASURED: list[str] = []  # what the tests timed, shown after them


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen3-VL with everything that the large ones have, and a chat template that begins no thought."""
    import tiny
    import torch

    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("tiny-qwen3-vl")
    tiny.tiny_qwen3_vl(directory)
    return directory


@pytest.fixture
def measured() -> list[str]:
    """Lines for the summary."""
    return MEASURED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if MEASURED:
        terminalreporter.section("measured")
        terminalreporter.write_line("\n".join(MEASURED))


def pytest_configure(config: pytest.Config) -> None:
    """What others' imports warn of is not ours to mend."""
    for category in ("FutureWarning", "DeprecationWarning", "UserWarning"):
        for module in ("vllm", "torch", "transformers", "cpuinfo", "jax"):
            config.addinivalue_line("filterwarnings", f"ignore::{category}:{module}")
