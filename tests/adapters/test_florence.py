"""Florence-2: the boxes are those that the library reads from the same text, the scores its own probabilities."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers as tf
from test_adapters import checkpoint, made
from tiny import PHRASES

from models.base import Frame
from models.florence import TASK, Florence2


@pytest.fixture
def model(checkpoints: Path) -> Florence2:
    model = made("florence2-large", checkpoints)
    assert isinstance(model, Florence2)
    model.load("cpu")
    return model


@torch.inference_mode()
def test_boxes_and_scores_are_the_librarys(model: Florence2, checkpoints: Path, frames: list[Frame]) -> None:
    directory = checkpoint(model.entry, checkpoints)
    library = tf.Florence2ForConditionalGeneration.from_pretrained(directory).eval()
    processor = tf.AutoProcessor.from_pretrained(directory)
    tokens, _ = model.generate(frames)
    for frame, row, ours in zip(frames, tokens, model.detect(frames), strict=True):
        text = processor.decode(row, skip_special_tokens=False)
        read = processor.post_process_generation(text=text, task=TASK, image_size=frame.size)[TASK]
        assert [box.label for box in ours] == read["labels"] == PHRASES
        for box, corners in zip(ours, read["bboxes"], strict=True):
            assert box.corners == pytest.approx(corners, abs=1e-3)
        inputs = processor(text=TASK + ". ".join(PHRASES), images=[frame.pixels.copy()], return_tensors="pt")
        logits = library(**inputs, decoder_input_ids=row[None, :-1]).logits[0]
        sure = logits.log_softmax(-1).gather(-1, row[1:, None])[:, 0]
        places = [index for index, token in enumerate(row[1:].tolist()) if token in model._places]
        expected = [float(sure[places[at : at + 4]].mean().exp()) for at in range(0, len(places), 4)]
        assert [box.score for box in ours] == pytest.approx(expected, rel=1e-3)


@torch.inference_mode()
def test_each_place_is_the_most_likely_one_also_where_two_phrases_are_seen_at_the_same(
    model: Florence2, frames: list[Frame]
) -> None:
    model.model.get_output_embeddings().weight.data[model._places[7:]] = 0  # few places, so that they come again
    tokens, logits = model.generate(frames)
    places = torch.tensor(model._places)
    chosen = torch.isin(tokens[:, 1:], places)
    likely = places[logits[..., places].argmax(-1)]
    assert (tokens[:, 1:] == likely)[chosen].all()
    boxes = [box.corners for box in model.detect(frames[:1])[0]]
    assert len(set(boxes)) < len(boxes), "nothing came twice: this proves nothing"


def test_the_place_follows_the_picture(model: Florence2, frames: list[Frame]) -> None:
    first, second = (model.generate([frame])[0].tolist() for frame in frames[:2])
    assert first != second
