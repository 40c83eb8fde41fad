"""The step `train` of `improve`: what the training is asked, and that nothing stays behind when it fails."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cascade.profile import Member, Profile, ProfileError, Tier
from miner.cli import main
from miner.commands import train
from miner.journal import Keep
from miner.journal_views import Views
from miner.learning import retrain
from miner.learning.candidate import Candidate
from miner.learning.examples import Data, ImproveError
from miner.learning.improve import StepFailed, improve
from miner.learning.judging import comparable
from miner.learning.retrain import Retrain, with_network
from miner.learning.steps import cross_fitted
from miner.learning.versions import Versions
from miner.settings import Settings
from models.base import Opinion
from tests.journal.making import answered, journal, sha, verdict
from tests.journal.test_improve import OWN, examples

KEY = "trained-20261124-080000"
NETWORK = Profile(
    name="n", band=(0.5, 0.5), tiers=(Tier(name="n", required=True, expected_ms=40, members=(Member(model=KEY),)),)
)


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    return Versions(tmp_path / "versions")


@pytest.fixture
def step(tmp_path: Path, versions: Versions) -> Retrain:
    """On a journal that kept eight labelled pictures, and a settings file with a base set."""
    made = journal(tmp_path / "journal", keep=Keep(share=1.0))
    for seed in range(8):
        made(answered(seed, verdict(0.5), label=seed % 2))
    made.close()
    (tmp_path / "training.toml").write_text('data = ["streets:2"]\nsteps = 5\n')
    return Retrain(Settings(), tmp_path / "training.toml", Views(tmp_path / "journal"), versions, 60.0)


def labelled(step: Retrain) -> Data:
    """Six pictures to learn from, two of them new, and two in the gate set; of one of these the group is known."""
    known = {example.record.sha256: example for example in step.views.labelled()}
    parts = [tuple(known[sha(seed)] for seed in seeds) for seeds in ((0, 1, 2, 3), (4, 5), (6, 7))]
    first = parts[1][0]
    gate = (replace(first, record=replace(first.record, group="camera 7")), parts[1][1])
    return Data((*parts[0], *parts[2]), gate, new=parts[2], week=parts[2])


def failing(step: Retrain, versions: Versions) -> dict[str, object]:
    """The audit's line after a round that must fail."""
    with pytest.raises(ImproveError, match="training"):
        improve(labelled(step), versions, OWN, ["train"], train=step)
    assert not (versions.directory / ".train").exists()
    assert not versions.trained.exists()
    assert versions.current() == ""
    return versions.audit()[-1]


@pytest.mark.parametrize(("more", "kind"), [("", []), ('teacher = "verdicts.jsonl"\n', ["distil"])])
def test_the_training_gets_the_journals_pictures_and_the_base_set_less_what_judges(
    step: Retrain, versions: Versions, monkeypatch: pytest.MonkeyPatch, more: str, kind: list[str]
) -> None:
    step.training.write_text(step.training.read_text() + more)
    seen: list[list[str]] = []

    def run(command: list[str], seconds: float) -> None:
        work = versions.directory / ".train"
        found = {path.stem: path.parent.name for path in work.rglob("*.jpg")}
        assert found == {sha(seed): "roadwork" if seed % 2 else "clear" for seed in range(4)}
        assert all(path.parent.parent.name.startswith("journal-20") for path in work.rglob("*.jpg"))
        barred = set((work / "without").read_text().splitlines())
        assert barred >= {*(sha(seed) for seed in (4, 5, 6, 7)), "camera 7"}
        assert not barred & {sha(seed) for seed in range(4)}
        seen.append(command)
        raise StepFailed("training: on purpose")

    monkeypatch.setattr(retrain, "run", run)
    assert failing(step, versions)["event"] == "failed"
    ((*start, out, key_flag, key, without_flag, without, one, base, two, own),) = seen
    assert start[1:] == ["-P", "-m", "miner", "train", *kind, "--settings", str(step.training), "--out"]
    assert out == str(versions.directory / ".train/run")
    assert (key_flag, key[:8], without_flag) == ("--name", "trained-", "--without")
    assert without == str(versions.directory / ".train/without")
    assert (one, base, two, own) == ("--data", "streets:2", "--data", str(versions.directory / ".train/journal"))


def test_a_training_that_fails_is_on_record_with_its_last_words(
    step: Retrain, versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = retrain.run
    words = [sys.executable, "-c", "import sys; print('no such folder'); sys.exit(2)"]
    monkeypatch.setattr(retrain, "run", lambda command, seconds: real(words, seconds))
    line = failing(step, versions)
    assert (line["event"], line["version"], line["steps"]) == ("failed", "", ["train"])
    assert line["reason"] == "training: ended with exit code 2: no such folder"


def test_a_training_that_ends_well_and_leaves_nothing_is_a_failure_too(
    step: Retrain, versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrain, "run", lambda command, seconds: None)
    assert "results.json" in str(failing(step, versions)["reason"])


@pytest.mark.parametrize(
    ("text", "said"), [("steps = [", "expected a TOML file"), ("stepz = 3", "unknown name"), ("steps = 0", "steps")]
)
def test_a_settings_file_that_is_wrong_trains_nothing(step: Retrain, versions: Versions, text: str, said: str) -> None:
    step.training.write_text(text)
    assert said in str(failing(step, versions)["reason"])


def test_the_output_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="miner.learning.retrain"):
        retrain.run([sys.executable, "-c", "print('step 1'); print('step 2')"], 60)
    assert caplog.messages == ["train: step 1", "train: step 2"]


def test_a_training_that_takes_too_long_is_stopped_with_all_that_it_started() -> None:
    child = "import subprocess, sys; p = subprocess.Popen(['sleep', '600']); print(p.pid, flush=True); p.wait()"
    began = time.monotonic()
    with pytest.raises(StepFailed, match="not done after 1 s, stopped; see --training-hours"):
        retrain.run([sys.executable, "-c", child], 1.0)
    assert time.monotonic() - began < 30  # its child held the pipe open: both are gone


def test_what_is_missing_is_said_before_anything_is_tried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train, "NEEDED", ("torch_of_nowhere",))
    assert main(["improve", "--steps", "train,refit", "--training", "my.toml"]) == 2
    assert "[train]'" in capsys.readouterr().err


def test_a_training_needs_its_settings_and_cannot_run_in_the_shadow(step: Retrain, versions: Versions) -> None:
    with pytest.raises(ImproveError, match="--training FILE"):
        improve(labelled(step), versions, OWN, ["train"])
    with pytest.raises(ImproveError, match="leave out --shadow"):
        improve(labelled(step), versions, OWN, ["train"], shadow=True, train=step)


def trained(versions: Versions, said: dict[str, float], key: str = KEY) -> Candidate:
    """A version with a network that said this; its files are not those of a real one."""
    home = versions.trained.resolve() / key
    home.mkdir(parents=True)
    (home / "opinions.json").write_text(json.dumps(said))
    (home / "catalog.toml").write_text(
        f'[{key}]\ntitle = "own"\nlevel = 0\ntask = "t"\nlibrary = "onnxruntime"\nlicence = "l"\nfolder = "model"\n'
        'adapter = "models.trained:Trained"\n'
    )
    profile = with_network(OWN, NETWORK).model_copy(update={"catalog": str(home / "catalog.toml")})
    return Candidate(profile, said={key: said})


def test_a_network_takes_the_place_of_the_one_before() -> None:
    once = with_network(OWN, NETWORK)
    later = NETWORK.model_copy(
        update={"tiers": (NETWORK.tiers[0].model_copy(update={"members": (Member(model="trained-2"),)}),)}
    )
    twice = with_network(once, later)
    assert [member.model for member in once.members] == ["first", KEY, "second"]
    assert [member.model for member in twice.members] == ["first", "trained-2", "second"]
    assert once.tiers[0].expected_ms == 40


def test_versions_are_compared_only_on_pictures_that_their_networks_answered(versions: Versions) -> None:
    ten = examples(10, 0)
    said = {example.record.sha256: 4.0 for example in ten[:4]}
    again = versions.read(versions.write(trained(versions, said)), OWN)
    assert again.said == {KEY: said}
    assert comparable(ten, Candidate(OWN), again) == tuple(ten[:4])
    live = replace(ten[9].record.verdict, opinions=(*ten[9].record.verdict.opinions, Opinion(KEY, -4.0, 1.0)))
    assert again.knows(replace(ten[9], record=replace(ten[9].record, verdict=live)))
    assert (again.probabilities(ten[:4]) > Candidate(OWN).probabilities(ten[:4])).all()


def test_a_version_and_its_network_may_be_moved_together(versions: Versions, tmp_path: Path) -> None:
    candidate = trained(versions, {"a": 4.0})
    name = versions.write(candidate)
    moved = Versions(versions.directory.rename(tmp_path / "elsewhere"))
    path = moved.profile_path(name)
    assert path is not None
    assert str(tmp_path) not in path.read_text()
    again = moved.read(name, OWN)
    assert Path(again.profile.catalog).resolve() == moved.trained / KEY / "catalog.toml"
    assert again.said == candidate.said
    assert moved.read(moved.write(again), OWN).said == candidate.said, "written once more from there"


def test_an_operators_own_catalog_stays_where_it_is(versions: Versions, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text("")
    profile = OWN.model_copy(update={"catalog": str(own)})
    assert versions.read(versions.write(Candidate(profile)), OWN).profile.catalog == str(own)


def test_a_fusion_hears_the_network_only_on_pictures_that_it_did_not_learn_from(versions: Versions) -> None:
    ten = examples(10, 0)
    candidate = trained(versions, {example.record.sha256: 4.0 for example in ten[:4]})
    heard = [KEY in {o.model for o in e.record.verdict.opinions} for e in cross_fitted(ten, candidate)]
    assert heard == [True] * 4 + [False] * 6


def test_networks_that_no_version_asks_are_deleted(versions: Versions) -> None:
    versions.write(trained(versions, {}))
    trained(versions, {}, "trained-20261124-090000")
    versions.tidy()
    assert os.listdir(versions.trained) == [KEY]


def test_a_version_whose_network_lost_its_opinions_cannot_be_used(versions: Versions) -> None:
    name = versions.write(trained(versions, {}))
    (versions.trained / KEY / "opinions.json").unlink()
    with pytest.raises(ProfileError, match="roll back"):
        versions.read(name, OWN)
