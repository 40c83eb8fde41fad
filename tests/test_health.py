"""The health port: alive, ready with its reasons, and the metrics."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import httpx
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from miner.health import Address, HealthServer, Readiness, health_app

READY = Readiness(
    True,
    "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty",
    7,
    "test",
    Address("203.0.113.7", 8091),
    ({"name": "embedded", "required": True, "ready": True, "reason": ""},),
)


def client(readiness: Readiness = READY) -> httpx.AsyncClient:
    app = health_app(
        lambda: readiness, lambda: b"streetvision_ready 1.0\n", [Route("/", lambda _: PlainTextResponse("page"))]
    )
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://miner")


async def test_alive() -> None:
    async with client() as http:
        assert (await http.get("/livez")).status_code == 200


async def test_ready_tells_who_serves_where_and_by_what() -> None:
    async with client() as http:
        answer = await http.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {
        "ready": True,
        "hotkey": "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty",
        "uid": 7,
        "network": "test",
        "axon": {"ip": "203.0.113.7", "port": 8091},
        "tiers": [{"name": "embedded", "required": True, "ready": True, "reason": ""}],
        "reason": "",
    }


async def test_not_ready_is_503_with_the_reason() -> None:
    async with client(replace(READY, ready=False, uid=None, reason="tier embedded: loading")) as http:
        answer = await http.get("/readyz")
    assert (answer.status_code, answer.json()["reason"], answer.json()["uid"]) == (503, "tier embedded: loading", None)


async def test_metrics_are_prometheus_text() -> None:
    async with client() as http:
        answer = await http.get("/metrics")
    assert answer.text == "streetvision_ready 1.0\n"
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


async def test_more_pages_may_be_served() -> None:
    async with client() as http:
        assert (await http.get("/")).text == "page"


async def test_the_server_listens_on_a_free_port_and_stops() -> None:
    server = HealthServer(health_app(lambda: READY, lambda: b""), "127.0.0.1", 0)
    port = await server.start()
    async with httpx.AsyncClient() as http:
        assert (await http.get(f"http://127.0.0.1:{port}/livez")).json() == {"alive": True}
    await server.stop()


async def test_a_request_that_never_ends_does_not_keep_the_server_from_stopping() -> None:
    reading = asyncio.Event()

    async def review(request: Request) -> Response:
        reading.set()
        await request.body()
        return Response()

    server = HealthServer(
        health_app(lambda: READY, lambda: b"", [Route("/review", review, methods=["POST"])]), "127.0.0.1", 0
    )
    _, writer = await asyncio.open_connection("127.0.0.1", await server.start())
    writer.write(b"POST /review HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{")
    async with asyncio.timeout(60.0):
        await reading.wait()
        await server.stop()
    writer.close()
