"""`improve --steps train,refit` with the real training: from a journal's labelled pictures to a version that serves."""

from __future__ import annotations

import asyncio
import base64
import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import tiny
from finetune_helpers import ROOT, drawn_street, street_folder

from cascade.deadline import Deadline
from miner.assembly import Parts, in_force, make_engine
from miner.cli import main
from miner.journal import Keep
from miner.learning.candidate import TRAINED
from miner.learning.versions import Versions
from miner.service import Answered
from miner.settings import Settings
from models.base import Opinion
from tests.journal.making import frame_of, journal, verdict

DAY = 86400.0
NOW = 1_760_000_000.0
WEEKS = [NOW - days * DAY for days in (70, 63, 56, 49, 42)]
SETTINGS = """
data = ["{base}"]
backbone = "{backbone}"
tune = "full"
steps = 20
batch = 16
learning_rate = 3e-3
workers = 0
device = "cpu"
"""


def lived(state: Path) -> list[bytes]:
    """A journal of five weeks and a newest one, answered by a member that knows nothing. Gives the newest week's."""
    rng = np.random.default_rng(0)
    at = NOW
    made = journal(state / "journal", keep=Keep(share=1.0), clock=lambda: at)
    for number in range(244):
        at = NOW if number >= 200 else WEEKS[number // 40]
        jpeg, said = drawn_street(10_000 + number, number % 2 == 1), verdict(float(rng.uniform(0.2, 0.8)))
        said = verdict(said.probability, opinions=(Opinion("embedded", said.opinions[0].logit, 9.0),))
        image = base64.b64encode(jpeg).decode()
        made(Answered("v", number % 2, image, said.probability, said.source, 0.013, "", frame_of(jpeg), said))
        made.flush()
    made.close()
    return [drawn_street(10_000 + number, number % 2 == 1) for number in range(200, 244)]


async def served(settings: Settings, key: str, jpeg: bytes) -> float:
    engine = make_engine(Parts(settings, in_force(settings)))
    await engine.start()
    try:
        answer = await engine.decide(frame_of(jpeg), Deadline.after(8))
    finally:
        await engine.close()
    assert not answer.failures
    return next(opinion.logit for opinion in answer.opinions if opinion.model == key)


@pytest.mark.slow
def test_a_network_is_trained_judged_and_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    settings = Settings(state_dir=tmp_path / "state")
    newest = lived(settings.state)
    base = street_folder(tmp_path / "base")
    (base / "avenue/roadwork/new.jpg").write_bytes(newest[1])
    backbone = tiny.write("ViTForImageClassification", tmp_path / "vit")
    (tmp_path / "training.toml").write_text(SETTINGS.format(base=base, backbone=backbone))
    words = ["--steps", "train,refit", "--training", str(tmp_path / "training.toml"), "--days", "0"]
    assert main(["improve", *words, "--state-dir", str(tmp_path / "state")]) == 0

    versions = Versions(settings.state / "versions")
    (line,) = versions.audit()
    assert (line["event"], line["steps"]) == ("promoted", ["train", "refit"])
    assert line["both"]["mcc_before"] < 0.3 < 0.8 < line["both"]["mcc_after"]
    (home,) = versions.trained.iterdir()
    assert not (versions.directory / ".train").exists()

    card = json.loads((home / "model/model_card.json").read_text())
    shown = {each["source"]: each for each in card["sources"]}
    assert shown["avenue"]["roadwork"] == 4, "the newest week's picture in the base set was left out"
    weeks = [each for source, each in shown.items() if source.startswith("journal-")]
    assert len(weeks) == 5
    learned_from = {each["source"] for each in card["sources"] if each["part"] == "train"}
    said = json.loads((home / "opinions.json").read_text())
    held_out = sum(each["roadwork"] + each["clear"] for each in weeks if each["source"] not in learned_from)
    assert len(said) == line["gate"]["n"] + 44 + held_out, "gate set, newest week, what the training held out"

    chosen = in_force(settings)
    key = home.name
    assert key.startswith(TRAINED)
    assert key in {member.model for member in chosen.profile.tiers[0].members}
    assert asyncio.run(served(settings, key, newest[1])) == pytest.approx(said[sha256(newest[1]).hexdigest()], abs=1e-3)
