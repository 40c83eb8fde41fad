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
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("tiny-qwen3-vl")
    tiny.tiny_qwen3_vl(directory)
    weights = load_file(directory / "model.safetensors")
    (words,) = (value for name, value in weights.items() if name.endswith("embed_tokens.weight"))
    tokens = tiny.qwen_tokenizer()
    ends = tokens.convert_tokens_to_ids([tokens.eos_token, "</think>"])
    words[ends] = 0.0  # a logit far below the highest: random weights end nothing by themselves
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    return directory


@pytest.fixture(scope="session")
def thinking_checkpoint(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights, with a chat template that begins a thought unless it is told not to, as Qwen3.5's does."""
    directory = tmp_path_factory.mktemp("thinking") / "tiny-qwen3-vl"
    shutil.copytree(checkpoint, directory)
    with (directory / "chat_template.jinja").open("a", encoding="utf-8") as template:
        template.write("{%- if enable_thinking is not defined or enable_thinking %}{{- '<think>\\n' }}{%- endif %}")
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
