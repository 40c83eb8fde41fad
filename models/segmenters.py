"""SAM 3 asked in words: is this concept in the picture? The picture is encoded once for all concepts.

For each phrase of `roadwork_classes.toml` the model gives a presence logit of the whole picture, and per query a score
and a box. The presence decides; boxes, scored as the library does (presence times query), are evidence.

Asked a second time, it is shown what a detector points at: those boxes are exemplars beside the words for them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from models import boxes
from models.base import Frame, ModelError, Opinion
from models.boxes import Box
from models.torch_model import Answer, TorchModel, arrays, sizes

EXEMPLARS = 3  # boxes that a second question shows, the best ones
KEPT = 4  # pictures of a batch whose encodings wait for a second question: 0.1 GB each at 16 bits
ALONE = "visual"  # what the library itself asks where a box comes without words

Exemplars = Mapping[str, Sequence[Sequence[float]]]  # concept -> boxes that show it: left, top, right, bottom; pixels


class Sam3(TorchModel):
    """SAM 3 with text prompts, and with exemplars of a detector. The phrases are encoded once, when it loads."""

    def _load(self, directory: Path) -> None:
        import torch

        self.processor = self._preprocessor(directory, "AutoProcessor")
        self.model = self._pretrained(directory)
        own = boxes.classes(self.entry.classes)
        others = boxes.merged(boxes.all_classes())  # a detector may point with a label of any table
        self._phrases = list(own.weights)
        self._classes = replace(own, weights={**others.weights, **own.weights})
        self._kept: tuple[list[str], Any] | None = None
        with torch.inference_mode():
            self._texts = {phrase: self._encoded(phrase) for phrase in self._phrases}

    def _unload(self) -> None:
        super()._unload()
        self._kept = None

    def assess_crop(self, frame: Frame, boxes: Sequence[Mapping[str, Any]]) -> Opinion:
        """The second question: is there something like these boxes, each an exemplar beside its label?

        boxes: evidence of a detector, {"box": [left, top, right, bottom], "label", "score"} each, in pixels; the best
        `EXEMPLARS` are shown. The other phrases are asked as before, so that the opinion is whole. What is like a box
        without a label is evidence only: nobody said what it is. Raises ModelError.
        """
        (opinion,) = self._opinions(lambda: [self._answer_again(frame, exemplars(frame, boxes))], 1)
        return opinion

    def presence(self, frames: Sequence[Frame]) -> tuple[Any, list[list[Box]]]:
        """Presence logits (N, phrases), and the boxes of each frame that are worth showing."""
        import torch

        seen = self._seen(frames)
        asked = [self._ask(seen, phrase, frames) for phrase in self._phrases]
        shown = [[box for _, found in asked for box in found[index]] for index in range(len(frames))]
        return torch.stack([logits for logits, _ in asked], 1), shown

    def _answer(self, frames: Sequence[Frame]) -> list[Answer]:
        logits, shown = self.presence(frames)
        return [
            self._said(dict(zip(self._phrases, row, strict=True)), found)
            for row, found in zip(logits.sigmoid().tolist(), shown, strict=True)
        ]

    def _answer_again(self, frame: Frame, shown: Exemplars) -> Answer:
        seen, present, found = self._seen_before(frame), {}, list[Box]()
        for concept in dict.fromkeys([*self._phrases, *shown]):
            logit, (own,) = self._ask(seen, concept, [frame], shown.get(concept, ()))
            present[concept] = float(logit.sigmoid())
            found += own
        logit, evidence = self._said(present, found)
        return logit, {**evidence, "exemplars": shown}

    def _said(self, presence: Mapping[str, float], found: Sequence[Box]) -> Answer:
        return self._classes.logit(presence), {
            "presence": {concept: round(p, 4) for concept, p in presence.items()},
            "boxes": [box.as_json() for box in sorted(found, key=lambda box: -box.score)[:50]],
        }

    def _ask(
        self, seen: Any, concept: str, frames: Sequence[Frame], shown: Sequence[Sequence[float]] = ()
    ) -> tuple[Any, list[list[Box]]]:
        """One concept's presence logits (N,) and boxes per frame. shown: exemplars of it, where N is 1."""
        text, mask = self._texts.get(concept) or self._encoded(concept)
        outputs = self.model(
            vision_embeds=seen,
            text_embeds=_repeated(text, len(frames)),
            attention_mask=mask.expand(len(frames), -1),
            **self._placed(frames[0], shown) if shown else {},
        )
        found = self.processor.image_processor.post_process_object_detection(
            outputs, threshold=boxes.SHOWN, target_sizes=sizes(frames)
        )
        return outputs.presence_logits.float().reshape(len(frames)), [
            [
                Box.of(concept, score, corners)
                for score, corners in zip(each["scores"].tolist(), each["boxes"].tolist(), strict=True)
            ]
            for each in found
        ]

    def _placed(self, frame: Frame, shown: Sequence[Sequence[float]]) -> dict[str, Any]:
        """Exemplars as the model takes them."""
        inputs = self.processor(
            original_sizes=sizes([frame]),
            input_boxes=[[list(corners) for corners in shown]],
            input_boxes_labels=[[1] * len(shown)],
            return_tensors="pt",
        ).to(self.device)
        return {
            "input_boxes": inputs["input_boxes"].to(self.dtype),
            "input_boxes_labels": inputs["input_boxes_labels"],
        }

    def _seen(self, frames: Sequence[Frame]) -> Any:
        """The pictures, encoded; those of a small batch are kept until the next."""
        self._kept = None  # before there are others: the card need not hold both
        inputs = self.processor.image_processor(arrays(frames), return_tensors="pt", device=self.device)
        seen = self.model.get_vision_features(inputs["pixel_values"].to(self.device, self.dtype))
        if len(frames) <= KEPT:
            self._kept = [frame.sha256 for frame in frames], seen
        return seen

    def _seen_before(self, frame: Frame) -> Any:
        """One picture, encoded: from the last batch if it was there."""
        names, seen = self._kept or ([], None)
        if frame.sha256 not in names:
            return self._seen([frame])
        own = slice(index := names.index(frame.sha256), index + 1)
        return type(seen)(
            fpn_hidden_states=tuple(level[own] for level in seen.fpn_hidden_states),
            fpn_position_encoding=tuple(level[own] for level in seen.fpn_position_encoding),
        )

    def _encoded(self, phrase: str) -> tuple[Any, Any]:
        inputs = self.processor(text=phrase, return_tensors="pt").to(self.device)  # it knows its length of text
        return self.model.get_text_features(**inputs), inputs["attention_mask"]


def exemplars(frame: Frame, found: Sequence[Mapping[str, Any]]) -> Exemplars:
    """The best boxes of a detector by concept, cut to the frame. Raises ModelError naming a box that is none."""
    shown: dict[str, list[list[float]]] = {}
    for box in sorted(found, key=lambda box: -float(box.get("score", 0.0)))[:EXEMPLARS]:
        shown.setdefault(str(box.get("label", ALONE)).lower(), []).append(_within(frame, box))
    return shown


def _within(frame: Frame, box: Mapping[str, Any]) -> list[float]:
    width, height = frame.size
    try:
        left, top, right, bottom = (float(corner) for corner in box["box"])
        if not all(map(math.isfinite, (left, top, right, bottom))):
            raise ValueError("not finite")
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f'expected {{"box": [left, top, right, bottom]}}, four finite numbers, got {dict(box)}; '
            "the detector that points at it must name corners in pixels"
        ) from error
    cut = [max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))]
    if cut[0] >= cut[2] or cut[1] >= cut[3]:
        raise ModelError(
            f"expected a box with left < right and top < bottom inside the picture of {width} x {height} pixels, "
            f"got {[left, top, right, bottom]}; corners are pixels of the frame, not shares of it or a box's centre"
        )
    return cut


def _repeated(text: Any, count: int) -> Any:
    """The same phrase for each picture of the batch."""
    return SimpleNamespace(pooler_output=text.pooler_output.expand(count, -1, -1))
