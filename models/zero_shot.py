"""Zero-shot: how much a picture looks like road work in words, and under which conditions it was taken.

CLIP and SigLIP give one logit per sentence. Road work's log-odds are those of its sentences against the contrast's:
logsumexp over the one, minus logsumexp over the other, each less the logarithm of its count. Day or night and the
weather, read off the same encoding, are evidence: a covariate for calibration, not an answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from models.base import BadWeights, Frame
from models.torch_model import Answer, TorchModel

LIGHT = {"day": "a street by day", "dusk": "a street at dusk", "night": "a street at night"}
WEATHER = {
    "clear": "a street in clear weather",
    "rain": "a street in the rain",
    "snow": "a street in the snow",
    "fog": "a street in fog",
}


class ZeroShot(TorchModel):
    """Any CLIP or SigLIP with picture and text encoders. The sentences are encoded once, when it loads."""

    def _load(self, directory: Path) -> None:
        import torch

        if not self.entry.prompts or not self.entry.contrast:
            raise BadWeights(f"{self.entry.key}: the catalog needs prompts and a contrast for it")
        self.processor = self._preprocessor(directory, "AutoProcessor")
        self.model = self._pretrained(directory)
        sentences = [*self.entry.prompts, *self.entry.contrast, *LIGHT.values(), *WEATHER.values()]
        # SigLIP was trained on text padded to its full length, and is wrong on any other.
        padding = "max_length" if self.model.config.model_type.startswith("siglip") else True
        inputs = self.processor(text=sentences, padding=padding, truncation=True, return_tensors="pt").to(self.device)
        with torch.inference_mode():
            self._text = _normalised(self.model.get_text_features(**inputs))  # (sentences, D)
            self._scale = self.model.logit_scale.exp()
            self._bias = getattr(self.model, "logit_bias", 0.0)
        self.pictures = import_module("models.pictures").Pictures(
            self.processor.image_processor, self.device, self.dtype
        )
        self.forward = self._accelerated(self.model, self._similar, self.pictures)

    def logits(self, frames: Sequence[Frame]) -> Any:
        """(N, sentences) float32: the library's `logits_per_image` over prompts, contrast, light, weather."""
        return self.forward(self.pictures(frames)).float()

    def _similar(self, pixels: Any) -> Any:
        pictures = _normalised(self.model.get_image_features(pixel_values=pixels))
        return pictures @ self._text.T * self._scale + self._bias

    def _answer(self, frames: Sequence[Frame]) -> list[Answer]:
        logits = self.logits(frames)
        ours, theirs = len(self.entry.prompts), len(self.entry.contrast)
        road, clear = logits[:, :ours], logits[:, ours : ours + theirs]
        raw = road.logsumexp(1) - clear.logsumexp(1) - math.log(ours / theirs)
        light = logits[:, ours + theirs :][:, : len(LIGHT)].softmax(1).tolist()
        weather = logits[:, ours + theirs + len(LIGHT) :].softmax(1).tolist()
        return [
            (value, {"light": _rounded(LIGHT, by_light), "weather": _rounded(WEATHER, by_weather)})
            for value, by_light, by_weather in zip(raw.tolist(), light, weather, strict=True)
        ]


def _normalised(features: Any) -> Any:
    pooled = getattr(features, "pooler_output", features)  # newer releases wrap what older ones returned bare
    return pooled / pooled.norm(dim=-1, keepdim=True)


def _rounded(names: dict[str, str], values: Sequence[float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in zip(names, values, strict=True)}
