"""`train distil`: verdicts of a teacher, its backbone's features, and the way from a profile to a student."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from finetune_helpers import street_folder

from cascade.deadline import Deadline
from cascade.verdict import Source, Stop, Verdict
from miner.commands import train
from miner.settings import Settings, UsageError
from models.base import Failure, Frame
from models.data.labelled import Labelled
from models.training.finetune import distil, network
from models.training.finetune.settings import Distil, parse

torch.set_num_threads(1)
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),  # torch's exporter, of its own names
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.utils.tensorboard"),
]


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return street_folder(tmp_path_factory.mktemp("streets"), each=2)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write("ViTForImageClassification", tmp_path_factory.mktemp("tiny-vit"))


def settings(*more: str) -> Distil:
    return parse(Distil, ["--data", "x", "--out", "y", "--teacher", "t.jsonl", *more])


def loss(
    logits: list[float], label: list[float], said: list[float], *more: str, unlike: list[float] | None = None
) -> float:
    outputs = torch.tensor(logits), None if unlike is None else torch.tensor(unlike)
    return float(distil.loss_of(settings(*more))(outputs, {"targets": torch.tensor([label, said]).T}))


def entropy(z: float, p: float) -> float:
    return math.log1p(math.exp(z)) - p * z


def test_the_loss_is_the_sum_that_the_module_tells() -> None:
    soft = 1 / (1 + math.exp(-math.log(0.9 / 0.1) / 2))
    expected = 0.3 * entropy(0.8, 1.0) + 0.7 * 4 * entropy(0.4, soft)
    assert loss([0.8], [1.0], [0.9]) == pytest.approx(expected, abs=1e-6)
    assert loss([0.8], [1.0], [0.9], unlike=[0.5]) == pytest.approx(expected + 0.5, abs=1e-6)


def test_without_a_verdict_the_label_counts_whole_and_gradients_stay_finite() -> None:
    assert loss([0.8, 0.8], [1.0, 1.0], [math.nan, math.nan]) == pytest.approx(entropy(0.8, 1.0), abs=1e-6)
    z = torch.tensor([0.8], requires_grad=True)
    distil.loss_of(settings())((z, None), {"targets": torch.tensor([[1.0, math.nan]])}).backward()
    assert z.grad is not None
    assert float(z.grad) == pytest.approx(1 / (1 + math.exp(-0.8)) - 1, abs=1e-6)


def test_a_teacher_that_is_sure_of_the_other_side_wins_at_its_share() -> None:
    z = torch.zeros(1, requires_grad=True)
    solver = torch.optim.SGD([z], lr=0.5)
    for _ in range(200):
        solver.zero_grad()
        distil.loss_of(settings("--teacher-share", "1"))((z, None), {"targets": torch.tensor([[0.0, 0.8]])}).backward()
        solver.step()
    assert float(torch.sigmoid(z.detach())) == pytest.approx(0.8, abs=0.01)


def test_features_are_compared_on_the_same_pixels_and_only_the_student_learns(vit: Path) -> None:
    student = network.pretrained(str(vit))
    network.choose_what_learns(student, "full", 4, checkpointing=False)
    both = distil.WithTeacher(student, network.pretrained(str(vit)))
    shown = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        both.map.weight.copy_(torch.eye(16))
        both.map.bias.zero_()
    _, unlike = both.train()(shown)
    assert unlike is not None
    assert unlike.detach().abs().max() < 1e-5, "the same backbone sees the same"
    distil.loss_of(settings())((both(shown)[0], unlike), {"targets": torch.tensor([[1.0, 0.9]] * 3)}).backward()
    learned = {name.split(".")[0] for name, p in both.named_parameters() if p.grad is not None}
    assert learned == {"student", "map"}


def test_verdicts_that_are_none_are_refused_by_line(tmp_path: Path) -> None:
    path = tmp_path / "said.jsonl"
    path.write_text('{"sha256": "a", "probability": 1}\n{"sha256": "b"}\n')
    with pytest.raises(ValueError, match="line 2: expected sha256 and probability"):
        distil.verdicts(path)
    path.write_text('{"sha256": "a", "probability": 1}\n')
    assert 0.999 < distil.verdicts(path)["a"] < 1
    with pytest.raises(ValueError, match="expected a file of verdicts"):
        distil.verdicts(tmp_path / "missing.jsonl")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The processes that the command would become."""
    kept: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, words: kept.append(list(words)))
    return kept


def test_a_profile_is_asked_once_and_a_student_learns_what_it_said(
    streets: Path, vit: Path, tmp_path: Path, started: list[list[str]]
) -> None:
    """The whole way: the shipped profile as teacher, its verdicts kept, a student with features of a backbone."""
    flags = ["--data", str(streets), "--out", str(tmp_path), "--backbone", str(vit), "--features", str(vit)]
    flags += ["--tune", "full", "--steps", "25", "--batch", "8", "--workers", "0", "--device", "cpu"]
    flags += ["--learning-rate", "3e-3", "--teacher-share", "0.3"]
    flags += ["--test", "drive", "--calibrate", "esplanade"]
    verdicts = tmp_path / "teacher-embedded.jsonl"
    train.main(["distil", *flags, "--teacher", "embedded"])
    whole = verdicts.read_text()
    verdicts.write_text(whole[:-9])  # killed while it wrote the last line
    train.main(["distil", *flags, "--teacher", "embedded"])
    said = [json.loads(line) for line in verdicts.read_text().splitlines()]
    trains = [path for source in ("avenue", "bridge", "crossing") for path in (streets / source).rglob("*.jpg")]
    assert len(said) == 12, "the second start asks only what is missing"
    assert {row["sha256"] for row in said} == {hashlib.sha256(path.read_bytes()).hexdigest() for path in trains}
    words = started[1][started[1].index("distil") :]
    assert words[-2:] == ["--teacher", str(verdicts)]
    assert words.count("--teacher") == 1
    found: dict[str, Any] = distil.run(parse(Distil, words[1:]))
    assert found["teacher"] == verdicts.name
    assert found["taught_by_label_alone"] == 0
    assert found["measured"]["native"]["all"]["auc"]["value"] == 1.0


async def test_a_teacher_without_an_opinion_gives_no_verdict(
    streets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is left then is the profile's prior, which says nothing of the picture."""

    class Silent:
        async def decide(self, frame: Frame, deadline: Deadline) -> Verdict:
            late = Failure("slow", "timeout", "slow: no answer in time", 60.0)
            return Verdict(0.5, (0.0, 1.0), (), (late,), ("only",), Stop.DEADLINE, Source.PRIOR, True, 60.0)

    @asynccontextmanager
    async def engine(settings: Settings) -> AsyncIterator[Silent]:
        yield Silent()

    monkeypatch.setattr(train, "running_engine", engine)
    path = streets / "avenue" / "clear" / "0.jpg"
    file = io.StringIO()
    await train.ask(Settings(), [Labelled(path, 0, "avenue", "avenue")], file)
    assert file.getvalue() == ""
    assert f"no verdict {path}; slow: no answer in time" in capsys.readouterr().err


def test_verdicts_of_other_pictures_are_refused(streets: Path, vit: Path, tmp_path: Path) -> None:
    path = tmp_path / "said.jsonl"
    path.write_text('{"sha256": "a", "probability": 1}\n')
    flags = ["--data", str(streets), "--out", str(tmp_path), "--backbone", str(vit), "--device", "cpu"]
    with pytest.raises(ValueError, match="got none on any of them"):
        distil.run(parse(Distil, [*flags, "--teacher", str(path)]))


def test_the_command_says_which_packages_are_missing(monkeypatch: pytest.MonkeyPatch, started: list[list[str]]) -> None:
    monkeypatch.setattr(train, "find_spec", lambda name: None if name in {"torch", "peft"} else object())
    with pytest.raises(UsageError, match=r"torch, peft cannot be imported.*pip install '.*\[train\]'"):
        train.main(["--data", "x"])
    assert started == []


def test_a_teacher_that_is_no_profile_is_refused(streets: Path, tmp_path: Path, started: list[list[str]]) -> None:
    flags = ["--data", str(streets), "--out", str(tmp_path)]
    with pytest.raises(UsageError, match="no such profile"):
        train.main(["distil", *flags, "--teacher", "nobody"])
    assert not np.any(started)
