"""`train vlm` on a tiny Qwen3-VL with random weights: its loss falls, and its adapter changes the answer."""

from __future__ import annotations

import importlib.machinery
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import tiny
import torch
import transformers as tf
from finetune_helpers import street_folder

from models.training.finetune import vlm
from models.training.finetune.answer import Answer, with_lora
from models.training.finetune.settings import Vlm, parse
from models.vlm.prompts import prompt_of

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.utils.tensorboard")
STEPS = 20


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny-qwen")
    torch.manual_seed(0)
    tiny.tiny_qwen3_vl(directory)
    return directory


@pytest.fixture(scope="module")
def trained(qwen: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("vlm")
    streets = street_folder(out / "data", each=1)
    flags = ["--data", str(streets), "--out", str(out), "--model", str(qwen), "--steps", str(STEPS), "--batch", "4"]
    flags += ["--accumulate", "2", "--side", "64", "--learning-rate", "4e-3", "--workers", "0", "--device", "cpu"]
    return out, vlm.run(parse(Vlm, [*flags, "--checkpointing", "--merge"]))


def answers(model: torch.nn.Module, qwen: Path, shown: np.ndarray) -> torch.Tensor:
    processor = tf.AutoProcessor.from_pretrained(qwen)
    prompt = prompt_of("default")
    asked = vlm.Asked(processor, prompt)
    with torch.inference_mode():
        return Answer(model.eval(), *prompt.answer_tokens(processor.tokenizer))(**asked(list(shown)))


def base(qwen: Path) -> Any:
    return tf.AutoModelForImageTextToText.from_pretrained(qwen, dtype=torch.float32)


def test_the_loss_falls_and_held_out_streets_are_told_apart(trained: tuple[Path, dict[str, Any]]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    losses = [event.value for event in EventAccumulator(str(trained[0] / "tensorboard")).Reload().Scalars("loss")]
    assert len(losses) == STEPS
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert trained[1]["measured"]["native"]["all"]["auc"]["value"] == 1.0


def test_the_adapter_loads_again_and_changes_the_answer(trained: tuple[Path, dict[str, Any]], qwen: Path) -> None:
    shown = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    shown[1] = (240, 110, 20)
    folder = trained[0] / "model"
    before = answers(base(qwen), qwen, shown)
    adapted = answers(peft.PeftModel.from_pretrained(base(qwen), folder), qwen, shown)
    assert (adapted - before).abs().min() > 0.1
    assert adapted[1] > adapted[0]
    merged = answers(tf.AutoModelForImageTextToText.from_pretrained(folder / "merged"), qwen, shown)
    assert torch.allclose(merged, adapted, atol=1e-3)


def test_the_card_names_no_place_of_this_machine(trained: tuple[Path, dict[str, Any]], qwen: Path) -> None:
    folder = trained[0] / "model"
    for name in ("adapter_config.json", "model_card.json", "README.md"):
        assert str(qwen.parent) not in (folder / name).read_text()
    assert "adapter_model.safetensors" in json.loads((folder / "model_card.json").read_text())["files"]


def test_the_readme_shows_no_command_for_a_profile_that_there_is_not(trained: tuple[Path, dict[str, Any]]) -> None:
    folder = trained[0] / "model"
    assert not (folder / "profile.toml").exists(), "the catalog does not know the start"
    assert "--profile" not in (folder / "README.md").read_text()


@pytest.mark.parametrize("vision", [False, True])
def test_only_the_matrices_of_the_chosen_halves_learn(qwen: Path, vision: bool) -> None:
    ready = with_lora(base(qwen), 2, vision=vision)
    learning = [name for name, p in ready.named_parameters() if p.requires_grad]
    assert all("lora_" in name for name in learning)
    assert any("language_model" in name for name in learning)
    assert any("visual" in name for name in learning) is vision


def test_unsloth_is_used_on_a_card_where_it_is_installed(qwen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the package: what it is asked for, not what it does."""
    asked: dict[str, Any] = {}

    class FastVisionModel:
        @staticmethod
        def from_pretrained(name: str, **how: Any) -> tuple[str, str]:
            asked.update(how, name=name)
            return "model", "processor"

        @staticmethod
        def get_peft_model(model: str, **how: Any) -> str:
            asked.update(how)
            return f"{model} with matrices"

        @staticmethod
        def for_training(model: str) -> None:
            asked["for_training"] = model

    stand_in = types.ModuleType("unsloth")
    stand_in.__spec__ = importlib.machinery.ModuleSpec("unsloth", None)
    stand_in.FastVisionModel = FastVisionModel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "unsloth", stand_in)
    monkeypatch.setenv("UNSLOTH_RETURN_LOGITS", "0")
    settings = parse(Vlm, ["--data", "x", "--out", "y", "--model", str(qwen), "--rank", "8"])
    assert vlm._loaded(settings, "cuda") == ("model with matrices", "processor")
    assert (asked["name"], asked["r"], asked["load_in_4bit"]) == (str(qwen), 8, False)
    assert asked["for_training"] == "model with matrices"
