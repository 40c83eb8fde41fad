"""The adapters' numbers are the libraries' own: the same picture through the library's pipeline, or its model called as
its documentation says, gives the same scores and boxes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as tf
from PIL import Image
from test_adapters import checkpoint, head, made

from models import boxes, catalog
from models.base import Frame
from models.boxes import Box
from models.depth import ObjectSize
from models.detectors import Detector, Yolo
from models.foundation import Foundation, Heads
from models.open_vocabulary import OpenVocabulary
from models.segmenters import Sam3
from models.zero_shot import LIGHT, WEATHER, ZeroShot

PHRASES = list(boxes.classes("prompts").weights)
CLOSED = [key for key, entry in catalog.entries().items() if entry.adapter == "models.detectors:Detector"]
ENCODERS = ["dinov3-s", "siglip2-head", "c-radio-h"]  # one per class


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


@pytest.mark.parametrize("key", ["grounding-dino-b", "mm-grounding-dino-l"])
def test_grounding_detector(key: str, checkpoints: Path, frames: list[Frame]) -> None:
    model = made(key, checkpoints)
    assert isinstance(model, OpenVocabulary)
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
        assert [box.score for box in ours] == pytest.approx(best.values.tolist(), abs=1e-4)
        for box, corners in zip(ours, found["boxes"].tolist(), strict=True):
            assert box.corners == pytest.approx(corners, abs=1e-2)
        for box, position in zip(ours, best.indices.tolist(), strict=True):
            word = processor.tokenizer.convert_ids_to_tokens(int(tokens[words][position]))
            assert word in box.label.split()


def test_owlv2(checkpoints: Path, frames: list[Frame]) -> None:
    model = made("owlv2-l", checkpoints)
    assert isinstance(model, OpenVocabulary)
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


def test_sam3(checkpoints: Path, frames: list[Frame], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boxes, "SHOWN", 0.05)  # random weights are not sure of much
    model = made("sam3", checkpoints)
    assert isinstance(model, Sam3)
    model.load("cpu")
    directory = checkpoint(model.entry, checkpoints)
    library = tf.Sam3Model.from_pretrained(directory)
    processor = tf.AutoProcessor.from_pretrained(directory)
    with torch.inference_mode():
        presence, shown = model.presence(frames)
        for index, image in enumerate(images(frames)):
            expected: list[tuple[str, float, tuple[float, ...]]] = []
            for column, phrase in enumerate(PHRASES):
                outputs = library(**processor(images=image, text=phrase, return_tensors="pt"))
                assert float(presence[index, column]) == pytest.approx(float(outputs.presence_logits), abs=1e-3)
                found = processor.post_process_object_detection(
                    outputs, threshold=0.05, target_sizes=[image.size[::-1]]
                )[0]
                expected += [
                    (phrase, score, tuple(corners))
                    for score, corners in zip(found["scores"].tolist(), found["boxes"].tolist(), strict=True)
                ]
            same(shown[index], expected)


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
