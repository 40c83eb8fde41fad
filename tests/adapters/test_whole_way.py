"""The whole way of one model: from the hub into the cache, out of the cache into a worker process, and an opinion."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from stand_in_hub import Hub, serving
from test_adapters import checkpoint, made

from models import catalog, weights
from models.base import BadWeights, Frame, ModelUnavailable, Opinion
from models.fleet import Fleet
from models.worker import Remote

pytestmark = pytest.mark.slow


def test_from_the_hub_to_an_opinion_in_another_process(
    checkpoints: Path, frames: list[Frame], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    entry = catalog.find("natix-roadwork")
    files = {path.name: path.read_bytes() for path in checkpoint(entry, checkpoints).iterdir()}
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    model = Fleet().build([entry.key])[entry.key]
    assert isinstance(model, Remote)
    try:
        with pytest.raises(BadWeights, match=r"not in .*run_miner\.sh fetch natix-roadwork"):
            model.load("cpu")
        with serving(Hub(files, repository=entry.repository)) as hub:
            monkeypatch.setenv("HF_ENDPOINT", hub.url)
            weights.fetch(entry)
        model.load("cpu")
        model.warm_up()
        assert model.loaded is not None
        assert model.loaded.gb > 0
        here = made(entry.key, checkpoints)
        here.load("cpu")
        expected = [opinion.logit for opinion in here.assess(frames)]
        assert [opinion.logit for opinion in model.assess(frames)] == pytest.approx(expected, abs=1e-5)

        pid = model.worker.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        while model.worker.restarts == 0:
            time.sleep(0.01)
        assert [opinion.logit for opinion in when_back(model, frames)] == pytest.approx(expected, abs=1e-5)
    finally:
        model.close()


def when_back(model: Remote, frames: list[Frame], seconds: float = 300.0) -> list[Opinion]:
    give_up = time.monotonic() + seconds
    while True:
        try:
            return model.assess(frames)
        except ModelUnavailable:
            assert time.monotonic() < give_up, "the worker did not come back"
            time.sleep(0.05)
