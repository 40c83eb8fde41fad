"""Open-vocabulary detectors: Grounding DINO, MM-Grounding-DINO, LLMDet and OWLv2, asked for `roadwork_classes.toml`.

The question is the same for every picture, so the words are encoded once. Grounding DINO scores each token of the
question; a phrase's score is that of its best token, which is how the library scores a box, but phrase by phrase, where
the library may merge neighbours into one. OWLv2 scores each phrase itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from models import boxes
from models.base import BadWeights, Frame
from models.boxes import Box
from models.detecting import Detecting
from models.detectors import scaled
from models.torch_model import arrays, sizes


class Grounding(Detecting):
    """Grounding DINO and its kin. The shape of its input is that of the picture, so there is no graph to record."""

    one_size = True  # the library pads mixed sizes, and the padding shows in the scores

    def _load(self, directory: Path) -> None:
        self.processor = self._preprocessor(directory, "AutoProcessor")
        self.model = self._pretrained(directory)
        self.table = boxes.classes(self.entry.classes)
        self._phrases = list(self.table.weights)
        tokens = self.processor.tokenizer
        self._text = tokens(". ".join(self._phrases) + ".", return_tensors="pt").to(self.device)
        self._spans = _spans(self._text["input_ids"][0].tolist(), tokens, self._phrases, self.entry.key)
        encoder = self.model.model.text_backbone
        encoder.forward = said_once(encoder.forward)

    def detect(self, frames: Sequence[Frame]) -> list[list[Box]]:
        """Boxes per frame: of each query, its best phrase, as `boxes.strongest` keeps them."""
        import torch

        inputs = self.processor.image_processor(arrays(frames), return_tensors="pt", device=self.device)
        outputs = self.model(
            pixel_values=inputs["pixel_values"].to(self.device, self.dtype),
            pixel_mask=inputs["pixel_mask"].to(self.device),
            **{name: value.expand(len(frames), -1) for name, value in self._text.items()},
        )
        scores = outputs.logits.float().sigmoid()  # (N, queries, tokens)
        scores = torch.stack([scores[..., span].amax(-1) for span in self._spans], -1)  # (N, queries, phrases)
        return [boxes.strongest(rows, self._phrases) for rows in scaled(rows_of(scores, outputs), sizes(frames))]


class Owlv2(Detecting):
    """OWLv2. Its processor pads each picture to a square of one size, so that it can be recorded."""

    recorded = (1, 2, 4)  # at 1008 pixels a larger batch fills the card no better

    def _load(self, directory: Path) -> None:
        import torch

        self.processor = self._preprocessor(directory, "AutoProcessor")
        self.model = self._pretrained(directory)
        self.table = boxes.classes(self.entry.classes)
        self._phrases = list(self.table.weights)
        words = self.processor.tokenizer(self._phrases, padding="max_length", truncation=True, return_tensors="pt")
        with torch.inference_mode():
            said = self.model.owlv2.get_text_features(**words.to(self.device))
        self._words = getattr(said, "pooler_output", said)[None]  # (1, phrases, D)
        self.pictures = import_module("models.pictures").Pictures(
            self.processor.image_processor, self.device, self.dtype
        )
        self.forward = self._accelerated(self.model, self._found, self.pictures)

    def _found(self, pixels: Any) -> Any:
        """(N, queries, 6) float32: score, phrase, left, top, right, bottom as shares of the square."""
        features = self.model.image_embedder(pixels)[0]  # (N, height, width, D) of patches
        flat = features.flatten(1, 2)
        logits = self.model.class_predictor(flat, self._words.expand(len(flat), -1, -1))[0]
        return rows_of(logits.float().sigmoid(), SimpleNamespace(pred_boxes=self.model.box_predictor(flat, features)))

    def detect(self, frames: Sequence[Frame]) -> list[list[Box]]:
        """Boxes per frame: of each patch, its best phrase, as `boxes.strongest` keeps them."""
        squares = [(max(frame.size), max(frame.size)) for frame in frames]
        found = scaled(self.forward(self.pictures(frames)), squares)
        return [boxes.strongest(rows, self._phrases) for rows in found]


def rows_of(scores: Any, outputs: Any) -> Any:
    """(N, queries, 6) float32 from scores (N, queries, phrases) and boxes (N, queries, 4), centre and size from 0 to 1:
    score and index of the best phrase, left, top, right, bottom."""
    import torch

    best = scores.max(-1, keepdim=True)
    centre, size = outputs.pred_boxes.float().chunk(2, -1)
    return torch.cat([best.values, best.indices.float(), centre - size / 2, centre + size / 2], -1)


def said_once(encode: Callable[..., Any]) -> Callable[..., Any]:
    """Of a text encoder that is given the same row for each picture of each batch: one row, encoded by the first call
    and kept."""
    kept: list[Any] = []

    def encoded(input_ids: Any, *more: Any, **options: Any) -> Any:
        if not kept:
            kept.append(encode(input_ids[:1], *(each[:1] for each in more), **options).last_hidden_state)
        return SimpleNamespace(last_hidden_state=kept[0].expand(len(input_ids), -1, -1))

    return encoded


def _spans(tokens: Sequence[int], tokenizer: Any, phrases: Sequence[str], key: str) -> list[list[int]]:
    """Positions of each phrase's tokens in the question. Raises BadWeights if the tokenizer lost one."""
    stop = tokenizer.convert_tokens_to_ids(".")
    ends = [position for position, token in enumerate(tokens) if token == stop]
    if len(ends) != len(phrases):
        raise BadWeights(f"{key}: expected {len(phrases)} phrases between full stops, the tokenizer made {len(ends)}")
    starts = [1, *(end + 1 for end in ends[:-1])]
    return [list(range(start, end)) for start, end in zip(starts, ends, strict=True)]
