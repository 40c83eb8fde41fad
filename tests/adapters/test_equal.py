"""The adapters' numbers are the libraries' own: the same picture through the library's pipeline, or its model called as
its documentation says, gives the same scores and boxes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as tf
from conftest import picture
from PIL import Image
from test_adapters import checkpoint, head, made

from cascade.batching import Examiner
from models import boxes, catalog
from models.base import Frame, ModelError, ModelTimeout, ModelUnavailable
from models.boxes import Box
from models.depth import ObjectSize
from models.detectors import Detector, Yolo
from models.foundation import Foundation, Heads
from models.open_vocabulary import Grounding, Owlv2
from models.segmenters import EXEMPLARS, KEPT, Sam3
from models.zero_shot import LIGHT, WEATHER, ZeroShot

PHRASES = list(boxes.classes("prompts").weights)
CLOSED = [key for key, entry in catalog.entries().items() if entry.adapter == "models.detectors:Detector"]
ENCODERS = ["dinov3-s", "siglip2-head", "c-radio-h"]  # one per class


@pytest.fixture(autouse=True)
def every_box(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries hand out boxes at any score; so do the adapters here."""
    monkeypatch.setattr(boxes, "FAINT", 0.0)


def images(frames: list[Frame]) -> list[Image.Image]:
    return [Image.fromarray(frame.pixels) for frame in frames]


def rows(found: list[Box]) -> list[tuple[str, float, tuple[float, ...]]]:
    return sorted((box.label, box.score, box.corners) for box in found)


def same(ours: list[Box], theirs: list[tuple[str, float, tuple[float, ...]]]) -> None:
    """Every box of the library is ours, with its label, score and corners."""
    assert len(ours) == len(theirs) > 0
    for own, other in zip(rows(ours), sorted(theirs), strict=True):
        assert own[0] == other[0]
        assert own[1] == pytest.approx(other[1], abs=1e-4)
        assert own[2] == pytest.approx(other[2], abs=1.0)  # pipelines round corners to whole pixels


def test_classifier(checkpoints: Path, frames: list[Frame]) -> None:
    model = made("natix-roadwork", checkpoints)
    model.load("cpu")
    directory = checkpoint(model.entry, checkpoints)
    library = tf.pipeline("image-classification", model=str(directory), function_to_apply="none")
    for opinion, answer in zip(model.assess(frames), library(images(frames)), strict=True):
        scores = {each["label"]: each["score"] for each in answer}
        assert opinion.logit == pytest.approx(scores["Roadwork"] - scores["None"], abs=1e-4)
        assert opinion.evidence["label"] == answer[0]["label"]


@pytest.mark.parametrize("key", ENCODERS)
def test_encoder_and_head(key: str, checkpoints: Path, frames: list[Frame]) -> None:
    model = made(key, checkpoints)
    assert isinstance(model, Foundation)
    model.load("cpu")
    directory = checkpoint(model.entry, checkpoints)
    library = getattr(tf, model.entry.class_name).from_pretrained(directory)
    processor = tf.AutoImageProcessor.from_pretrained(directory)
    heads = Heads.load(head(model.entry, checkpoints))
    with torch.inference_mode():
        out = library(pixel_values=processor(images(frames), return_tensors="pt")["pixel_values"])
    pooled = (out.summary if key == "c-radio-h" else out.pooler_output).numpy()
    expected = pooled @ heads.weight.T + heads.bias
    for opinion, row in zip(model.assess(frames), expected, strict=True):
        assert opinion.logit == pytest.approx(row[0], abs=1e-3)
        assert opinion.evidence["heads"]["night"] == pytest.approx(1 / (1 + math.exp(-row[1])), abs=1e-3)


@pytest.mark.parametrize("key", CLOSED)
def test_closed_set_detector(key: str, checkpoints: Path, frames: list[Frame]) -> None:
    model = made(key, checkpoints)
    assert isinstance(model, Detector)
    model.load("cpu")
    library = tf.pipeline("object-detection", model=str(checkpoint(model.entry, checkpoints)), threshold=0.0)
    weighed = boxes.classes(model.entry.classes).weights
    for frame, image in zip(frames, images(frames), strict=True):
        theirs = [
            (each["label"], each["score"], tuple(each["box"][side] for side in ("xmin", "ymin", "xmax", "ymax")))
            for each in library(image)
            if each["label"].lower() in weighed
        ]
        with torch.inference_mode():
            (ours,) = model.detect([frame])
        same(ours, theirs)
        best = {label: max(score for name, score, _ in theirs if name == label) for label, _, _ in theirs}
        assert model.assess([frame])[0].logit == pytest.approx(boxes.classes(model.entry.classes).logit(best), abs=1e-3)


def test_yolo(checkpoints: Path, frames: list[Frame]) -> None:
    from ultralytics import YOLO

    model = made("yolo26-x", checkpoints)
    assert isinstance(model, Yolo)
    model.load("cpu")
    library = YOLO(checkpoint(model.entry, checkpoints) / model.entry.file)
    for frame, image in zip(frames, images(frames), strict=True):
        answer = library.predict(image, imgsz=640, conf=0.01, verbose=False)[0]
        theirs = [
            (answer.names[int(label)], score, tuple(corners))
            for score, label, corners in zip(
                answer.boxes.conf.tolist(), answer.boxes.cls.tolist(), answer.boxes.xyxy.tolist(), strict=True
            )
            if answer.names[int(label)] in ("truck", "stop sign")
        ]
        same(model.detect([frame])[0], theirs)


def test_yolo_that_gave_up_on_a_batch_is_no_answer(frames: list[Frame]) -> None:
    from ultralytics.utils import LOGGER

    class GivesUp:
        def predict(self, pictures: list, **_: object) -> list:
            LOGGER.warning("NMS time limit 2.050s exceeded")
            return []

    model = catalog.make(catalog.find("yolo11-x"))
    assert isinstance(model, Yolo)
    model.model = GivesUp()
    with pytest.raises(ModelTimeout, match=r"yolo11-x: .*NMS time limit 2\.050s exceeded; the rest of the batch of 2"):
        model.detect(frames[:2])


@pytest.mark.parametrize("key", ["grounding-dino-b", "mm-grounding-dino-l"])
def test_grounding_detector(key: str, checkpoints: Path, frames: list[Frame]) -> None:
    model = made(key, checkpoints)
    assert isinstance(model, Grounding)
    model.load("cpu")
    directory = checkpoint(model.entry, checkpoints)
    library = getattr(tf, model.entry.class_name).from_pretrained(directory)
    processor = tf.AutoProcessor.from_pretrained(directory)
    for frame, image in zip(frames, images(frames), strict=True):
        inputs = processor(images=image, text=[PHRASES], return_tensors="pt")
        with torch.inference_mode():
            outputs = library(**inputs)
            (ours,) = model.detect([frame])
        found = processor.post_process_grounded_object_detection(
            outputs, inputs["input_ids"], threshold=0.0, text_threshold=0.0, target_sizes=[image.size[::-1]]
        )[0]
        tokens = inputs["input_ids"][0]
        words = ~torch.isin(tokens, torch.tensor(processor.tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", "."])))
        best = outputs.logits[0, :, : len(tokens)][:, words].sigmoid().max(1)  # of the words of the phrases alone
        order = best.values.argsort(descending=True).tolist()  # ours are the best first
        assert [box.score for box in ours] == pytest.approx(best.values[order].tolist(), abs=1e-4)
        for box, query in zip(ours, order, strict=True):
            assert box.corners == pytest.approx(found["boxes"][query].tolist(), abs=1e-2)
            word = processor.tokenizer.convert_ids_to_tokens(int(tokens[words][best.indices[query]]))
            assert word in box.label.split()


def test_owlv2(checkpoints: Path, frames: list[Frame]) -> None:
    model = made("owlv2-l", checkpoints)
    assert isinstance(model, Owlv2)
    model.load("cpu")
    directory = checkpoint(model.entry, checkpoints)
    library = tf.Owlv2ForObjectDetection.from_pretrained(directory)
    processor = tf.AutoProcessor.from_pretrained(directory)
    for frame, image in zip(frames, images(frames), strict=True):
        inputs = processor(images=image, text=[PHRASES], return_tensors="pt")
        with torch.inference_mode():
            outputs = library(**inputs)
            (ours,) = model.detect([frame])
        found = processor.post_process_grounded_object_detection(
            outputs, threshold=0.0, target_sizes=[image.size[::-1]], text_labels=[PHRASES]
        )[0]
        theirs = zip(found["text_labels"], found["scores"].tolist(), found["boxes"].tolist(), strict=True)
        same(ours, [(label, score, tuple(corners)) for label, score, corners in theirs])


@pytest.mark.parametrize("key", ["grounding-dino-b", "mm-grounding-dino-l", "owlv2-l"])
def test_the_question_is_encoded_once(key: str, checkpoints: Path, frames: list[Frame]) -> None:
    model = made(key, checkpoints)
    model.load("cpu")
    inside = model.model.owlv2.text_model if key == "owlv2-l" else model.model.model.text_backbone
    read: list[int] = []
    inside.encoder.register_forward_hook(lambda *_: read.append(1))
    first = model.assess(frames)
    model.assess([frames[1]])
    assert len(read) == (0 if key == "owlv2-l" else 1)  # by the load, or by the first picture
    assert [each.logit for each in model.assess(frames)] == pytest.approx([each.logit for each in first], abs=1e-5)


@pytest.fixture
def sam3(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> Sam3:
    monkeypatch.setattr(boxes, "SHOWN", 0.05)  # random weights are not sure of much
    model = made("sam3", checkpoints)
    assert isinstance(model, Sam3)
    model.load("cpu")
    return model


def test_sam3(sam3: Sam3, checkpoints: Path, frames: list[Frame]) -> None:
    directory = checkpoint(sam3.entry, checkpoints)
    library = tf.Sam3Model.from_pretrained(directory)
    processor = tf.AutoProcessor.from_pretrained(directory)
    with torch.inference_mode():
        seen = sam3.look(frames)
        for index, image in enumerate(images(frames)):
            expected: list[tuple[str, float, tuple[float, ...]]] = []
            assert set(seen[index].presence) == set(PHRASES)
            for phrase in PHRASES:
                outputs = library(**processor(images=image, text=phrase, return_tensors="pt"))
                assert seen[index].presence[phrase] == pytest.approx(float(outputs.presence_logits), abs=1e-3)
                found = processor.post_process_object_detection(
                    outputs, threshold=0.05, target_sizes=[image.size[::-1]]
                )[0]
                expected += [
                    (phrase, score, tuple(corners))
                    for score, corners in zip(found["scores"].tolist(), found["boxes"].tolist(), strict=True)
                ]
            same(list(seen[index].found), expected)


POINTED = [  # what detectors of three label sets, and one without labels, may point at; the last is one too many
    {"label": "Traffic cone", "score": 0.9, "box": [10.0, 12.0, 40.5, 50.0]},
    {"label": "traffic cone", "score": 0.8, "box": [-3.0, 20.0, 60.0, 70.0]},
    {"label": "machinery vehicle", "score": 0.7, "box": [30.0, 5.0, 55.0, 30.0]},
    {"score": 0.6, "box": [5.0, 5.0, 60.0, 60.0]},
]


def by_hand(sam3: Sam3, checkpoints: Path, frame: Frame, concept: str, shown: list[list[float]]) -> tuple[float, list]:
    """Presence logit, and boxes: the library's own call with words and exemplars."""
    directory = checkpoint(sam3.entry, checkpoints)
    library = tf.Sam3Model.from_pretrained(directory)
    processor = tf.AutoProcessor.from_pretrained(directory)
    (image,) = images([frame])
    pointed = {"input_boxes": [shown], "input_boxes_labels": [[1] * len(shown)]} if shown else {}
    with torch.inference_mode():
        outputs = library(**processor(images=image, text=concept, **pointed, return_tensors="pt"))
    found = processor.post_process_object_detection(outputs, threshold=0.05, target_sizes=[image.size[::-1]])[0]
    return float(outputs.presence_logits), [
        [concept, score, corners]
        for score, corners in zip(found["scores"].tolist(), found["boxes"].tolist(), strict=True)
    ]


@pytest.mark.parametrize(
    ("pointed", "given"),
    [
        (
            POINTED,
            {
                "traffic cone": [[10.0, 12.0, 40.5, 50.0], [0.0, 20.0, 60.0, 70.0]],
                "machinery vehicle": [[30.0, 5.0, 55.0, 30.0]],
            },
        ),
        (POINTED[3:], {"visual": [[5.0, 5.0, 60.0, 60.0]]}),
    ],
)
def test_sam3_is_shown_exemplars(
    pointed: list[dict], given: dict[str, list], sam3: Sam3, checkpoints: Path, frames: list[Frame]
) -> None:
    opinion = sam3.assess_crop(frames[0], pointed)
    assert opinion.evidence["exemplars"] == given
    clear, expected = 1 - 0.20, []
    for concept in [*PHRASES, *(each for each in given if each not in PHRASES)]:
        logit, found = by_hand(sam3, checkpoints, frames[0], concept, given.get(concept, []))
        present = 1 / (1 + math.exp(-logit))
        assert opinion.evidence["presence"].pop(concept) == pytest.approx(present, abs=1e-3)
        weight = {"machinery vehicle": 0.75, "visual": 0.0} | boxes.classes("prompts").weights
        clear *= 1 - weight[concept] * present
        expected += found
    assert not opinion.evidence["presence"], "it was asked about something else"
    raw = math.log((1 - clear) / clear)
    assert opinion.logit == pytest.approx(sam3.entry.calibrated(raw), abs=5e-3)
    best = sorted(expected, key=lambda each: -each[1])[:50]
    shown = opinion.evidence["boxes"]
    assert [box["score"] for box in shown] == pytest.approx([score for _, score, _ in best], abs=1e-3)
    assert {box["label"] for box in shown} == {label for label, _, _ in best} >= set(given)
    json.dumps(dict(opinion.evidence))


def test_sam3_without_exemplars_says_what_it_said(sam3: Sam3, frames: list[Frame]) -> None:
    first = sam3.assess(frames[:1])[0]
    again = sam3.assess_crop(frames[0], [])
    assert again.logit == pytest.approx(first.logit, abs=1e-4)
    assert again.evidence["presence"] == pytest.approx(first.evidence["presence"], abs=1e-3)
    assert sam3.assess_crop(frames[0], POINTED[:EXEMPLARS]).logit != pytest.approx(first.logit, abs=1e-4)


def test_sam3_encodes_and_asks_once_what_both_questions_share(sam3: Sam3, frames: list[Frame]) -> None:
    encoded: list[int] = []
    asked: list[int] = []
    sam3.model.vision_encoder.register_forward_hook(lambda _, given, __: encoded.append(len(given[0])))
    sam3.model.detr_decoder.register_forward_hook(lambda *_: asked.append(1))
    alone = sam3.assess_crop(frames[1], POINTED)
    sam3._kept.clear()
    sam3.assess(frames)
    asked.clear()
    assert sam3.assess_crop(frames[1], POINTED).logit == pytest.approx(alone.logit, abs=1e-3)
    assert encoded == [1, 3]
    assert len(asked) == len({box["label"].lower() for box in POINTED[:EXEMPLARS]})
    others = [picture(seed, (64, 64)) for seed in range(10, 10 + KEPT)]
    sam3.assess(others)  # more than are kept beside it
    sam3.assess_crop(frames[1], POINTED)
    assert sum(encoded) == 1 + 3 + KEPT + 1
    assert len(sam3._kept) == KEPT


def test_sam3_reads_no_words_while_it_answers(sam3: Sam3, frames: list[Frame]) -> None:
    read: list[int] = []
    sam3.model.text_encoder.register_forward_hook(lambda *_: read.append(1))
    sam3.assess(frames)
    assert read == []


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ({"label": "cone"}, "expected .*four finite numbers, got .*cone"),
        ({"box": [1.0, 2.0, 3.0]}, "four finite numbers"),
        ({"box": [1.0, 2.0, float("nan"), 4.0]}, "four finite numbers"),
        ({"box": [40.0, 10.0, 20.0, 30.0]}, "left < right"),
        ({"box": [130.0, 10.0, 150.0, 30.0]}, "inside the picture of 120 x 90"),
    ],
)
def test_sam3_refuses_a_box_that_is_none(box: dict, message: str, sam3: Sam3, frames: list[Frame]) -> None:
    with pytest.raises(ModelError, match=message):
        sam3.assess_crop(frames[0], [box])


def test_sam3_closed_answers_no_second_question(sam3: Sam3, frames: list[Frame]) -> None:
    assert isinstance(sam3, Examiner)  # what `can_examine` looks for
    sam3.close()
    with pytest.raises(ModelUnavailable, match="not loaded"):
        sam3.assess_crop(frames[0], POINTED)


@pytest.mark.parametrize("key", ["siglip2-roadwork", "clip-roadwork"])
def test_zero_shot(key: str, checkpoints: Path, frames: list[Frame]) -> None:
    model = made(key, checkpoints)
    assert isinstance(model, ZeroShot)
    model.load("cpu")
    directory = checkpoint(model.entry, checkpoints)
    library = getattr(tf, model.entry.class_name).from_pretrained(directory)
    processor = tf.AutoProcessor.from_pretrained(directory)
    entry = model.entry
    sentences = [*entry.prompts, *entry.contrast, *LIGHT.values(), *WEATHER.values()]
    padding = "max_length" if key.startswith("siglip") else True
    inputs = processor(text=sentences, images=images(frames), padding=padding, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        expected = library(**inputs).logits_per_image.numpy()
        ours = model.logits(frames).numpy()
    assert ours == pytest.approx(expected, abs=1e-3)
    for opinion, row in zip(model.assess(frames), expected, strict=True):
        road, clear = np.exp(row[:3]).mean(), np.exp(row[3:6]).mean()
        assert opinion.logit == pytest.approx(math.log(road / clear), abs=1e-3)
        assert sum(opinion.evidence["light"].values()) == pytest.approx(1.0, abs=1e-3)


def test_clip_is_the_pipelines_probability(checkpoints: Path, frames: list[Frame]) -> None:
    model = made("clip-roadwork", checkpoints)
    model.load("cpu")
    library = tf.pipeline("zero-shot-image-classification", model=str(checkpoint(model.entry, checkpoints)))
    labels = [*model.entry.prompts, *model.entry.contrast]
    for opinion, image in zip(model.assess(frames), images(frames), strict=True):
        answer = library(image, candidate_labels=labels, hypothesis_template="{}")
        road = sum(each["score"] for each in answer if each["label"] in model.entry.prompts)
        assert opinion.logit == pytest.approx(math.log(road / (1 - road)), abs=1e-3)


def test_depth(checkpoints: Path, frames: list[Frame]) -> None:
    model = made("depth-anything-v2-s", checkpoints)
    assert isinstance(model, ObjectSize)
    model.load("cpu")
    library = tf.pipeline("depth-estimation", model=str(checkpoint(model.entry, checkpoints)))
    for frame, image in zip(frames, images(frames), strict=True):
        with torch.inference_mode():
            (ours,) = model.depth([frame])
        theirs = library(image)["predicted_depth"].numpy()
        assert ours.shape == frame.pixels.shape[:2] == theirs.shape
        assert ours == pytest.approx(theirs, abs=1e-2)
        assert ours.std() > 0
