"""The miner as its users meet it: a process, real sockets, real signatures, a validator's own SDK release."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from PIL import Image

from miner.cli import ROOT
from miner.commands.mock import running_miner
from miner.mocknet import VALIDATORS
from models.data.drawn import draw

pytestmark = pytest.mark.slow


@pytest.fixture
def miner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What `/readyz` of a running miner says, with the URL of its health port."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with running_miner(tmp_path) as url, urlopen(url + "/readyz") as answer:
        yield {**json.load(answer), "url": url}


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{seed}.jpg" for seed in range(4)]
    for seed, path in enumerate(paths):
        Image.fromarray(draw(seed, roadwork=seed % 2 == 0)).resize((224, 224)).save(path, quality=75)
    return paths


def test_readyz_says_who_we_are_and_where(miner: dict[str, Any]) -> None:
    assert miner["ready"] is True
    assert miner["network"] == "mock"
    assert miner["hotkey"].startswith("5")
    assert miner["uid"] == VALIDATORS  # the validators of the mock network have those before
    assert [tier["name"] for tier in miner["tiers"] if tier["ready"]] == ["embedded", "signs"]


def test_a_dendrite_of_the_validators_release_gets_1000_of_1000_answers(
    miner: dict[str, Any], pictures: list[Path], tmp_path: Path
) -> None:
    client = ROOT / ".venv-dendrite" / "bin" / "python"
    words = [miner["hotkey"], str(miner["axon"]["port"]), "1000", *map(str, pictures)]
    ran = subprocess.run(
        [client, Path(__file__).with_name("dendrite_client.py"), *words], capture_output=True, text=True, check=True
    )
    got = json.loads(ran.stdout.splitlines()[-1])
    print(f"\nfigure 1: SDK {got['sdk']}: {got['statuses'].get('200', 0)} of 1000 answered")
    assert got["sdk"] == "9.12.2"
    assert got["statuses"] == {"200": 1000}
    decided = {path: _probability(path) for path in pictures}
    assert got["predictions"] == {str(path): [pytest.approx(p, abs=1e-6)] for path, p in decided.items()}


def _probability(path: Path) -> float:
    """The service's own value, from the trace-like line that `predict` prints."""
    ran = subprocess.run([sys.executable, "-P", "-m", "miner", "predict", path], capture_output=True, check=True)
    return float(json.loads(ran.stdout)["probability"])


def test_a_second_sigterm_is_not_needed(miner: dict[str, Any]) -> None:
    with urlopen(miner["url"] + "/livez") as answer:
        assert json.load(answer) == {"alive": True}
