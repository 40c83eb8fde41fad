"""A promoted version is what a running miner serves, and a rollback takes it back: with the real process."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest

from cascade.profile import load
from miner.cli import ROOT
from miner.commands.mock import running_miner
from miner.learning.candidate import Candidate
from miner.learning.judging import Judgement
from miner.learning.steps import rebuild_memory, retrain_head
from miner.learning.versions import Versions
from miner.settings import Settings
from models.base import Frame
from models.embedded.model import Embedded
from tests.journal.test_improve import examples

pytestmark = pytest.mark.slow
PASSED = Judgement(None, None, None, ())


@dataclass
class Serving:
    """A running miner and the directory of its versions."""

    url: str
    state: Path
    versions: Versions

    def served(self) -> str:
        """The version that answers, by the miner's own word."""
        with urlopen(self.url + "/metrics") as answer:
            (name,) = re.findall(r'^streetvision_version_info\{version="(.*)"\} 1', answer.read().decode(), re.M)
        return str(name)

    def tiers(self) -> list[dict[str, Any]]:
        with urlopen(self.url + "/readyz") as answer:
            return list(json.load(answer)["tiers"])

    def improve(self, *words: str) -> str:
        """What `improve ...` says beside the running miner."""
        command = [sys.executable, "-P", "-m", "miner", "improve", *words, "--state-dir", str(self.state)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serving]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    versions = Versions(Settings(state_dir=tmp_path).state / "versions")
    with running_miner(tmp_path) as url:
        yield Serving(url, tmp_path, versions)


def soon(holds: Callable[[], bool], seconds: float = 300.0) -> None:
    give_up = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.1)


def learned() -> Candidate:
    """The shipped profile with a head and a memory fitted on embeddings of noise: what matters is that it is served."""
    embedded = Embedded()
    embedded.load("cpu")
    rng = np.random.default_rng(0)
    frames = [Frame.of(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(128)]
    vectors = embedded.embed(frames)
    labelled = [replace(example, embedding=vector) for example, vector in zip(examples(128, 0), vectors, strict=True)]
    return rebuild_memory(labelled, retrain_head(labelled, Candidate(load("embedded"))))


def test_promotion_and_rollback_reach_the_running_miner_and_a_broken_version_does_not(serving: Serving) -> None:
    assert serving.served() == "own"

    name = serving.versions.write(learned())
    serving.versions.promote(name, PASSED)
    soon(lambda: serving.served() == name)
    assert [tier["ready"] for tier in serving.tiers()] == [True, True]
    with urlopen(serving.url + "/metrics") as answer:
        breakers = answer.read().decode()
    for member in ("embedded", "head", "memory"):
        assert f'streetvision_breaker{{model="{member}",state="closed"}} 1.0' in breakers, "nothing of it was left out"

    broken = serving.versions.write(learned())
    (serving.versions.directory / broken / "head.json").write_text("cut sho")
    serving.versions.promote(broken, PASSED)
    soon(lambda: any(line["event"] == "unusable" for line in serving.versions.audit()))
    assert serving.served() == name, "the old one stays"
    assert "expected a head" in serving.improve("audit")

    assert f"in force: {name}" in serving.improve("rollback")
    assert "in force: the own profile" in serving.improve("rollback", "--to", "own")
    soon(lambda: serving.served() == "own")
