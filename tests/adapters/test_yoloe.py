"""YOLOE without its text encoder: the phrases' embeddings come from a file of the package's own format."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_adapters import checkpoint, made
from test_equal import same
from tiny import PHRASES, words

from models.base import Frame, ModelUnavailable
from models.yoloe import Yoloe, words_path


@pytest.fixture
def model(checkpoints: Path) -> Yoloe:
    model = made("yoloe-26-x", checkpoints)
    assert isinstance(model, Yoloe)
    return model


def test_boxes_are_the_packages(model: Yoloe, checkpoints: Path, frames: list[Frame]) -> None:
    from ultralytics import YOLOE

    model.load("cpu")
    library = YOLOE(checkpoint(model.entry, checkpoints) / model.entry.file)
    assert model.words_file is not None
    library.load_prompt_embeddings(model.words_file)
    answer = library.predict(frames[0].pixels[..., ::-1].copy(), imgsz=640, conf=0.01, verbose=False)[0]
    theirs = [
        (answer.names[int(label)], score, tuple(corners))
        for score, label, corners in zip(
            answer.boxes.conf.tolist(), answer.boxes.cls.tolist(), answer.boxes.xyxy.tolist(), strict=True
        )
    ]
    same(model.detect([frames[0]])[0], theirs)


def test_without_the_file_and_the_encoder_it_says_what_to_do(model: Yoloe, tmp_path: Path) -> None:
    model.words_file = tmp_path / "none.npz"
    with pytest.raises(ModelUnavailable, match=r"none.npz is missing.*on a machine with a network and copy the file"):
        model.load("cpu")


def test_phrases_of_another_table_are_refused(model: Yoloe, checkpoints: Path, tmp_path: Path) -> None:
    model.words_file = words(checkpoint(model.entry, checkpoints) / model.entry.file, tmp_path / "w.npz", PHRASES[1:])
    with pytest.raises(ModelUnavailable, match="other phrases than the project asks; remove it"):
        model.load("cpu")


def test_where_the_file_lies(model: Yoloe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINER_STATE_DIR", "/state")
    assert words_path(model.entry) == Path("/state/words/yoloe-26-x.npz")
