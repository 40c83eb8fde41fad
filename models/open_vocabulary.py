"""Open-vocabulary detectors: Grounding DINO, MM-Grounding-DINO, LLMDet and OWLv2, asked for `roadwork_classes.toml`.

Grounding DINO scores each token of the question; a phrase's score is that of its best token, which is how the library
scores a box, but phrase by phrase, where the library may merge neighbours into one. OWLv2 scores each phrase itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models import boxes
from models.base import BadWeights, Frame
from models.boxes import Box
from models.detecting import Detecting
from models.torch_model import arrays, sizes


class OpenVocabulary(Detecting):
    """Any `AutoModelForZeroShotObjectDetection`. The question is put into tokens once, when it loads."""

    one_size = True  # the library pads mixed sizes, and the padding shows in the scores

    def _load(self, directory: Path) -> None:
        self.processor = self._preprocessor(directory, "AutoProcessor")
        self.model = self._pretrained(directory)
        self.table = boxes.classes(self.entry.classes)
        self._phrases = list(self.table.weights)
        self._by_token = hasattr(self.model.config, "text_config") and "grounding" in self.model.config.model_type
        question = self.processor.tokenizer
        if self._by_token:
            self._text = question(". ".join(self._phrases) + ".", return_tensors="pt")
            self._spans = _spans(self._text["input_ids"][0].tolist(), question, self._phrases, self.entry.key)
        else:
            self._text = question(self._phrases, padding="max_length", truncation=True, return_tensors="pt")

    def detect(self, frames: Sequence[Frame]) -> list[list[Box]]:
        """Boxes per frame: of each query, its best phrase, at any score."""
        import torch

        inputs = self.processor.image_processor(arrays(frames), return_tensors="pt", device=self.device)
        text = {name: value.repeat(len(frames), 1).to(self.device) for name, value in self._text.items()}
        pixels = {
            name: value.to(self.device, self.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
            if hasattr(value, "to")
        }
        outputs = self.model(**pixels, **text)
        scores = outputs.logits.float().sigmoid()  # (N, queries, tokens or phrases)
        if self._by_token:
            scores = torch.stack([scores[..., span].amax(-1) for span in self._spans], -1)  # (N, queries, phrases)
        best = scores.max(-1)
        corners = self._corners(outputs, frames)
        return [
            [Box.of(self._phrases[label], score, box) for score, label, box in zip(values, labels, boxes_, strict=True)]
            for values, labels, boxes_ in zip(best.values.tolist(), best.indices.tolist(), corners, strict=True)
        ]

    def _corners(self, outputs: Any, frames: Sequence[Frame]) -> list[list[list[float]]]:
        """(left, top, right, bottom) in pixels, per query."""
        import torch

        centre = outputs.pred_boxes.float().cpu()  # (N, queries, 4): centre and size, 0..1
        middle, half = centre[..., :2], centre[..., 2:] / 2
        scale = torch.tensor([[width, height, width, height] for height, width in sizes(frames)])
        if not self._by_token:  # OWLv2's processor pads to a square before it resizes
            scale = scale.amax(1, keepdim=True).expand(-1, 4)
        corners: list[list[list[float]]] = (torch.cat([middle - half, middle + half], -1) * scale[:, None]).tolist()
        return corners


def _spans(tokens: Sequence[int], tokenizer: Any, phrases: Sequence[str], key: str) -> list[list[int]]:
    """Positions of each phrase's tokens in the question. Raises BadWeights if the tokenizer lost one."""
    stop = tokenizer.convert_tokens_to_ids(".")
    ends = [position for position, token in enumerate(tokens) if token == stop]
    if len(ends) != len(phrases):
        raise BadWeights(f"{key}: expected {len(phrases)} phrases between full stops, the tokenizer made {len(ends)}")
    starts = [1, *(end + 1 for end in ends[:-1])]
    return [list(range(start, end)) for start, end in zip(starts, ends, strict=True)]
