"""The dashboard shows what left, to who may see it, and holds a bounded amount of it."""

from __future__ import annotations

import asyncio
import io
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image
from starlette.applications import Starlette

from cascade.verdict import Source, Stop, Verdict
from miner import dashboard
from miner.dashboard import Dashboard, Recent
from miner.gpu import Card
from miner.health import Address, Readiness, health_app
from miner.metagraph import Neuron, Snapshot
from miner.service import Answered
from miner.telemetry import Metrics
from models.base import Failure, Frame, Opinion

TOKEN = "a-token-of-some-length"
VALIDATOR = "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty"


@dataclass(frozen=True)
class State:
    breaker: str = "closed"
    queued: int = 2
    restarts: int = 1


def answer(probability: float = 0.9, label: int = 1, size: tuple[int, int] = (640, 360)) -> Answered:
    frame = Frame.of(np.full((size[1], size[0], 3), 120, dtype=np.uint8))
    opinions = (
        Opinion("embedded", 2.0, 40.0, {"view": "whole"}),
        Opinion("sign-reading", 1.0, 300.0, {"text": "<img src=x onerror=alert(1)>"}),
    )
    failures = (Failure("detector", "timeout", "no opinion within 2000 ms", 2000.0),)
    interval = (max(0.0, probability - 0.1), min(1.0, probability + 0.1))
    tiers = ("embedded", "signs")
    verdict = Verdict(probability, interval, opinions, failures, tiers, Stop.LAST_TIER, Source.CASCADE, True, 340.0)
    return Answered(VALIDATOR, label, "base64", probability, Source.CASCADE, 0.35, "", frame, verdict)


UNREADABLE = Answered(VALIDATOR, -1, "%%", 0.5, Source.PRIOR, 0.001, "BadPicture", None, None)
SNAPSHOT = Snapshot(323, 4_500_000, time.time(), {VALIDATOR: Neuron(0, VALIDATOR, 50_000.0, True)})


def readiness() -> Readiness:
    tiers = ({"name": "embedded", "required": True, "ready": True, "reason": ""},)
    return Readiness(True, VALIDATOR, 7, "test", Address("203.0.113.7", 8091), tiers)


def cards() -> Sequence[Card]:
    return [Card(0, "NVIDIA H100 80GB", 80_000_000_000, 20_000_000_000, 0.5, "570.1", "12.8")]


class Miner:
    """A miner's health port with everything behind it but the miner."""

    def __init__(self, host: str = "127.0.0.1", token: str = "", review: bool = False) -> None:
        self.recent, self.metrics = Recent(), Metrics(cards=cards)
        models, view = lambda: {"embedded": State()}, lambda: SNAPSHOT
        page = Dashboard(self.recent, self.metrics, readiness, models, view, host, token, cards, review=review)
        self.app: Starlette = health_app(readiness, self.metrics.exposition, page.routes())

    def answers(self, *answered: Answered) -> None:
        for each in answered:
            self.metrics.admissions.labels("answered").inc()
            self.metrics.answered(each)
            self.recent.add(each)

    def client(self, base: str = "http://127.0.0.1:9100") -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url=base)


# What it tells.


async def test_state_has_what_the_page_shows() -> None:
    miner = Miner()
    miner.metrics.refusals.labels("no permit").inc(3)
    miner.answers(answer(0.9, 1), answer(0.2, 0), UNREADABLE)
    async with miner.client() as client:
        state = (await client.get("/dashboard/state.json")).json()
    assert state["count"] == 3
    assert state["admissions"] == 3
    assert state["refusals"] == {"no permit": 3}
    assert state["tiers"] == {"signs": 2, "nobody": 1}
    assert state["latency"]["p50"] == pytest.approx(350)
    assert [each["count"] for each in state["reliability"]] == [1, 1]
    assert state["standing"][VALIDATOR]["mcc"] == 1.0
    assert state["chain"] == {
        "netuid": 323, "block": 4_500_000, "taken_at": SNAPSHOT.taken_at, "neurons": 1, "validators": 1
    }  # fmt: skip
    assert state["gpus"][0]["name"] == "NVIDIA H100 80GB"
    assert state["models"] == {"embedded": {"breaker": "closed", "queued": 2, "restarts": 1}}
    first, _, last = state["answers"]
    assert [opinion["model"] for opinion in first["verdict"]["opinions"]] == ["embedded", "sign-reading"]
    assert first["verdict"]["failures"][0]["kind"] == "timeout"
    assert (last["fault"], last["picture"], last["verdict"]) == ("BadPicture", False, None)


@pytest.mark.parametrize("review", [True, False])
async def test_the_review_page_is_linked_where_there_is_one(review: bool) -> None:
    async with Miner(review=review).client() as client:
        assert (await client.get("/dashboard/state.json")).json()["review"] is review


async def test_only_news_is_sent() -> None:
    miner = Miner()
    miner.answers(answer(), answer(), answer())
    async with miner.client() as client:
        state = (await client.get("/dashboard/state.json?since=2")).json()
        wrong = await client.get("/dashboard/state.json?since=x")
    assert [each["number"] for each in state["answers"]] == [3]
    assert wrong.status_code == 400


async def test_a_miner_that_nobody_asked_has_a_page_too() -> None:
    async with Miner().client() as client:
        state = (await client.get("/dashboard/state.json")).json()
        page = await client.get("/")
    assert (state["answers"], state["latency"], state["reliability"]) == ([], None, [])
    assert page.status_code == 200


async def test_a_picture_comes_small_and_a_forgotten_one_does_not() -> None:
    miner = Miner()
    miner.answers(answer(size=(1920, 1080)))
    async with miner.client() as client:
        got = await client.get("/dashboard/pictures/1.jpg")
        missing = await client.get("/dashboard/pictures/2.jpg")
    assert Image.open(io.BytesIO(got.content)).size == (320, 180)
    assert (got.headers["content-type"], missing.status_code) == ("image/jpeg", 404)


def test_the_ring_is_bounded_and_holds_no_full_picture() -> None:
    recent = Recent(shown=5, measured=7)
    for _ in range(20):
        recent.add(answer())
    assert [kept.number for kept in recent.answers] == [16, 17, 18, 19, 20]
    assert len(recent.figures) == 7
    assert all(kept.answered.frame is None and not kept.answered.image_base64 for kept in recent.answers)
    assert all(kept.pixels is not None and max(kept.pixels.shape) <= dashboard.THUMBNAIL for kept in recent.answers)


def test_long_evidence_is_cut() -> None:
    kept = answer()
    assert kept.verdict is not None
    long = replace(kept.verdict, opinions=(Opinion("talker", 0.0, 1.0, {"reasoning": "x" * 10_000}),))
    told = dashboard._verdict(long)
    assert len(told["opinions"][0]["evidence"]) == dashboard.LONGEST_EVIDENCE


# Who may see it.


async def test_beyond_loopback_without_a_token_there_is_no_dashboard() -> None:
    miner = Miner(host="0.0.0.0")
    miner.answers(answer())
    async with miner.client("http://203.0.113.7:9100") as client:
        page = await client.get("/")
        rest = [await client.get(path) for path in ("/dashboard/state.json", "/dashboard/pictures/1.jpg")]
        alive = await client.get("/livez")
    assert page.status_code == 403
    assert "MINER_DASHBOARD_TOKEN" in page.text
    assert [each.status_code for each in rest] == [404, 404]
    assert alive.status_code == 200


@pytest.mark.parametrize("path", ["/", "/dashboard/state.json", "/dashboard/pictures/1.jpg"])
async def test_beyond_loopback_the_token_opens_it(path: str) -> None:
    miner = Miner(host="0.0.0.0", token=TOKEN)
    miner.answers(answer())
    async with miner.client("http://203.0.113.7:9100") as client:
        assert (await client.get(path)).status_code == 401
        assert (await client.get(path, headers={"Authorization": "Bearer wrong"})).status_code == 401
        assert (await client.get(path, headers={"Authorization": f"Bearer {TOKEN}"})).status_code == 200
        entered = await client.get(f"{path}?token={TOKEN}")
        assert (entered.status_code, entered.headers["location"]) == (303, path)
        assert {"HttpOnly", "SameSite=strict"} <= set(entered.headers["set-cookie"].split("; "))
        assert (await client.get(path)).status_code == 200  # by the cookie


def test_a_short_token_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 16 characters, got 5"):
        Miner(host="0.0.0.0", token="short")


async def test_a_foreign_name_that_points_at_loopback_is_refused() -> None:
    async with Miner().client("http://rebound.example:9100") as client:
        assert (await client.get("/dashboard/state.json")).status_code == 421


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "[::1]"])
async def test_the_names_of_loopback_are_served(name: str) -> None:
    async with Miner().client(f"http://{name}:9100") as client:
        assert (await client.get("/dashboard/state.json")).status_code == 200


async def test_it_is_read_only() -> None:
    miner = Miner()
    async with miner.client() as client:
        for path in ("/", "/dashboard/state.json", "/dashboard/pictures/1.jpg"):
            for method in ("POST", "PUT", "DELETE", "PATCH"):
                assert (await client.request(method, path)).status_code == 405


async def test_the_page_may_load_nothing_from_elsewhere() -> None:
    async with Miner().client() as client:
        first, second = await client.get("/"), await client.get("/")
    rules = first.headers["content-security-policy"]
    assert "default-src 'none'" in rules
    assert rules != second.headers["content-security-policy"], "the nonce must change with each page"
    assert "{{" not in first.text
    outside = [word for word in first.text.split('"') if word.startswith(("http:", "https:", "//"))]
    assert set(outside) <= {"http://www.w3.org/2000/svg"}


# In a browser.


@pytest.fixture
def served() -> Iterator[tuple[Miner, str]]:
    miner = Miner(review=True)
    server = uvicorn.Server(uvicorn.Config(miner.app, port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield miner, f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)], ids=["desk", "telephone"])
def test_the_page_in_a_browser(served: tuple[Miner, str], tmp_path: Path, width: int, height: int) -> None:
    from playwright.sync_api import sync_playwright

    miner, url = served
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    assert browser_path, "Chromium is needed: apt-get install chromium"
    trouble: list[str] = []
    asked: list[str] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": height})
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("console", lambda message: trouble.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        page.get_by_text("Nobody has asked yet").wait_for()

        miner.answers(answer(0.9, 1), UNREADABLE, answer(0.25, 0))
        page.locator("#answer-3").wait_for()
        assert page.locator("#status").inner_text() == "ready"
        assert page.get_by_role("link", name="Review").get_attribute("href") == "/review"
        assert page.locator("#answers li").count() == 3
        assert "0.250" in page.locator("#detail .big").inner_text()  # the newest is chosen by itself
        page.wait_for_function("document.querySelector('#detail img').naturalWidth > 0")
        assert page.locator("#reliability circle").count() == 2
        assert page.locator("#chain").inner_text().split() >= ["subnet", "323"]

        page.locator("#answers").focus()  # by keyboard alone
        page.keyboard.press("ArrowDown")
        assert "could not be read" in page.locator("#detail").inner_text()
        page.keyboard.press("ArrowDown")
        assert "0.900" in page.locator("#detail .big").inner_text()
        assert page.locator("#answer-1").get_attribute("aria-selected") == "true"
        assert page.locator("#answers").get_attribute("aria-activedescendant") == "answer-1"
        page.locator("#detail details").last.locator("summary").press("Enter")
        assert "<img src=x onerror=alert(1)>" in page.locator("#detail pre").last.inner_text()  # text, not markup

        miner.answers(answer(0.7, 1))
        page.locator("#answer-4").wait_for(state="attached")
        assert "0.900" in page.locator("#detail .big").inner_text()  # what a person chose stays
        page.keyboard.press("p")
        assert page.locator("#pause").get_attribute("aria-pressed") == "true"

        assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page must not scroll sideways"
        page.screenshot(path=str(tmp_path / "dashboard.png"), full_page=True)
        browser.close()
    assert not trouble
    assert all(each.startswith((url, "data:")) for each in asked)
