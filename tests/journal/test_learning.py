"""The parts together, as the miner runs them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette

from cascade.deadline import Deadline
from cascade.verdict import Verdict
from miner.learning.candidate import Candidate
from miner.learning.judging import Comparison, Judgement
from miner.learning.serving import Habits, Learning, version_of
from miner.learning.versions import Versions
from miner.service import Service
from models.base import Frame, Opinion
from tests.journal.making import frame_of, jpeg_of, verdict
from tests.journal.test_improve import OWN, SAYS_YES

IT = Judgement(Comparison(100, 50, 0.5, 0.6, 0.1, 0.05, 0.15), None, None, ())


class Engine:
    """Says road work, and counts."""

    def __init__(self) -> None:
        self.asked, self.profile = 0, OWN

    async def decide(self, frame: Frame, deadline: Deadline, caller: str) -> Verdict:
        self.asked += 1
        return verdict(0.8, opinions=(Opinion("first", 1.4, 5.0), Opinion("second", 0.1, 5.0)))


def service(learning: Learning) -> Service:
    return Service(learning.decide, lambda text: frame_of(base64.b64decode(text)), lambda: 0.5, 0.5, [learning.observe])


def image(seed: int) -> str:
    return base64.b64encode(jpeg_of(seed)).decode()


async def test_an_answer_is_on_record_repeated_at_once_and_reviewable(tmp_path: Path) -> None:
    engine = Engine()
    learning = Learning(tmp_path, engine.decide, lambda: engine.profile, Habits(recheck=0.0))
    answers = [await service(learning).answer(image(seed), 9.0, "validator", 1) for seed in (1, 2, 1)]
    assert answers == [0.8, 0.8, 0.8]
    assert engine.asked == 2
    learning.journal.flush()
    assert [row["source"] for row in learning.views.rows()] == ["cascade", "cascade", "journal"]
    app = Starlette(routes=learning.routes())  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        assert (await client.get("/review")).status_code == 200
    learning.refresh()
    assert learning.views.labelled_share(0.0) == (2, 2)
    assert learning.alarms == ()
    learning.close()
    learning.close()
    assert learning.counts.written == 3


async def test_a_staged_candidate_runs_in_the_shadow_and_a_promoted_one_is_in_force(tmp_path: Path) -> None:
    versions = Versions(tmp_path / "versions")
    versions.stage(versions.write(Candidate(SAYS_YES)), IT)
    engine = Engine()
    learning = Learning(tmp_path, engine.decide, lambda: engine.profile)
    assert await service(learning).answer(image(1), 9.0, "validator", 0) == 0.8
    await learning.shadow.settled()
    learning.journal.flush()
    ((_, label, live, candidate),) = learning.views.shadows("0001")
    assert (label, live) == (0, 0.8)
    assert candidate == pytest.approx(1 / (1 + np.exp(-0.1)))
    versions.promote("0001", IT)
    versions.unstage()
    learning.follow(OWN)
    assert learning.shadow.name == ""
    learning.close()


async def test_a_version_staged_while_the_miner_serves_is_followed_and_a_broken_one_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine, versions = Engine(), Versions(tmp_path / "versions")
    learning = Learning(tmp_path, engine.decide, lambda: engine.profile, Habits(canary=1.0))
    versions.stage(versions.write(Candidate(SAYS_YES)), IT)
    learning.follow(OWN)
    assert await service(learning).answer(image(1), 9.0, "validator") == pytest.approx(1 / (1 + np.exp(-0.1)))
    name = versions.write(Candidate(SAYS_YES))
    (tmp_path / "versions" / name / "own.toml").write_text("nonsense")
    versions.stage(name, IT)
    learning.follow(OWN)
    assert "staged version 0002 cannot be used" in caplog.text
    assert await service(learning).answer(image(2), 9.0, "validator") == 0.8
    learning.close()


class Embedder:
    """Vectors of three numbers; remembers which it computed."""

    name = "embedder-1"

    def __init__(self) -> None:
        self.vectors: dict[str, np.ndarray] = {}

    def embed(self, frames: Sequence[Frame]) -> np.ndarray:
        return np.stack([frame.pixels.mean((0, 1)) for frame in frames]).astype(np.float32)

    def known(self, sha256: str) -> np.ndarray | None:
        return self.vectors.get(sha256)


async def test_embeddings_of_labelled_pictures_are_stored_and_those_at_hand_are_watched(tmp_path: Path) -> None:
    engine, embedder = Engine(), Embedder()
    learning = Learning(tmp_path, engine.decide, lambda: engine.profile, Habits(recheck=0.0), embedder=embedder)
    one = frame_of(jpeg_of(1))
    embedder.vectors[one.sha256] = embedder.embed([one])[0]
    for label in (1, 1, -1):
        await service(learning).answer(image(1), 9.0, "validator", label)
    learning.journal.flush()
    (example,) = learning.views.labelled(embedder="embedder-1")
    assert example.embedding == pytest.approx(one.pixels.mean((0, 1)), rel=1e-3)
    assert len(learning.looks._first) == 1, "repeats tell nothing new"
    learning.refresh()
    assert list(learning.drift) == ["scores", "embeddings"]
    learning.close()


def test_another_fit_other_weights_another_version() -> None:
    names = {version_of(OWN), version_of(OWN, "weights"), version_of(SAYS_YES), version_of(OWN.model_copy())}
    assert len(names) == 3


async def test_a_reload_changes_the_version(tmp_path: Path) -> None:
    engine = Engine()
    learning = Learning(tmp_path, engine.decide, lambda: engine.profile, Habits(recheck=0.0))
    await service(learning).answer(image(1), 9.0, "validator")
    engine.profile = SAYS_YES
    await service(learning).answer(image(1), 9.0, "validator")
    assert engine.asked == 2
    learning.journal.flush()
    assert len(learning.views.stats()["versions"]) == 2
    learning.close()
