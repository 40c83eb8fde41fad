"""uvicorn's HTTP/1.1 protocol with the limits that it lacks, and a server that starts and drains inside a running loop.

Knows nothing of what is served. Times in seconds, sizes in bytes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from itertools import chain
from typing import Any
from weakref import proxy

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

log = logging.getLogger(__name__)
# ASGI extensions, all callables: whether the whole body is here; send (status, headers, body) in one piece, and tell
# whether there still was a client to send it to; be told that the client may ask, so that it keeps its connection;
# whether the connection was closed because what came was no HTTP.
BODY_ARRIVED, WHOLE_RESPONSE, ADMITTED, BROKEN = "body_arrived", "whole_response", "admitted", "broken"
http_log = logging.getLogger(f"{__name__}.http")


@dataclass(frozen=True, slots=True)
class Limits:
    """What strangers may cost. Sizes in bytes, times in seconds, rates in bytes per second.

    head, body: greatest sizes. headers, chunks: greatest numbers in a head and a body, since each costs a call.
    unproven: of all bodies together that are read before their signature can be checked (`btauth/1`); beyond, the
    largest gives way. drop: largest refused body that is read to its end, to keep the connection; of a larger one
    `linger` seconds are read and dropped, so that the refusal reaches its sender, and the connection is closed.
    head_seconds: from connecting, or from a request's first byte, to the end of its head.
    body_seconds: for the whole body, which has `body_grace` seconds before it must keep up with `body_rate`.
    idle_seconds: between two requests of a connection; longer than a dendrite's own 15 s, so that it closes first and
    never sends into a closing connection. request_seconds: from the end of the head to the end of the answer.
    connections: open at once; beyond, one whose caller is not admitted makes room for a new one. pipelined: requests
    that may wait behind the one at work on their connection. in_flight, waiting: requests at work, and waiting for
    work. reserve: seconds of the caller's time that waiting may not use.
    patience: longest wait for a nonce that is ahead of our clock to become acceptable.
    """

    head: int = 16 * 2**10
    headers: int = 100
    body: int = 16 * 2**20
    chunks: int = 1024
    unproven: int = 24 * 2**20
    drop: int = 64 * 2**10
    head_seconds: float = 6.0
    body_seconds: float = 8.0
    body_grace: float = 2.0
    body_rate: float = 16 * 2**10
    idle_seconds: float = 30.0
    request_seconds: float = 30.0
    linger: float = 0.5
    connections: int = 512
    pipelined: int = 8
    in_flight: int = 32
    waiting: int = 256
    reserve: float = 3.0
    patience: float = 2.0


class _TooMuch(Exception):
    """Raised inside the parser's callback; the parser turns it into a failed request, and reads no further."""


async def _respond(
    cycle: RequestResponseCycle, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes
) -> bool:
    """Send a whole response in one write; False when the client had left.

    uvicorn's `send` takes two writes and checks every header; ours are our own.
    """
    if cycle.flow.write_paused and not cycle.disconnected:
        await cycle.flow.drain()
    if cycle.disconnected:
        return False
    lines = [STATUS_LINE[status]]
    for name, value in chain(cycle.default_headers, headers):
        lines += (name, b": ", value, b"\r\n")
    lines.append(b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n")
    if cycle.scope["method"] != "HEAD":
        lines.append(body)
    cycle.response_started = cycle.response_complete = True
    cycle.message_event.set()
    cycle.transport.write(b"".join(lines))
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True


class _Connection(HttpToolsProtocol):
    """uvicorn's protocol with a time by which the next thing is due: a head, an answer, another request.

    uvicorn stops its only clock (keep-alive) at the first byte, so a client that sends one byte a minute stays for
    ever; and it has no limit of its own to a head's size.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        state: ServerState,
        limits: Limits,
        peers: dict[_Connection, None],
        refused: Callable[[str], None],
    ) -> None:
        super().__init__(config=config, server_state=state, app_state={})
        self.logger = http_log
        self.access_log = False
        self.limits = limits
        self.due = self.loop.time() + limits.head_seconds  # the server cuts whoever is overdue
        self._peers = peers
        self._refused = refused
        self._head = 0  # bytes since the head began
        self._in_head = True
        self._most_headers = self._chunks = 0
        self._too_large = False
        self._admitted = False  # whether the caller of the request at work is
        self._known = False  # whether any caller was
        self._broken = False  # what follows what is not HTTP is not looked at

    @property
    def idle(self) -> bool:
        """No request has been taken, or the last was answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._make_room()
        self._peers[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._peers.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._broken:
            return
        if self.idle and not self._in_head:
            self._in_head = True
            self.due = self.loop.time() + self.limits.head_seconds
        self._head += len(data)
        super().data_received(data)
        if self._in_head and self._head > self.limits.head and not self.transport.is_closing():
            self._too_large = True
            self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._most_headers = self.limits.headers
        if not self.idle:  # a client that does not wait for its answer: the next head is held to the same size
            self._in_head, self._head = True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """uvicorn's, with an end, and without trailers: they would join the head, which is judged already."""
        if len(self.headers) >= self._most_headers:
            self._too_large = self._in_head
            raise _TooMuch
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._head > self.limits.head or not self.idle:  # with what came beside it in the same piece
            self._too_large = len(self.url) + sum(map(len, chain.from_iterable(self.headers))) > self.limits.head
            if self._too_large:
                raise _TooMuch
        if len(self.pipeline) >= self.limits.pipelined:
            raise _TooMuch
        self._in_head, self._most_headers, self._chunks = False, 0, 0
        self.due = self.loop.time() + self.limits.request_seconds
        super().on_headers_complete()
        # Both hold the scope: a circle would keep each body until the next collection.
        cycle, connection = proxy(self.cycle), proxy(self)
        extensions: Any = {
            BODY_ARRIVED: lambda: not cycle.more_body,
            WHOLE_RESPONSE: partial(_respond, cycle),
            ADMITTED: partial(_Connection._let_in, connection),
            BROKEN: lambda: connection._broken,
        }
        self.scope["extensions"] = extensions

    def _let_in(self) -> None:
        self._admitted = self._known = True

    def on_chunk_header(self) -> None:
        self._chunks += 1
        if self._chunks > self.limits.chunks:
            raise _TooMuch

    def on_response_complete(self) -> None:
        """uvicorn's, without its timer for idle connections: `due` is looked at once a second for all of them."""
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        self._admitted = False
        limits = self.limits
        if not self._in_head:
            self._head = 0
        waits = limits.head_seconds if self._in_head else limits.idle_seconds
        self.due = self.loop.time() + (limits.request_seconds if self.pipeline else waits)
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def send_400_response(self, msg: str) -> None:
        """Say no and close, but never in place of an answer: the requests that came before are answered first."""
        self._broken = True
        cycle = self.cycle
        if self.pipeline or not (self.idle or cycle.more_body):
            cycle.keep_alive = False  # it is the last that is answered
            self.flow.pause_reading()
            return
        if not self.idle and cycle.response_started:  # it was refused already, and its body is being dropped
            self.transport.close()
            return
        reason, status, text = (
            "not-http",
            b"400 Bad Request",
            f"expected an HTTP/1.1 request, without trailers and in at most {self.limits.chunks} chunks",
        )
        if self._too_large:
            reason, status, text = (
                "head-too-large",
                b"431 Request Header Fields Too Large",
                f"expected a head of at most {self.limits.head} bytes and {self.limits.headers} headers",
            )
        if self.idle:  # else the application has the request, and counts it
            self._refused(reason)
        body = json.dumps({"message": text}).encode()
        head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(head % (status, len(body)) + body)
        self.transport.close()

    def _make_room(self) -> None:
        """At the cap the oldest goes whose caller was never admitted, idle ones first; or else is not now; or this."""
        if len(self._peers) < self.limits.connections:
            return
        idle_strangers = (peer for peer in self._peers if peer.idle and not peer._known)
        strangers = (peer for peer in self._peers if not peer._known)
        idle = (peer for peer in self._peers if peer.idle)
        unproven = (peer for peer in self._peers if not peer._admitted)
        gone = next(idle_strangers, None) or next(strangers, None) or next(idle, None) or next(unproven, self)
        gone.transport.abort()
        self._peers.pop(gone, None)


class Server:
    """Serves an ASGI application inside the caller's running event loop.

    host: an address; None for every address, IPv4 and IPv6. port: 0 lets the system choose one (see `port`).
    refused: told of every request that got 400 or 431 and never reached the application: "not-http", "head-too-large";
    must not block or raise.
    """

    def __init__(
        self,
        app: Any,
        host: str | None,
        port: int,
        limits: Limits | None = None,
        refused: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.port = port
        self._host = host
        self._limits = limits or Limits()
        self._refused = refused
        self._config = uvicorn.Config(
            app,
            http=_Connection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            proxy_headers=False,
        )
        self._state = ServerState()
        self._open: dict[_Connection, None] = {}  # in order of arrival
        self._listeners: list[asyncio.Server] = []
        self._clock: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Listen. Raises OSError when the address cannot be had (port taken, not ours)."""
        http_log.setLevel(logging.ERROR)  # a stranger's broken request is no news
        self._config.load()
        loop = asyncio.get_running_loop()
        for listener in _listen(self._host, self.port):
            self.port = listener.getsockname()[1]
            self._listeners.append(await loop.create_server(self._connect, sock=listener, backlog=2048))
        self._tick()

    async def drain(self, seconds: float) -> bool:
        """Take no new request, finish those at work within `seconds`, then stop. True when all were finished."""
        for listener in self._listeners:
            listener.close()
        for connection in list(self._open):
            connection.shutdown()
        if self._state.tasks:
            await asyncio.wait(list(self._state.tasks), timeout=seconds)
        finished = not self._state.tasks
        await self.stop()
        return finished

    async def stop(self) -> None:
        """Close everything now. Safe to call twice."""
        if self._clock is not None:
            self._clock.cancel()
        for listener in self._listeners:
            listener.close()
        tasks = list(self._state.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)  # a cancelled request may still have a word to say
        for connection in list(self._open):
            connection.transport.close()
        await asyncio.sleep(0)

    def _connect(self) -> _Connection:
        return _Connection(self._config, self._state, self._limits, self._open, self._refused)

    def _tick(self) -> None:
        """Once a second: cut who is overdue, and move the date that answers carry."""
        loop = asyncio.get_running_loop()
        for connection in [one for one in self._open if one.due < loop.time()]:
            connection.transport.abort()
        self._state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        self._clock = loop.call_later(1.0, self._tick)


def _listen(host: str | None, port: int) -> list[socket.socket]:
    """Bound sockets: one for an address; for None, one per family that this machine has, on the same port."""
    if host is not None:
        return [_bind(socket.AF_INET6 if ":" in host else socket.AF_INET, host, port)]
    found = [_bind(socket.AF_INET, "0.0.0.0", port)]
    try:
        found.append(_bind(socket.AF_INET6, "::", found[0].getsockname()[1], only=True))
    except OSError as error:
        log.warning("serving IPv4 only: %s", error)
    return found


def _bind(family: socket.AddressFamily, host: str, port: int, only: bool = False) -> socket.socket:
    # asyncio turns Nagle's algorithm off only where the protocol is named; with it on, an answer can wait for 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if only:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
