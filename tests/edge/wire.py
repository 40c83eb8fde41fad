"""A running axon for tests, on loopback, and raw HTTP/1.1 to talk to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from miner.axon import Answer, Axon, Limits, Server, verify_signature
from miner.gate import Gate, Rules
from miner.metagraph import Neuron, Snapshot
from miner.replay_store import ReplayStore


@dataclass
class Response:
    """What came back. headers: lower-case names."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def answer_075(image: str, seconds: float, caller: str, label: int) -> float:
    return 0.75


async def answer_cheaply(image: str, seconds: float, caller: str, label: int) -> float:
    return 0.25


def subnet(*neurons: Neuron) -> Callable[[], Snapshot]:
    view = Snapshot(72, 1, 1.0, {neuron.hotkey: neuron for neuron in neurons})
    return lambda: view


@dataclass
class Edge:
    """A served axon and what it told its observer. refused: what its server told of requests that never reached it."""

    server: Server
    outcomes: list[str]
    refused: list[str]

    @property
    def at_work(self) -> int:
        """Requests taken and not yet answered."""
        return len(self.server._state.tasks)

    @property
    def port(self) -> int:
        return self.server.port

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, payload: bytes) -> Response:
        """Send one request over a connection of its own."""
        return await ask(self.port, payload)


async def ask(port: int, payload: bytes) -> Response:
    """What a server on loopback says to one request over a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(payload)
        return await read_response(reader)
    finally:
        writer.close()


async def until(condition: Callable[[], bool]) -> None:
    """Come back once `condition` holds."""
    async with asyncio.timeout(60.0):
        while not condition():  # noqa: ASYNC110  (what is waited for sets no event)
            await asyncio.sleep(0.002)


async def read_response(reader: asyncio.StreamReader) -> Response:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Response(int(first.split()[1]), headers, body)


def answer_after(go_on: asyncio.Event) -> Answer:
    """An answer that is at work until it is told to go on."""

    async def answer(image: str, seconds: float, caller: str, label: int) -> float:
        await go_on.wait()
        return 0.75

    return answer


@asynccontextmanager
async def serving(
    identity: str,
    snapshot: Callable[[], Snapshot],
    answer: Answer = answer_075,
    cheap_answer: Answer = answer_cheaply,
    limits: Limits | None = None,
    rules: Rules | None = None,
    host: str | None = "127.0.0.1",
    **gate_options: Any,
) -> AsyncIterator[Edge]:
    """An axon on a port of its own until the block ends."""
    gate_options.setdefault("replay", ReplayStore())
    gate = Gate(identity, snapshot, verify_signature, rules=rules, **gate_options)
    outcomes: list[str] = []
    axon = Axon(gate, answer, cheap_answer, limits, observe=lambda outcome, seconds: outcomes.append(outcome))
    refused: list[str] = []
    server = Server(axon, host, 0, axon.limits, refused.append)
    await server.start()
    try:
        yield Edge(server, outcomes, refused)
    finally:
        await server.stop()
