"""Models that `./run_miner.sh train` made: folders of weights, calibration and card (`training/finetune/package.py`).

`Trained` runs the folder's ONNX on the CPU, in the miner's process. `OnCard` builds the same network in torch from the
safetensors, in the worker, 16 bits on a card. Both resize as in training and answer with calibrated log-odds.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import weights
from models.base import BadWeights, Frame, ModelCrashed, ModelSpec, ModelUnavailable, Opinion
from models.catalog import Entry
from models.embedded.model import Calibration
from models.embedded.view import resize
from models.torch_model import Answer, TorchModel

LARGEST_BATCH = 16
EVERY = "every"  # one calibration for pictures of every size and level


class Trained:
    """A folder's `model.onnx` on the CPU. Keeps `models.base.Model`."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self._session: Any = None
        self._calibration: Calibration | None = None

    @property
    def spec(self) -> ModelSpec:
        return self.entry.spec

    def load(self, device: str) -> None:
        """Check the files against the card and open them. Raises BadWeights, ModelUnavailable."""
        if device != "cpu":
            raise ModelUnavailable(f"{self.entry.key}: its ONNX runs on cpu, got device {device!r}")
        import onnxruntime

        folder = whole(self.entry, "model.onnx", "calibration.json")
        self._calibration = Calibration.read(folder / "calibration.json", EVERY)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors share no public base
            raise BadWeights(f"{folder / 'model.onnx'}: onnxruntime refused it ({error}); train it again") from error

    def warm_up(self) -> None:
        self.assess([Frame.of(np.zeros((360, 640, 3), np.uint8))])

    def assess(self, frames: Sequence[Frame]) -> list[Opinion]:
        """One opinion per frame, in order."""
        if self._session is None or self._calibration is None:
            raise ModelUnavailable(f"{self.entry.key}: not loaded; call load(device) first")
        began = time.perf_counter()
        raw: list[float] = []
        for start in range(0, len(frames), LARGEST_BATCH):
            batch = shown(frames[start : start + LARGEST_BATCH], self.entry.input_size)
            try:
                raw += self._session.run(["logit"], {"pixels": batch})[0].tolist()
            except Exception as error:  # onnxruntime's errors share no public base
                raise ModelCrashed(f"{self.entry.key}: onnxruntime failed on {batch.shape}: {error}") from error
        spent = (time.perf_counter() - began) * 1e3
        return [Opinion(self.entry.key, self._calibration.log_odds(z), spent, {"raw_logit": z}) for z in raw]

    def close(self) -> None:
        self._session = None


class OnCard(TorchModel):
    """A folder's `model.safetensors` in torch."""

    def _load(self, directory: Path) -> None:
        from models.training.finetune.network import Described, build

        load_file = import_module("safetensors.torch").load_file
        whole(self.entry, "model.safetensors", "network.json", "calibration.json")
        self._calibration = Calibration.read(directory / "calibration.json", EVERY)
        model = build(Described.read(directory / "network.json"))
        model.load_state_dict(load_file(directory / "model.safetensors"))
        self.model = model.to(self.device, self.dtype).eval()

    def _answer(self, frames: Sequence[Frame]) -> list[Answer]:
        pixels = import_module("torch").from_numpy(shown(frames, self.entry.input_size))
        raw: list[float] = self.model(pixels.to(self.device)).float().tolist()
        return [(self._calibration.log_odds(z), {"raw_logit": z}) for z in raw]


def shown(frames: Sequence[Frame], side: int) -> NDArray[np.uint8]:
    """The whole pictures as squares: uint8 (N, side, side, 3)."""
    return np.stack([resize(frame.pixels, (side, side)) for frame in frames])


def whole(entry: Entry, *names: str) -> Path:
    """The folder, if these files of it have the hashes that its card tells. Raises BadWeights."""
    folder = weights.locate(entry)
    card = folder / "model_card.json"
    try:
        told = json.loads(card.read_text(encoding="utf-8"))["files"]
        for name in [each for each in told if each.startswith(names)]:
            expected = told[name]
            with (folder / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != expected:
                raise BadWeights(f"{folder / name}: {card.name} expects sha256 {expected}, the file has {found}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadWeights(f"{entry.key}: {folder} is not whole ({error!r}); train it again or fetch it anew") from error
    return folder
