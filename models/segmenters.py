"""SAM 3 asked in words: is this concept in the picture? The picture is encoded once for all concepts.

For each phrase of `roadwork_classes.toml` the model gives a presence logit of the whole picture, and per query a score
and a box. The presence decides; boxes, scored as the library does (presence times query), are evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from models import boxes
from models.base import Frame
from models.boxes import Box
from models.torch_model import Answer, TorchModel, arrays, sizes


class Sam3(TorchModel):
    """SAM 3 with text prompts. The phrases are encoded once, when it loads."""

    def _load(self, directory: Path) -> None:
        import torch

        self.processor = self._preprocessor(directory, "AutoProcessor")
        self.model = self._pretrained(directory)
        self._classes = boxes.classes(self.entry.classes)
        self._phrases = list(self._classes.weights)
        with torch.inference_mode():
            self._texts = [self._encoded(phrase) for phrase in self._phrases]

    def presence(self, frames: Sequence[Frame]) -> tuple[Any, list[list[Box]]]:
        """Presence logits (N, phrases), and the boxes of each frame that are worth showing."""
        import torch

        inputs = self.processor.image_processor(arrays(frames), return_tensors="pt", device=self.device)
        seen = self.model.get_vision_features(inputs["pixel_values"].to(self.device, self.dtype))
        columns, shown = [], [list[Box]() for _ in frames]
        for phrase, (text, mask) in zip(self._phrases, self._texts, strict=True):
            outputs = self.model(
                vision_embeds=seen,
                text_embeds=_repeated(text, len(frames)),
                attention_mask=mask.expand(len(frames), -1),
            )
            columns.append(outputs.presence_logits.float().reshape(len(frames)))
            found = self.processor.image_processor.post_process_object_detection(
                outputs, threshold=boxes.SHOWN, target_sizes=sizes(frames)
            )
            for own, each in zip(shown, found, strict=True):
                own += [
                    Box.of(phrase, score, corners)
                    for score, corners in zip(each["scores"].tolist(), each["boxes"].tolist(), strict=True)
                ]
        return torch.stack(columns, 1), shown

    def _answer(self, frames: Sequence[Frame]) -> list[Answer]:
        logits, shown = self.presence(frames)
        return [
            (
                self._classes.logit(dict(zip(self._phrases, row, strict=True))),
                {
                    "presence": {phrase: round(p, 4) for phrase, p in zip(self._phrases, row, strict=True)},
                    "boxes": [box.as_json() for box in sorted(found, key=lambda box: -box.score)[:50]],
                },
            )
            for row, found in zip(logits.sigmoid().tolist(), shown, strict=True)
        ]

    def _encoded(self, phrase: str) -> tuple[Any, Any]:
        inputs = self.processor(text=phrase, return_tensors="pt").to(self.device)  # it knows its length of text
        return self.model.get_text_features(**inputs), inputs["attention_mask"]


def _repeated(text: Any, count: int) -> Any:
    """The same phrase for each picture of the batch."""
    return SimpleNamespace(pooler_output=text.pooler_output.expand(count, -1, -1))
