"""The review page serves what is worth labelling, takes labels, and takes them back; only its own page may write."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette

from miner.journal import Journal, Keep
from miner.journal_views import Candidate
from miner.perceptual import dhash, distance
from miner.review import mixed, ordered, routes, suspicion
from models.base import Opinion
from tests.journal.making import answered, journal, jpeg_of, sha, verdict


@pytest.fixture
def kept(tmp_path: Path) -> Journal:
    made = journal(tmp_path, keep=Keep(share=1.0))
    for seed, p in enumerate((0.5, 0.9, 0.6, 0.02, 0.97)):
        made(answered(seed, verdict(p, opinions=(Opinion("m", 0.1, 1.0, {"boxes": [[1, 2, 30, 40]]}),))))
    made.flush()
    return made


@pytest.fixture
async def page(kept: Journal) -> AsyncIterator[httpx.AsyncClient]:
    app = Starlette(routes=routes(kept))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:9100") as client:
        yield client
    kept.close()


async def waiting(page: httpx.AsyncClient, mode: str = "queue") -> list[str]:
    return [each["sha256"] for each in (await page.get(f"/review/queue.json?mode={mode}")).json()["pictures"]]


async def test_the_page_loads_nothing_from_elsewhere(page: httpx.AsyncClient) -> None:
    answer = await page.get("/review")
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "{{nonce}}" not in answer.text
    assert "http://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in answer.text


async def test_the_queue_starts_with_what_is_worth_most_and_shows_the_evidence(page: httpx.AsyncClient) -> None:
    (first, *rest) = (await page.get("/review/queue.json")).json()["pictures"]
    assert first["sha256"] == sha(0)
    assert first["evidence"]["m"]["boxes"] == [[1, 2, 30, 40]]
    assert len(rest) == 4


async def test_pictures_are_served_as_received(page: httpx.AsyncClient) -> None:
    assert (await page.get(f"/review/pictures/{sha(1)}.jpg")).content == jpeg_of(1)
    for name in ("ab" * 32, "..%2f..%2fjournal.db", "x"):
        assert (await page.get(f"/review/pictures/{name}.jpg")).status_code == 404


async def test_labelling_takes_a_picture_off_the_queue_and_undo_brings_it_back(page: httpx.AsyncClient) -> None:
    assert (await page.post("/review/label", json={"sha256": sha(0), "label": 1})).status_code == 200
    assert (await page.post("/review/label", json={"sha256": sha(2), "label": None})).status_code == 200
    assert set(await waiting(page)) == {sha(1), sha(3), sha(4)}
    progress = (await page.get("/review/progress.json")).json()
    assert (progress["roadwork"], progress["unsure"], progress["waiting"], progress["today"]) == (1, 1, 3, 2)
    assert (await page.post("/review/undo", json={})).json() == {"sha256": sha(2)}
    assert sha(2) in await waiting(page)


async def test_the_second_look_shows_labels_that_look_wrong(page: httpx.AsyncClient) -> None:
    for seed, label in ((1, 1), (3, 0), (4, 0)):
        await page.post("/review/label", json={"sha256": sha(seed), "label": label})
    assert await waiting(page, "second") == [sha(4)]
    await page.post("/review/label", json={"sha256": sha(4), "label": 1})
    assert await waiting(page, "second") == []
    progress = (await page.get("/review/progress.json")).json()
    assert progress["with_itself"] == {"n": 1, "share": 0.0}
    assert progress["with_model"]["n"] == 4


@pytest.mark.parametrize(
    "body",
    [{}, {"sha256": "x", "label": 1}, {"sha256": "ab" * 32, "label": 2}, {"sha256": "ab" * 32}, [1], {"label": True}],
)
async def test_what_is_no_label_is_refused(page: httpx.AsyncClient, body: object) -> None:
    assert (await page.post("/review/label", json=body)).status_code == 400


async def test_an_unknown_picture_is_refused(page: httpx.AsyncClient) -> None:
    assert (await page.post("/review/label", json={"sha256": "ab" * 32, "label": 1})).status_code == 404


async def test_a_foreign_page_cannot_label(page: httpx.AsyncClient) -> None:
    for path in ("/review/label", "/review/undo"):  # a form or a simple request: no JSON type without a preflight
        said = await page.post(
            path, content=f'{{"sha256": "{sha(0)}", "label": 1}}', headers={"content-type": "text/plain"}
        )
        assert said.status_code == 415
        assert (await page.get(path)).status_code == 405
    assert len(await waiting(page)) == 5


async def test_another_name_for_this_machine_is_refused(page: httpx.AsyncClient) -> None:
    assert (await page.get("/review/queue.json", headers={"host": "evil.example:9100"})).status_code == 421


async def test_a_label_that_cannot_be_written_is_said_to_be_lost(page: httpx.AsyncClient, kept: Journal) -> None:
    kept.close()
    answer = await page.post("/review/label", json={"sha256": sha(0), "label": 1})
    assert answer.status_code == 503
    assert "not written" in answer.json()["error"]


# --- order ------------------------------------------------------------------------------------------------------------


def candidate(number: int, value: float, phash: int, probability: float = 0.5) -> Candidate:
    return Candidate(f"{number:064x}", probability, value, "uncertain", phash, {})


FAR = [0, 0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F]


def test_a_perceptual_hash_says_where_a_picture_gets_darker() -> None:
    falling = np.broadcast_to(np.linspace(250, 10, 90, dtype=np.uint8)[None, :, None], (80, 90, 3))
    half = np.ascontiguousarray(falling)
    half[40:] = half[40:, ::-1]
    darker, brighter, both = (dhash(np.ascontiguousarray(each)) for each in (falling, falling[:, ::-1], half))
    assert (darker, brighter) == (-1, 0)  # all 64 bits, none
    assert (distance(darker, brighter), distance(darker, both), distance(both, brighter)) == (64, 32, 32)


def test_pictures_that_look_alike_are_put_apart() -> None:
    same = [candidate(n, 1.0 - n / 100, 0) for n in range(3)]
    other = [candidate(10 + n, 0.5, FAR[n + 1]) for n in range(3)]
    order = [int(each.sha256, 16) for each in ordered([*same, *other], 0, 0, 6)]
    assert order[0] == 0
    assert set(order[1:4]) == {10, 11, 12}
    assert order[4:] == [1, 2]


def test_the_label_that_is_rarer_so_far_comes_first() -> None:
    clear, work = candidate(0, 1.0, FAR[1], 0.3), candidate(1, 1.0, FAR[2], 0.7)
    assert ordered([clear, work], roadwork=5, clear=95, most=2)[0] == work
    assert ordered([clear, work], roadwork=95, clear=5, most=2)[0] == clear


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(-(2**63), 2**63 - 1)), max_size=30), st.integers(0, 40))
def test_order_loses_and_doubles_nothing(given_: list[tuple[float, int]], most: int) -> None:
    all_ = [candidate(number, value, phash) for number, (value, phash) in enumerate(given_)]
    order = ordered(all_, 3, 4, most)
    assert len(order) == min(most, len(all_))
    assert len({each.sha256 for each in order}) == len(order)


def test_every_second_picture_is_drawn_by_lot_and_none_comes_twice() -> None:
    valued = [candidate(n, 1.0, 0) for n in range(6)]
    drawn = [candidate(n, 0.1, 0) for n in (1, 20, 21)]
    assert [int(each.sha256, 16) for each in mixed(valued, drawn, 10)] == [0, 1, 20, 2, 21, 3, 4, 5]
    assert len(mixed(valued, drawn, 4)) == 4
    assert [int(each.sha256, 16) for each in mixed([], drawn, 9)] == [1, 20, 21]


# --- suspicion --------------------------------------------------------------------------------------------------------


def test_flipped_labels_are_found_first() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random(2000) < 0.4).astype(np.int64)
    p = 1 / (1 + np.exp(-np.where(truth == 1, 2.5, -2.5) - 1.5 * rng.standard_normal(2000)))
    flipped = rng.random(2000) < 0.05
    doubt = suspicion(np.where(flipped, 1 - truth, truth), p)
    worst = np.argsort(-doubt)[: flipped.sum()]
    assert flipped[worst].mean() > 0.6  # 0.05 by chance
    assert flipped[doubt > 0].mean() > 0.5
    assert (doubt > 0)[flipped].mean() > 0.5


def test_one_label_alone_suspects_nobody() -> None:
    assert suspicion(np.array([1, 1]), np.array([0.1, 0.9])).tolist() == [0.0, 0.0]
    assert suspicion(np.array([], dtype=np.int64), np.array([])).tolist() == []
