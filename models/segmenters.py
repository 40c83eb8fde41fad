"""SAM 3 asked in words: is this concept in the picture? The picture is encoded once for all concepts.

For each phrase of `roadwork_classes.toml` the model gives a presence logit of the whole picture, and per query a score
and a box. The presence decides; boxes, scored as the library does (presence times query), are evidence.

Only presence and boxes are read, so what the library computes for masks is left out: the mask decoder, and the
features of the picture at other resolutions. Phrases of as many tokens go through the decoder side by side, without
padding and so without a mask, and pixels to answers is one forward of fixed shape, which a card runs from a graph.

Asked a second time, it is shown what a detector points at: those boxes are exemplars beside the words for them.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from models import boxes
from models.base import Frame, ModelError, Opinion
from models.boxes import Box
from models.torch_model import Answer, TorchModel, sizes

EXEMPLARS = 3  # boxes that a second question shows, the best ones
KEPT = 16  # pictures that wait for a second question: 5 MB each at 16 bits
ALONE = "visual"  # what the library itself asks where a box comes without words

Exemplars = Mapping[str, Sequence[Sequence[float]]]  # concept -> boxes that show it: left, top, right, bottom; pixels


@dataclass(frozen=True, slots=True)
class Answered:
    """What SAM 3 answers about some concepts, on the host. presence: logits (N, concepts); scores: of boxes, (N,
    concepts, queries); corners: left, top, right, bottom from 0 to 1, (N, concepts, queries, 4)."""

    presence: Any
    scores: Any
    corners: Any

    def boxes(self, index: int, concepts: Sequence[str], size: tuple[int, int]) -> list[Box]:
        """Boxes of one picture that are worth showing. size: (width, height)."""
        pixels = self.corners[index] * np.array([*size, *size], np.float32)
        return [
            Box.of(concepts[concept], float(self.scores[index, concept, query]), pixels[concept, query].tolist())
            for concept, query in np.argwhere(self.scores[index] > boxes.SHOWN)
        ]


@dataclass(frozen=True, slots=True)
class Seen:
    """One picture that may be asked about again. features, places: (1, D, height, width), on the device; presence:
    logit by phrase; found: boxes."""

    features: Any
    places: Any
    presence: Mapping[str, float]
    found: Sequence[Box]


class Sam3(TorchModel):
    """SAM 3 with text prompts, and with exemplars of a detector. The phrases are encoded once, when it loads."""

    recorded = (1, 2, 4)  # at 1008 pixels and ten phrases a larger batch fills the card no better

    def __init__(self, *known: Any) -> None:
        super().__init__(*known)
        self._kept: OrderedDict[str, Seen] = OrderedDict()

    def _load(self, directory: Path) -> None:
        import torch

        self.processor = self._preprocessor(directory, "AutoProcessor")
        self.model = self._pretrained(directory)
        own = boxes.classes(self.entry.classes)
        others = boxes.merged(boxes.all_classes())  # a detector may point with a label of any table
        self._classes = replace(own, weights={**others.weights, **own.weights})
        self.pictures = import_module("models.pictures").Pictures(
            self.processor.image_processor, self.device, self.dtype
        )
        self._without_masks(self.pictures.example.shape[-1])
        with torch.inference_mode():
            self._texts = {phrase: self._encoded(phrase) for phrase in own.weights}
        by_length = sorted(own.weights, key=lambda phrase: self._texts[phrase].shape[1])
        groups = [list(alike) for _, alike in groupby(by_length, key=lambda phrase: self._texts[phrase].shape[1])]
        self._phrases = [phrase for group in groups for phrase in group]  # in the order of the answers
        self._groups = [torch.cat([self._texts[phrase] for phrase in group]) for group in groups]
        self.forward = self._accelerated(self.model, self._look, self.pictures)

    def _without_masks(self, side: int) -> None:
        """Leave out what only masks need, and what looks at values on the way. side: pixels of the model's input."""
        import torch

        necks = self.model.vision_encoder.neck
        necks.fpn_layers = necks.fpn_layers[-2:-1]  # the one resolution that boxes are found in
        self.model.mask_decoder = torch.nn.Module()
        self.model.mask_decoder.forward = lambda **_: SimpleNamespace(
            pred_masks=None, semantic_seg=None, attentions=None
        )
        patches = side // self.model.config.vision_config.backbone_config.patch_size
        places = torch.arange(patches, device=self.device, dtype=self.dtype) / patches
        # The library's own makes them of a height and a width that it reads from the card, in each layer anew.
        self.model.detr_decoder._get_coords = lambda *_, **__: (places, places)

    def _unload(self) -> None:
        super()._unload()
        self._kept.clear()

    def assess_crop(self, frame: Frame, boxes: Sequence[Mapping[str, Any]]) -> Opinion:
        """The second question: is there something like these boxes, each an exemplar beside its label?

        boxes: evidence of a detector, {"box": [left, top, right, bottom], "label", "score"} each, in pixels; the best
        `EXEMPLARS` are shown. What was said of the other phrases stands, so that the opinion is whole. What is like a
        box without a label is evidence only: nobody said what it is. Raises ModelError.
        """
        (opinion,) = self._opinions(lambda: [self._answer_again(frame, exemplars(frame, boxes))], 1)
        return opinion

    def look(self, frames: Sequence[Frame]) -> list[Seen]:
        """Each picture, and what the model says of every phrase."""
        seen: list[Seen] = []
        for at in range(0, len(frames), self.recorded[-1]):
            part = frames[at : at + self.recorded[-1]]
            features, places, *raw = self.forward(self.pictures(part))
            said = answered(*raw)
            for index, frame in enumerate(part):
                one = slice(index, index + 1)
                presence = dict(zip(self._phrases, said.presence[index].tolist(), strict=True))
                found = said.boxes(index, self._phrases, frame.size)
                seen.append(Seen(features[one], places[one], presence, found))
        return seen

    def _answer(self, frames: Sequence[Frame]) -> list[Answer]:
        seen = self.look(frames)
        for frame, each in zip(frames[-KEPT:], seen[-KEPT:], strict=True):
            self._keep(frame, each)
        return [self._said(each.presence, each.found) for each in seen]

    def _answer_again(self, frame: Frame, shown: Exemplars) -> Answer:
        seen = self._kept.get(frame.sha256)
        if seen is None:
            (seen,) = self.look([frame])
            self._keep(frame, seen)
        presence, found = dict(seen.presence), [box for box in seen.found if box.label not in shown]
        for concept, corners in shown.items():
            text = self._texts[concept] if concept in self._texts else self._encoded(concept)
            said = answered(*self._ask(seen.features, seen.places, text, **self._placed(frame, corners)))
            presence[concept] = float(said.presence[0, 0])
            found += said.boxes(0, [concept], frame.size)
        logit, evidence = self._said(presence, found)
        return logit, {**evidence, "exemplars": shown}

    def _said(self, presence: Mapping[str, float], found: Sequence[Box]) -> Answer:
        present = {concept: 1.0 / (1.0 + math.exp(-logit)) for concept, logit in presence.items()}
        return self._classes.logit(present), {
            "presence": {concept: round(p, 4) for concept, p in present.items()},
            "boxes": [box.as_json() for box in sorted(found, key=lambda box: -box.score)[:50]],
        }

    def _look(self, pixels: Any) -> tuple[Any, ...]:
        """Features and places (N, D, height, width), and the answers about every phrase as `_ask` gives them."""
        import torch

        seen = self.model.get_vision_features(pixels)
        features, places = seen.fpn_hidden_states[-1], seen.fpn_position_encoding[-1]
        parts = [self._ask(features, places, texts) for texts in self._groups]
        return features, places, *(torch.cat(each, 1) for each in zip(*parts, strict=True))

    def _ask(self, features: Any, places: Any, texts: Any, **shown: Any) -> tuple[Any, Any, Any]:
        """Presence logits (N, P), scores (N, P, queries) and corners (N, P, queries, 4), all float32.

        texts: (P, tokens, D), each asked of each picture. shown: exemplars, where N and P are 1.
        """
        pictures, phrases = len(features), len(texts)
        # The library reads the last level but one.
        levels, grids = [(each.repeat_interleave(phrases, 0),) * 2 for each in (features, places)]
        outputs = self.model(
            vision_embeds=SimpleNamespace(
                fpn_hidden_states=levels, fpn_position_encoding=grids, hidden_states=None, attentions=None
            ),
            text_embeds=SimpleNamespace(pooler_output=texts.repeat(pictures, 1, 1)),
            **shown,
        )
        presence = outputs.presence_logits.reshape(-1, 1)
        scores = outputs.pred_logits.sigmoid() * presence.sigmoid()
        answers = (presence[:, 0], scores, outputs.pred_boxes)
        presence, scores, corners = (each.float().unflatten(0, (pictures, phrases)) for each in answers)
        return presence, scores, corners

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

    def _keep(self, frame: Frame, seen: Seen) -> None:
        self._kept[frame.sha256] = seen
        self._kept.move_to_end(frame.sha256)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)

    def _encoded(self, phrase: str) -> Any:
        """(1, tokens, D), without the padding that it is encoded with."""
        inputs = self.processor(text=phrase, return_tensors="pt").to(self.device)  # it knows its length of text
        return self.model.get_text_features(**inputs).pooler_output[:, : int(inputs["attention_mask"].sum())]


def answered(presence: Any, scores: Any, corners: Any) -> Answered:
    """From the device to the host."""
    return Answered(*(each.cpu().numpy() for each in (presence, scores, corners)))


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
