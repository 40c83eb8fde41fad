"""`train vlm`: LoRA matrices of a Qwen3-VL, trained on the one token of its answer.

The model is asked as the miner asks it (`models/vlm/prompts.toml`), and the loss is that of its log-odds:
logsumexp of the spellings of yes minus logsumexp of those of no, at the place of the answer. Nothing else of the
vocabulary is trained, so the score stays what the engines read.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from models import weights
from models.catalog import Entry, entries, find
from models.embedded.model import Calibration
from models.trained import EVERY
from models.training.finetune import data, loop, package, score
from models.training.finetune.answer import Answer, with_lora, yes_no_loss
from models.training.finetune.classify import measure
from models.training.finetune.composer import course
from models.training.finetune.settings import Vlm, parse
from models.vlm.prompts import Prompt, prompt_of

log = logging.getLogger(__name__)


class Asked:
    """Pictures as what the model takes: the chat's tokens and the picture's patches."""

    def __init__(self, processor: Any, prompt: Prompt) -> None:
        self._processor = processor
        self._text = processor.apply_chat_template(prompt.chats[0], tokenize=False, add_generation_prompt=True)

    def __call__(self, pictures: Sequence[NDArray[np.uint8]]) -> dict[str, Tensor]:
        """pictures: uint8 (H, W, 3) of one size. All chats are then equally long, and nothing is padded."""
        images = [Image.fromarray(pixels) for pixels in pictures]
        return dict(self._processor(text=[self._text] * len(images), images=images, return_tensors="pt"))


def main(arguments: Sequence[str]) -> None:
    """Raises ValueError and ModelError that say what to do."""
    run(parse(Vlm, arguments))


def run(settings: Vlm) -> dict[str, Any]:
    """Train, calibrate, measure on held-out sources, write the adapter. Gives what `results.json` holds."""
    device = loop.accelerator(settings)
    pictures = data.read(settings, log.info)
    parts = data.split(pictures, settings)
    model, processor = _loaded(settings, device.device.type)
    prompt = prompt_of(settings.model)
    answer = Answer(model, *prompt.answer_tokens(processor.tokenizer))
    asked = Asked(processor, prompt)
    labels = np.array([[p.label] for p in pictures.pictures], np.float32)
    batches, composer = course(pictures, parts, labels, settings.side, settings, device)

    def show(number: int, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        views = composer(number, batch)
        inputs = asked(list(views["pixels"].cpu().numpy()))
        return {**{k: v.to(device.device) for k, v in inputs.items()}, "targets": views["targets"]}

    watched = pictures.of(pictures.rows(parts["calibrate"]))
    predict = predictor(answer, asked, device)
    loop.fit(
        answer,
        batches,
        yes_no_loss,
        settings,
        device,
        identity={**settings.deciding, "pictures": pictures.digest},
        show=show,
        watch=lambda: score.glance(predict, watched, settings.side, settings.seed),
    )
    return _finish(answer, processor, predict, pictures, parts, settings) if device.is_main_process else {}


def predictor(answer: Answer, asked: Asked, device: Accelerator) -> score.Predict:
    """The answer to uint8 (n, side, side, 3) pictures as (n,) log-odds."""

    def predict(pixels: NDArray[np.uint8]) -> Tensor:
        with device.autocast():
            return answer(**{key: value.to(device.device) for key, value in asked(list(pixels)).items()})

    return predict


def _loaded(settings: Vlm, device: str) -> tuple[nn.Module, Any]:
    """The model, ready to learn, and its processor. By Unsloth on a card where it is installed, else by peft."""
    directory = Path(settings.model) if Path(settings.model).is_dir() else weights.locate(find(settings.model))
    if device == "cuda" and importlib.util.find_spec("unsloth"):
        return _by_unsloth(str(directory), settings)
    tf = import_module("transformers")
    kind = torch.bfloat16 if device == "cuda" and settings.precision != "fp32" else torch.float32
    model = tf.AutoModelForImageTextToText.from_pretrained(directory, dtype=kind, local_files_only=True)
    ready = with_lora(model, settings.rank, vision=settings.vision, checkpointing=settings.checkpointing)
    return ready, tf.AutoProcessor.from_pretrained(directory, local_files_only=True)


def _by_unsloth(directory: str, settings: Vlm) -> tuple[nn.Module, Any]:
    """Unsloth's kernels: the same matrices, faster. It must be told to give logits, and which parts learn."""
    os.environ["UNSLOTH_RETURN_LOGITS"] = "1"
    fast = import_module("unsloth").FastVisionModel
    memory = "unsloth" if settings.checkpointing else False
    model, processor = fast.from_pretrained(directory, load_in_4bit=False, use_gradient_checkpointing=memory)
    model = fast.get_peft_model(
        model,
        finetune_vision_layers=settings.vision,
        finetune_language_layers=True,
        finetune_attention_modules=True,
        finetune_mlp_modules=True,
        r=settings.rank,
        lora_alpha=settings.rank,
        lora_dropout=0,
        bias="none",
        random_state=settings.seed,
        use_gradient_checkpointing=memory,
    )
    fast.for_training(model)
    return model, processor


def _finish(
    answer: Answer,
    processor: Any,
    predict: score.Predict,
    pictures: data.Data,
    parts: Mapping[str, Sequence[str]],
    settings: Vlm,
) -> dict[str, Any]:
    """Calibration, figures, `<out>/model` with the adapter, and with --merge the whole model and a profile."""
    folder = settings.out / "model"
    folder.mkdir(parents=True, exist_ok=True)
    found = measure(predict, settings.side, pictures, parts, settings, folder)
    entry = entries().get(settings.model)
    start = entry.repository if entry else Path(settings.model).name
    tuned: Any = answer.model
    tuned.peft_config["default"].base_model_name_or_path = start  # not where it lies on this machine
    tuned.save_pretrained(folder, save_embedding_layers=False)  # they did not learn; "auto" would ask the hub
    (folder / "README.md").unlink(missing_ok=True)  # peft's own, empty
    if settings.merge:
        tuned.merge_and_unload().save_pretrained(folder / "merged")
        processor.save_pretrained(folder / "merged")
        if entry:
            package.write_profile(folder, settings.name, _served(entry, folder, settings), 1000)
    said = f"LoRA of {start} on its answer to whether road work is visible in a street picture."
    return package.finish(settings, {"description": said, "start": start}, data.described(pictures, parts), found)


def _served(entry: Entry, folder: Path, settings: Vlm) -> dict[str, Any]:
    """The catalog's entry of the model that was started from, with the merged weights and their calibration."""
    calibration = Calibration.read(folder / "calibration.json", EVERY)
    told = entry.model_dump(mode="json", exclude={"key", "revision", "folder"}, exclude_defaults=True)
    return {
        **told,
        "title": f"{settings.name}: {entry.title} trained on own data",
        "folder": "merged",
        "scale": calibration.slope,
        "offset": -calibration.slope * calibration.shift,
        "enabled": bool(entry.adapter),
    }
