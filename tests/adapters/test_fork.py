"""A fork of ultralytics in an interpreter of its own, played by the real package in another process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny

from models import catalog, fork
from models.base import BadWeights, Frame, ModelCrashed, ModelTimeout, ModelUnavailable
from models.fork import Fork, external


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state directory with an environment whose python is this one, and no checkpoint yet."""
    monkeypatch.setenv("MINER_STATE_DIR", str(tmp_path))
    home = external(catalog.find("yolov13-x"))
    python = home / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return home


@pytest.fixture
def model() -> Iterator[Fork]:
    model = catalog.make(catalog.find("yolov13-x"))
    assert isinstance(model, Fork)
    yield model
    model.close()


def play(home: Path, text: str) -> None:
    """Another server in the fork's place."""
    (home / "yolov13x.pt").touch()
    (home / "venv" / "bin" / "python").write_text(f"#!{sys.executable}\n{text}\n")


def test_its_boxes_are_those_of_the_package_in_this_process(
    home: Path, model: Fork, checkpoints: Path, frames: list[Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ultralytics import YOLO

    monkeypatch.setattr(fork, "ANSWERING", 300.0)  # of a machine that does much else

    (checkpoints / "fork").mkdir(exist_ok=True)
    tiny.yolo(checkpoints / "fork")
    os.link(checkpoints / "fork" / "yolo26x.pt", home / "yolov13x.pt")
    model.load("cpu")
    model.warm_up()
    library = YOLO(home / "yolov13x.pt")
    for frame, found in zip(frames, model.detect(frames), strict=True):
        answer = library.predict(frame.pixels[..., ::-1].copy(), imgsz=640, conf=0.01, verbose=False)[0]
        expected = [
            (answer.names[int(label)], score)
            for label, score in zip(answer.boxes.cls.tolist(), answer.boxes.conf.tolist(), strict=True)
            if answer.names[int(label)] in model.table.weights
        ]
        assert len(found) > 0
        assert [(box.label, box.score) for box in found] == [(label, pytest.approx(p)) for label, p in expected]
    assert len({round(opinion.logit, 4) for opinion in model.assess(frames)}) == 3
    process = model._process
    model.close()
    assert process.poll() is not None, "the process outlived its model"


def test_it_is_off_until_its_environment_is_made(model: Fork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINER_STATE_DIR", str(tmp_path))
    with pytest.raises(ModelUnavailable, match="it needs an environment of its own"):
        model.load("cpu")


def test_a_checkpoint_that_is_missing_or_broken_is_refused(home: Path, model: Fork) -> None:
    with pytest.raises(BadWeights, match=r"no .*yolov13x.pt; put the fork's checkpoint there"):
        model.load("cpu")
    play(home, 'print(\'{"error": "UnpicklingError: invalid load key"}\')')
    with pytest.raises(BadWeights, match=r"does not load in its environment .UnpicklingError"):
        model.load("cpu")


NAMES = 'import sys, time\nprint(\'{"names": ["truck"]}\', flush=True)\n'


def test_a_death_and_a_hang_are_told_apart(
    home: Path, model: Fork, frames: list[Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    play(home, NAMES + "sys.stdin.buffer.readline(); sys.exit(3)")
    model.load("cpu")
    with pytest.raises(ModelCrashed, match=r"exit code 3|its process is gone"):
        model.assess(frames[:1])
    model.close()
    monkeypatch.setattr(fork, "ANSWERING", 0.5)
    play(home, NAMES + "sys.stdin.buffer.readline(); time.sleep(600)")
    model.load("cpu")
    with pytest.raises(ModelTimeout, match=r"no answer of its process within 0\.5 s; it was ended"):
        model.assess(frames[:1])


def test_an_error_of_the_fork_is_a_crash_of_the_model(home: Path, model: Fork, frames: list[Frame]) -> None:
    play(home, NAMES + 'sys.stdin.buffer.readline()\nprint(\'{"error": "CUDA"}\', flush=True)\ntime.sleep(600)')
    model.load("cpu")
    with pytest.raises(ModelCrashed, match="yolov13-x: CUDA"):
        model.assess(frames[:1])
