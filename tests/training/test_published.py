"""From a trained folder to the hub and back: the same number out of the cascade, on a machine that only fetched it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from bittensor_wallet import Keyfile, Keypair
from finetune_helpers import ROOT, environment, street_folder
from stand_in_hub import Hub, serving

from miner.cli import main
from models import catalog
from models.training.finetune import classify
from models.training.finetune.settings import Classify, parse
from tests.stand_in import serving as taking
from tests.test_card import Hub as Taking

torch.set_num_threads(1)
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),  # torch's exporter, of its own names
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.utils.tensorboard"),
]
REPOSITORY = "me/mine"


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return street_folder(tmp_path_factory.mktemp("streets"), each=2)


@pytest.fixture(scope="module")
def folder(streets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `train` leaves to be served and published."""
    out = tmp_path_factory.mktemp("trained")
    backbone = tiny.write("ViTForImageClassification", out / "vit")
    flags = ["--data", str(streets), "--out", str(out), "--backbone", str(backbone), "--tune", "full", "--name", "mine"]
    flags += ["--steps", "25", "--batch", "8", "--learning-rate", "3e-3", "--workers", "0", "--device", "cpu"]
    classify.run(parse(Classify, [*flags, "--pasted", "0"]))
    return out / "model"


def published(folder: Path, wallets: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The files that the hub holds after `publish`, by name."""
    hotkey = wallets / "default" / "hotkeys" / "default"
    hotkey.parent.mkdir(parents=True)
    key = Keypair.create_from_uri("//Alice")
    Keyfile(str(hotkey), "default", False).set_keypair(key, encrypt=False, overwrite=True)
    for name, value in {"TOKEN": "hf_stand_in", "HUB_DISABLE_XET": "1", "HUB_DISABLE_PROGRESS_BARS": "1"}.items():
        monkeypatch.setenv(f"HF_{name}", value)
    kept = Taking()
    with taking(kept) as kept.address:
        words = ["--repo", REPOSITORY, "--folder", str(folder), "--endpoint", kept.address, "--yes"]
        assert main(["publish", *words, "--wallet-path", str(wallets)]) == 0
    return kept.files


def answers(profile: Path, pictures: list[Path], capsys: pytest.CaptureFixture[str]) -> list[tuple[float, float]]:
    """Probability and raw log-odds of each picture, through the whole cascade."""
    capsys.readouterr()
    assert main(["predict", "--profile", str(profile), *map(str, pictures)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(line["source"] == "cascade" for line in lines)
    return [(line["probability"], line["opinions"][0]["evidence"]["raw_logit"]) for line in lines]


def test_published_fetched_and_served_elsewhere_it_answers_the_same(
    folder: Path,
    streets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pictures = [streets / "drive" / label / "0.jpg" for label in ("roadwork", "clear")]
    monkeypatch.setattr(catalog, "_own", {})
    here = answers(folder / "profile.toml", pictures, capsys)
    assert here[0][0] > 0.5 > here[1][0]
    files = published(folder, tmp_path / "wallets", monkeypatch)
    assert json.loads(files["model_card.json"])["submitted_by"].startswith("5")

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "profile.toml").write_bytes(files["profile.toml"])
    own = files["catalog.toml"].decode()
    fetched = own.replace('folder = "."', f'repository = "{REPOSITORY}"\nfile = "model.onnx"')
    assert fetched != own
    (elsewhere / "catalog.toml").write_text(fetched)
    monkeypatch.setattr(catalog, "_own", {})
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    with serving(Hub(files, repository=REPOSITORY)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        assert main(["fetch", str(elsewhere / "profile.toml")]) == 0
    assert {name for name, _ in hub.downloads()} >= {"model.onnx", "calibration.json", "model_card.json"}
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert answers(elsewhere / "profile.toml", pictures, capsys) == here


def test_a_published_folder_that_was_copied_whole_answers_the_same(
    folder: Path, streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = [streets / "drive" / "clear" / "1.jpg"]
    monkeypatch.setattr(catalog, "_own", {})
    here = answers(folder / "profile.toml", picture, capsys)
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, content in published(folder, tmp_path / "wallets", monkeypatch).items():
        (copy / name).write_bytes(content)
    monkeypatch.setattr(catalog, "_own", {})
    assert answers(copy / "profile.toml", picture, capsys) == here


@pytest.mark.slow
def test_a_student_of_a_trained_profile_answers_through_the_cascade(
    folder: Path, streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real command: it asks the teacher, becomes the training, and leaves a folder that serves."""
    flags = ["--data", str(streets), "--teacher", str(folder / "profile.toml"), "--teacher-share", "1"]
    flags += ["--backbone", str(folder.parent / "vit"), "--tune", "full", "--steps", "25", "--batch", "8"]
    flags += ["--learning-rate", "3e-3", "--workers", "0", "--device", "cpu", "--pasted", "0", "--name", "student"]
    command = [sys.executable, "-m", "miner", "train", "distil", *flags, "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    (verdicts,) = tmp_path.glob("teacher-mine-*.jsonl")
    assert len(verdicts.read_text().splitlines()) == 12, "on the pictures that train"
    assert "streetvision-student" in done.stdout
    assert "./run_miner.sh publish --repo YOU/NAME" in done.stdout
    pictures = [streets / "drive" / label / "0.jpg" for label in ("roadwork", "clear")]
    said = answers(tmp_path / "model" / "profile.toml", pictures, capsys)
    assert said[0][0] > 0.5 > said[1][0]
