"""Over real sockets: what happens to a request before its caller is known. Broken heads, bodies cut off, callers that
leave, a miner that stops. Each ends in a short JSON answer or a closed connection, and the validator is served next.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import socket
import struct
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from bittensor_wallet import Keypair
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from miner import btauth
from miner.axon import Limits
from miner.gate import SECOND, Claim, Rules
from miner.metagraph import Neuron, Snapshot
from tests.edge.signing import Dendrite, Request
from tests.edge.wire import Edge, Response, answer_after, read_response, serving, subnet, until

MINER, VALIDATOR, STRANGER = (Keypair.create_from_uri(f"//{name}") for name in ("miner", "validator", "stranger"))
IDENTITY = MINER.ss58_address
SUBNET = subnet(Neuron(1, VALIDATOR.ss58_address, 5000.0, True))
LONG = 600.0  # seconds: a limit that must not come to bear
ENDLESS = {f"{which}_seconds": LONG for which in ("head", "body", "idle", "request")} | {"body_grace": LONG}
PATIENT = Limits(**ENDLESS, linger=LONG)  # type: ignore[arg-type]
EARLY = int(3.5 * SECOND)  # a nonce that far ahead of our clock is held for 1.5 s, unproven


def request(key: Keypair = VALIDATOR, ahead: int = 0, **headers: str | None) -> Request:
    """A signed request, with some headers replaced, or left out where None."""
    signed = Dendrite(key, IDENTITY).request(nonce=time.time_ns() + ahead)
    signed.headers = {name: value for name, value in {**signed.headers, **headers}.items() if value is not None}
    return signed


def chunked(signed: Request) -> bytes:
    """Its head, announcing chunks."""
    return signed.head().replace(b"content-length: %d" % len(signed.body), b"transfer-encoding: chunked")


def release_11(body: bytes, signed: bytes | None = None) -> Request:
    """A `btauth/1` request of the validator. signed: the body that the signature covers, when it is another one."""
    claim = Claim(VALIDATOR.ss58_address, IDENTITY, time.time_ns(), b"", "", 9.0)
    message = btauth.cover(claim, "POST", "/ImageSynapse", body if signed is None else signed).message
    headers = {
        "x-bittensor-version": "1",
        "x-bittensor-hotkey": claim.hotkey,
        "x-bittensor-receiver": claim.receiver,
        "x-bittensor-nonce": str(claim.nonce),
        "x-bittensor-signature": VALIDATOR.sign(message).hex(),
    }
    return Request("POST", "/ImageSynapse", headers, body)


@asynccontextmanager
async def quiet(caplog: pytest.LogCaptureFixture, *answer: Any, **options: Any) -> AsyncIterator[Edge]:
    """An axon that, whatever came, is left with nothing at work, says nothing to the operator and serves the next."""
    options.setdefault("limits", PATIENT)
    async with serving(IDENTITY, SUBNET, *answer, **options) as edge:
        yield edge
        await until(lambda: not edge.at_work)
        assert (await edge.ask(request().bytes())).status == 200
        assert edge.outcomes.pop() == "answered"
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


async def everything(edge: Edge, sent: bytes) -> list[Response]:
    """What comes back on one connection until the server closes it."""
    reader, writer = await edge.connect()
    came = asyncio.StreamReader()
    writer.write(sent)
    async with asyncio.timeout(60.0):
        came.feed_data(await reader.read())
    came.feed_eof()
    writer.close()
    found = []
    while not came.at_eof():
        found.append(await read_response(came))
    return found


async def leave(writer: asyncio.StreamWriter, how: str) -> None:
    """Close the connection: in order (FIN), or by resetting it (RST)."""
    if how == "reset":
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()
    await writer.wait_closed()


# Heads that are none.

POST = b"POST /ImageSynapse HTTP/1.1\r\n"
BROKEN = {
    "no length": POST + b"content-length:\r\n\r\n",
    "a negative length": POST + b"content-length: -1\r\n\r\n",
    "a length in hexadecimal": POST + b"content-length: 0x10\r\n\r\n",
    "two lengths": POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    "a list of lengths": POST + b"content-length: 5, 5\r\n\r\nhello",
    "a length beside chunks": POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "another encoding": POST + b"transfer-encoding: gzip\r\n\r\n",
    "chunks that are not the last encoding": POST + b"transfer-encoding: chunked, gzip\r\n\r\n",
    "a value over two lines": POST + b"name: a\r\n b\r\n\r\n",
    "bare line feeds": b"POST /ImageSynapse HTTP/1.1\nname: a\n\n",
    "a carriage return in a value": POST + b"name: a\rb\r\n\r\n",
    "a zero in a value": POST + b"name: a\0b\r\n\r\n",
    "a header without a colon": POST + b"name\r\n\r\n",
    "a header without a name": POST + b": a\r\n\r\n",
    "a path that is not ASCII": b"POST /\xff HTTP/1.1\r\n\r\n",
    "no path": b"POST HTTP/1.1\r\n\r\n",
    "a host without a path": b"POST http://host HTTP/1.1\r\n\r\n",
    "a tunnel": b"CONNECT host:1 HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("head", BROKEN.values(), ids=BROKEN)
async def test_a_malformed_head_gets_400_and_goes_no_further(head: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with quiet(caplog) as edge:
        (response,) = await everything(edge, head)
        assert (response.status, response.headers["connection"]) == (400, "close")
        assert response.json["message"].startswith("expected an HTTP/1.1 request")
    assert set(edge.outcomes) <= {"not-registered"}, "a head may be sound but for what it says of the body"
    assert edge.outcomes + edge.refused in (["not-registered"], ["not-http"]), "it is counted once"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST http://host/ImageSynapse HTTP/1.1\r\n\r\n", 403),
        (b"OPTIONS * HTTP/1.1\r\n\r\n", 404),
        (b"POST /%ff%00%0d%0a HTTP/1.1\r\n\r\n", 404),
        (b"POST /%zz HTTP/1.1\r\n\r\n", 404),
        (POST + b"connection: upgrade\r\nupgrade: websocket\r\ncontent-length: 2\r\n\r\n{}", 403),
        (POST + b"connection: upgrade\r\nupgrade: h2c\r\n\r\n", 403),
    ],
)
async def test_an_odd_head_is_refused_and_its_connection_serves_on(
    head: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with quiet(caplog) as edge:
        reader, writer = await edge.connect()
        for sent, expected in ((head, status), (request().bytes(), 200)):
            writer.write(sent)
            async with asyncio.timeout(60.0):
                assert (await read_response(reader)).status == expected
        writer.close()


# What comes behind a sound request, which its caller may not have waited for.

GARBAGE = b"\0\0\0 no request\r\n\r\n"


@pytest.mark.parametrize(("key", "status"), [(VALIDATOR, 200), (STRANGER, 403)], ids=["validator", "stranger"])
@pytest.mark.parametrize("count", [1, 2])
async def test_garbage_behind_requests_does_not_take_their_answers_away(
    key: Keypair, status: int, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with quiet(caplog) as edge:
        found = await everything(edge, b"".join(request(key).bytes() for _ in range(count)) + GARBAGE)
        assert [response.status for response in found] == [status] * count
        assert [response.headers.get("connection") for response in found] == [None] * (count - 1) + ["close"]


async def test_an_endless_head_behind_a_request_at_work_is_not_read_on(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever forges a nonce that is held, or asks and is answered slowly, could else fill the memory meanwhile."""
    go_on = asyncio.Event()
    answer = answer_after(go_on)
    async with quiet(caplog, answer) as edge:
        reader, writer = await edge.connect()
        writer.write(request().bytes() + POST + b"x-endless: ")
        await until(lambda: bool(edge.at_work))
        (connection,) = edge.server._open
        for _ in range(2):  # each at least what a head may have, and less than what the kernel takes at once
            writer.write(b"y" * PATIENT.head)
        await until(lambda: not connection.transport.is_reading())  # type: ignore[attr-defined]
        go_on.set()
        async with asyncio.timeout(60.0):
            response = await read_response(reader)
            assert (response.status, response.headers["connection"]) == (200, "close")
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await read_response(reader)
        writer.close()


@pytest.mark.parametrize("behind", [False, True], ids=["alone", "behind a request"])
async def test_a_head_of_too_many_headers_is_not_read_on(behind: bool, caplog: pytest.LogCaptureFixture) -> None:
    """One piece has room for 65,000 of them, each of which costs a call."""
    async with quiet(caplog) as edge:
        assert (await edge.ask(POST + b"a: b\r\n" * PATIENT.headers + b"\r\n")).status == 403
        first = request().bytes() if behind else b""
        found = await everything(edge, first + POST + b"a: b\r\n" * (PATIENT.headers + 2))
        assert [response.status for response in found] == ([200] if behind else [431])
    assert edge.refused == ([] if behind else ["head-too-large"])


async def test_a_connection_holds_a_few_requests_and_then_is_read_no_further(caplog: pytest.LogCaptureFixture) -> None:
    """One piece has room for 14,000 short ones. 40 such pieces once cost 700 MB and kept everybody else waiting."""
    async with quiet(caplog) as edge:
        found = await everything(edge, request().bytes() + b"GET / HTTP/1.1\r\n\r\n" * 10_000)
        assert [response.status for response in found] == [200] + [404] * PATIENT.pipelined
        assert [response.headers.get("connection") for response in found] == [None] * PATIENT.pipelined + ["close"]
    assert edge.outcomes == ["answered"] + ["unknown-path"] * PATIENT.pipelined


@pytest.mark.parametrize("pieces", [1, 2])
async def test_a_head_too_large_behind_a_request_is_not_answered(pieces: int, caplog: pytest.LogCaptureFixture) -> None:
    large = request(**{"x-long": "x" * PATIENT.head}).bytes()
    async with quiet(caplog) as edge:
        reader, writer = await edge.connect()
        for piece in [request().bytes() + large] if pieces == 1 else [request().bytes(), large]:
            writer.write(piece)
            await asyncio.sleep(0)
        async with asyncio.timeout(60.0):
            assert (await read_response(reader)).status == 200
            left = await reader.read()
        assert left == b"" or left.startswith(b"HTTP/1.1 431 "), "it came after the answer"
        writer.close()
    assert edge.outcomes == ["answered"]


async def test_a_head_begun_behind_a_request_at_work_is_due_as_any_other(caplog: pytest.LogCaptureFixture) -> None:
    limits = Limits(**{**ENDLESS, "head_seconds": 0.5})  # type: ignore[arg-type]
    async with quiet(caplog, limits=limits) as edge:
        found = await everything(edge, request().bytes() + POST + b"x-slow: ")  # and silence
        assert [response.status for response in found] == [200]


# Bodies.


@pytest.mark.parametrize("pause", [False, True], ids=["at once", "later"])
async def test_a_broken_chunk_gets_one_answer(pause: bool, caplog: pytest.LogCaptureFixture) -> None:
    async with quiet(caplog) as edge:
        for key in (VALIDATOR, STRANGER):
            reader, writer = await edge.connect()
            writer.write(chunked(request(key)))
            if pause:
                await until(lambda: bool(edge.at_work))
            writer.write(b"zz\r\n")
            async with asyncio.timeout(60.0):
                assert (await read_response(reader)).status == (403 if pause and key is STRANGER else 400)
                assert await reader.read() == b""
            writer.close()
            await until(lambda: not edge.at_work)
        assert edge.outcomes == ["not-http", "not-registered"]
        assert edge.refused == [], "they are counted already"


@pytest.mark.parametrize("key", [VALIDATOR, STRANGER], ids=["validator", "stranger"])
async def test_a_body_in_too_many_chunks_is_not_read_to_its_end(key: Keypair, caplog: pytest.LogCaptureFixture) -> None:
    """One piece has room for 43,000 of them, each of which costs a few calls."""
    async with quiet(caplog) as edge:
        most = chunked(request()) + b"1\r\nx\r\n" * (PATIENT.chunks - 1) + b"0\r\n\r\n"
        assert (await edge.ask(most)).status == 200
        (response,) = await everything(edge, chunked(request(key)) + b"1\r\nx\r\n" * (PATIENT.chunks + 1))
        assert (response.status, "chunks" in response.json["message"]) == (400, True)
    assert edge.outcomes == ["answered", "not-http" if key is VALIDATOR else "not-registered"]


async def test_trailers_are_not_read(caplog: pytest.LogCaptureFixture) -> None:
    """They would stand among the headers, unjudged, and have no end."""
    async with quiet(caplog) as edge:
        for trailer in (b"content-length: many\r\n", b"a: b\r\n" * 10_000):
            (response,) = await everything(edge, chunked(request()) + b"0\r\n" + trailer + b"\r\n")
            assert (response.status, "trailers" in response.json["message"]) == (400, True)
    assert edge.outcomes == ["not-http"] * 2


@pytest.mark.parametrize("how", ["closed", "reset"])
async def test_a_caller_that_leaves_before_it_is_known_is_forgotten(how: str, caplog: pytest.LogCaptureFixture) -> None:
    whole = release_11(b"{}" * 500)
    openings = {
        "nothing sent": (b"", []),
        "a head cut off": (request().head()[:200], []),
        "an unproven body cut off": (whole.head() + whole.body[:100], ["disconnected"]),
        "a stranger's body cut off": (request(STRANGER).head() + b"{", ["not-registered"]),
        "a nonce that is held": (request(ahead=EARLY).head(), ["disconnected"]),
    }
    async with quiet(caplog) as edge:
        for name, (sent, outcomes) in openings.items():
            _, writer = await edge.connect()
            writer.write(sent)
            await writer.drain()
            await until(lambda: len(edge.server._open) == 1)
            await until(lambda: not outcomes or bool(edge.at_work))  # noqa: B023
            await leave(writer, how)
            await until(lambda: not edge.server._open and not edge.at_work)
            assert edge.outcomes == outcomes, name
            edge.outcomes.clear()


@pytest.mark.parametrize("how", ["closed", "reset"])
async def test_an_admitted_caller_that_leaves_before_its_answer_is_told_as_gone(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = asyncio.Event()
    answer = answer_after(go_on)
    async with quiet(caplog, answer) as edge:
        _, writer = await edge.connect()
        writer.write(request().bytes())
        await until(lambda: bool(edge.at_work))
        await leave(writer, how)
        await until(lambda: not edge.server._open)
        go_on.set()
        await until(lambda: not edge.at_work)
        assert edge.outcomes == ["gone"]


async def test_an_unproven_body_is_held_to_the_limits_before_its_signature_counts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = Limits(body=1000, body_grace=0.3, linger=0.1)
    body = b'{"image": "aGVsbG8="}'
    long = release_11(b"x" * 1001)
    async with quiet(caplog, limits=limits) as edge:
        assert (await edge.ask(release_11(body).bytes())).status == 200
        assert (await edge.ask(release_11(body, signed=b"{}").bytes())).status == 401
        assert (await edge.ask(long.bytes())).status == 413
        assert (await edge.ask(chunked(long) + b"3e9\r\n" + long.body + b"\r\n0\r\n\r\n")).status == 413
        assert (await edge.ask(release_11(body).head() + body[:3])).status == 408
    assert edge.outcomes == ["answered", "bad-signature", "too-large", "too-large", "too-slow"]


async def test_unproven_bodies_are_held_to_a_limit_together(caplog: pytest.LogCaptureFixture) -> None:
    """Who knows the public keys can send them; a dendrite's caller is proven by its head, and is served meanwhile."""
    limits = Limits(**{**ENDLESS, "unproven": 100_000, "linger": 0.1})  # type: ignore[arg-type]
    image = json.dumps({"image": "aGVsbG8=" * 7500}).encode()  # 60 kB
    async with quiet(caplog, limits=limits) as edge:
        reader, writer = await edge.connect()
        writer.write(release_11(image).bytes()[:-1])
        await until(lambda: bool(edge.at_work))
        crowded = await edge.ask(release_11(image).bytes())
        assert (crowded.status, "ask again" in crowded.json["message"]) == (503, True)
        assert (await edge.ask(Dendrite(VALIDATOR, IDENTITY).request("aGVsbG8=" * 20_000).bytes())).status == 200
        writer.write(image[-1:])
        async with asyncio.timeout(60.0):
            assert (await read_response(reader)).status == 200
        writer.close()
        for _ in range(2):  # what was taken was given back
            assert (await edge.ask(release_11(image).bytes())).status == 200
    assert edge.outcomes == ["crowded", "answered", "answered", "answered", "answered"]


async def test_a_request_that_was_answered_is_freed_without_the_collector() -> None:
    """A request that holds itself keeps its body, 16 MB at most, until the collector comes by, and makes it work."""
    kinds = {
        "valid": (request, 200),
        "unregistered": (lambda: request(STRANGER), 403),
        "forged": (lambda: request(bt_header_dendrite_signature="0x" + "00" * 64), 401),
        "btauth, forged": (lambda: release_11(b"{}", signed=b""), 401),
        "too large": (lambda: request(**{"content-length": "1000000000"}), 413),
    }
    async with serving(IDENTITY, SUBNET, limits=PATIENT) as edge:
        for name, (make, status) in kinds.items():
            gc.collect()
            gc.disable()
            try:
                for _ in range(5):
                    assert (await edge.ask(make().bytes())).status == status
                await until(lambda: not edge.server._open)
                held = [one for one in gc.get_objects() if isinstance(one, RequestResponseCycle)]
                assert held == [], name
            finally:
                gc.enable()


async def test_a_flood_of_unproven_bodies_does_not_keep_smaller_ones_out(caplog: pytest.LogCaptureFixture) -> None:
    """The largest gives way, whoever came first. What the flood holds may come from as many addresses as it likes."""
    limits = Limits(**{**ENDLESS, "unproven": 100_000, "linger": 0.1})  # type: ignore[arg-type]
    async with quiet(caplog, limits=limits) as edge:
        flood = []
        for size in (24_000, 24_100, 24_000, 24_000):
            connection = await edge.connect()
            connection[1].write(release_11(b"x" * size, signed=b"").bytes()[:-1])
            flood.append(connection)
            await until(lambda: edge.at_work == len(flood))
        assert (await edge.ask(release_11(b"x" * 20_000).bytes())).status == 200, "there was room for 4,000 bytes"
        assert (await edge.ask(release_11(b"x" * 60_000).bytes())).status == 503, "it was the largest itself"
        for number, (reader, writer) in enumerate(flood):
            writer.write(b"x")
            async with asyncio.timeout(60.0):
                assert (await read_response(reader)).status == (503 if number == 1 else 401)
            writer.close()
    assert sorted(edge.outcomes) == ["answered", *["bad-signature"] * 3, *["crowded"] * 2]


async def test_a_refused_body_is_let_go_while_its_sender_is_still_listened_to(caplog: pytest.LogCaptureFixture) -> None:
    limits = Limits(**{**ENDLESS, "linger": LONG, "unproven": 4_000_000})  # type: ignore[arg-type]
    large, smaller = release_11(bytes(5_000_000)), release_11(bytes(200_000)).bytes()
    async with quiet(caplog, limits=limits) as edge:
        reader, writer = await edge.connect()
        tracemalloc.start()
        try:
            writer.write(large.head())
            for at in range(0, 3_900_000, 100_000):
                writer.write(large.body[at : at + 100_000])
                await writer.drain()
            await until(lambda: tracemalloc.get_traced_memory()[0] > 3_500_000)
            assert (await edge.ask(smaller)).status == 200
            async with asyncio.timeout(60.0):
                assert (await read_response(reader)).status == 503
            assert edge.at_work == 1
            assert tracemalloc.get_traced_memory()[0] < 1_000_000
        finally:
            tracemalloc.stop()
        writer.close()


async def test_at_the_cap_a_connection_that_was_admitted_once_is_kept_before_those_that_never_were(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A validator keeps its connection between two challenges; a flood of strangers' must not cost it that."""
    limits = Limits(**{**ENDLESS, "connections": 3})  # type: ignore[arg-type]
    async with quiet(caplog, limits=limits) as edge:
        opened = []
        for sent, status in ((request(), 200), (request(STRANGER), 403)):
            reader, writer = await edge.connect()
            writer.write(sent.bytes())
            assert (await read_response(reader)).status == status
            opened.append((reader, writer))
        for gone in (None, 1, 2):  # the idle stranger, then the oldest that has a request at work
            opened.append(await edge.connect())
            opened[-1][1].write(release_11(b"{}").bytes()[:-1])  # never proven
            await until(lambda: edge.at_work == min(len(opened) - 2, 2))
            if gone:
                async with asyncio.timeout(60.0):
                    assert await opened[gone][0].read() == b""
        reader, writer = opened[0]
        writer.write(request().bytes())
        async with asyncio.timeout(60.0):
            assert (await read_response(reader)).status == 200
        for _, writer in opened:
            writer.close()
    assert edge.outcomes == ["answered", "not-registered", "disconnected", "answered", "disconnected", "disconnected"]


async def test_requests_held_unproven_do_not_fill_the_table_of_connections(caplog: pytest.LogCaptureFixture) -> None:
    """They need no key, only a validator's public one. The oldest makes room; what is admitted is left alone."""
    go_on = asyncio.Event()
    answer = answer_after(go_on)
    limits = Limits(**{**ENDLESS, "connections": 3})  # type: ignore[arg-type]
    async with quiet(caplog, answer, limits=limits) as edge:
        opened = []
        for sent in (request().bytes(), release_11(b"{}").bytes()[:-1], request(ahead=EARLY).head()):
            opened.append(await edge.connect())
            opened[-1][1].write(sent)
            await until(lambda: edge.at_work == len(opened))
        served = asyncio.ensure_future(edge.ask(request().bytes()))
        (admitted, _), (held, _), _ = opened
        async with asyncio.timeout(60.0):
            assert await held.read() == b"", "the oldest that is not admitted"
            go_on.set()
            assert [(await served).status, (await read_response(admitted)).status] == [200, 200]
        for _, writer in opened:
            writer.close()


# A miner that stops, and one that is at fault.


async def stopped_with(edge: Edge, sent: bytes) -> Response:
    """The answer to a request that the server has taken and then gives up. The connection is closed behind it."""
    reader, writer = await edge.connect()
    writer.write(sent)
    await until(lambda: bool(edge.at_work))
    await asyncio.sleep(0)
    await edge.server.stop()
    async with asyncio.timeout(60.0):
        response = await read_response(reader)
        assert await reader.read() == b""
    writer.close()
    await until(lambda: not edge.at_work)
    return response


@pytest.mark.parametrize("waits", ["held nonce", "body", "unproven body"])
async def test_a_request_not_yet_judged_is_told_that_the_miner_stops(
    waits: str, caplog: pytest.LogCaptureFixture
) -> None:
    sent = {
        "held nonce": request(ahead=EARLY).bytes(),
        "body": request().head(),
        "unproven body": release_11(b"{}").head(),
    }
    async with serving(IDENTITY, SUBNET, limits=Limits(**ENDLESS)) as edge:  # type: ignore[arg-type]
        response = await stopped_with(edge, sent[waits])
    assert (response.status, response.headers["bt_header_axon_status_code"]) == (503, "503")
    assert "stopping" in response.json["message"]
    assert edge.outcomes == ["stopping"]
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_refusal_is_still_said_when_the_miner_stops(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(IDENTITY, SUBNET, limits=PATIENT) as edge:
        response = await stopped_with(edge, request(STRANGER).head())  # it waits for the small body first
    assert response.status == 403
    assert edge.outcomes == ["not-registered"]
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_fault_of_ours_is_told_as_one_and_logged_and_the_next_is_served(
    caplog: pytest.LogCaptureFixture,
) -> None:
    views = iter([RuntimeError("no view")])

    def snapshot() -> Snapshot:
        for error in views:
            raise error
        return SUBNET()

    async with serving(IDENTITY, snapshot) as edge:
        reader, writer = await edge.connect()
        writer.write(request().bytes())
        response = await read_response(reader)
        assert (response.status, response.headers["bt_header_axon_status_code"]) == (500, "500")
        assert "its log says more" in json.loads(response.body)["message"]
        writer.write(request().bytes())
        assert (await read_response(reader)).status == 200
        writer.close()
    assert edge.outcomes == ["fault", "answered"]
    (logged,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert logged.exc_info is not None
    assert str(logged.exc_info[1]) == "no view"


async def test_anybody_may_be_let_in_and_is_held_to_the_same_heads(caplog: pytest.LogCaptureFixture) -> None:
    """A hotkey that is none reaches the signature check where registration is not asked for."""
    async with quiet(caplog, rules=Rules(allow_non_registered=True)) as edge:
        for hotkey in ("x", "\xff", "5" * 48, " "):
            sent = request(bt_header_dendrite_hotkey=hotkey).bytes()
            assert (await edge.ask(sent)).status in (401, 403)
