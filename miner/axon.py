"""The port that validators reach: an ASGI application that speaks a stock 10.5.0 axon's wire, and its server.

    POST /ImageSynapse   one picture, answered
    POST /Synapse        the SDK's ping, answered to callers that the gate admits

A request comes in three steps: the head is judged by the gate before the body is read (a `btauth/1` request is
screened then, and judged once its body is there, which its signature covers); the body is read within caps of size and
time; the answer is waited for in a queue ordered by the callers' stake. After the gate has admitted a caller nothing
but a finite prediction in [0, 1] leaves, whatever fails; before, a short JSON message and the status a dendrite knows.

What a stock axon does and this one does not is listed, with the reason, in tests/test_axon.py.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import logging
import math
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any, Final

import uvicorn
from bittensor_wallet import CRYPTO_ED25519, CRYPTO_SR25519, Keypair
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from miner import btauth, gate
from miner.gate import Admission, Claim, Gate, NonceAhead, Refusal, TooLarge, TooSlow, UnknownPath, WrongMethod
from miner.priority import Lanes

log = logging.getLogger(__name__)
http_log = logging.getLogger(f"{__name__}.http")

Answer = Callable[[str, float, str, int], Awaitable[float]]
"""(image_base64, seconds left, caller's hotkey, testnet label) -> probability of road work."""
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Header = tuple[bytes, bytes]

SCHEMES: Final = {"sr25519": CRYPTO_SR25519, "ed25519": CRYPTO_ED25519}
NAMES: Final = ("Synapse", "ImageSynapse")
EMPTY_HASH: Final = "a7ffc6f8bf1ed76651c14756a061d662f580ff4de43b49fa82d80a4b80f8434a"  # SHA3-256 of nothing
BACKSTOP: Final = 0.95  # of the caller's time: an answer that hangs is given up, and the prior still arrives
CLOSE: Final = (b"connection", b"close")


@dataclass(frozen=True, slots=True)
class Limits:
    """What strangers may cost. Sizes in bytes, times in seconds, rates in bytes per second.

    head, body: greatest sizes. drop: largest refused body that is read to its end, to keep the connection; a larger one
    is read and dropped for `linger` seconds only, so that the refusal reaches its sender, and the connection closed.
    head_seconds: from connecting, or from a request's first byte, to the end of its head.
    body_seconds: for the whole body, which has `body_grace` seconds before it must keep up with `body_rate`.
    idle_seconds: between two requests of a connection; longer than a dendrite's own 15 s, so that it closes first and
    never sends into a closing connection. request_seconds: from the end of the head to the end of the answer.
    connections: open at once; the oldest idle one makes room for a new one. in_flight, waiting: requests at work, and
    waiting for work. reserve: seconds of the caller's time that waiting may not use. patience: longest wait for a nonce
    that is ahead of our clock to become acceptable.
    """

    head: int = 16 * 2**10
    body: int = 16 * 2**20
    drop: int = 64 * 2**10
    head_seconds: float = 8.0
    body_seconds: float = 8.0
    body_grace: float = 2.0
    body_rate: float = 16 * 2**10
    idle_seconds: float = 30.0
    request_seconds: float = 30.0
    connections: int = 512
    in_flight: int = 32
    waiting: int = 256
    reserve: float = 3.0
    linger: float = 0.5
    patience: float = 2.0


def verify_signature(hotkey: str, message: bytes, signature: bytes, scheme: str) -> bool:
    """True when `signature` is the hotkey's over `message`; False for anything else, a hotkey that is none included."""
    try:
        return bool(Keypair(ss58_address=hotkey, crypto_type=SCHEMES[scheme]).verify(message, signature))
    except ValueError:
        return False


def sdk_version() -> int:
    """The installed SDK's version as the wire counts it: 10.5.0 is 10005000."""
    major, minor, patch = (int(part) for part in importlib.metadata.version("bittensor").split(".")[:3])
    return (major * 1000 + minor) * 1000 + patch


class _Gone(Exception):
    """The client closed the connection."""


class _Body:
    """The body of one request: read within the limits, or dropped."""

    def __init__(self, headers: Mapping[str, str], receive: Receive, limits: Limits) -> None:
        self.ended = False
        self._receive = receive
        self._limits = limits
        self._declared = int(headers.get("content-length", "0"))
        # A client that waits for "100 Continue" must not be told to go on with a body that nobody wants.
        self._small = self._declared <= limits.drop and not {"transfer-encoding", "expect"} & headers.keys()

    async def read(self) -> bytes:
        """All of it. Raises TooLarge, TooSlow or _Gone."""
        limits = self._limits
        if self._declared > limits.body:
            raise TooLarge(f"expected at most {limits.body} bytes, got a content-length of {self._declared}")
        loop = asyncio.get_running_loop()
        began = loop.time()
        body = bytearray()
        while not self.ended:
            due = began + min(limits.body_seconds, limits.body_grace + len(body) / limits.body_rate)
            try:
                async with asyncio.timeout_at(due):
                    body += await self._next()
            except TimeoutError:
                spent = loop.time() - began
                raise TooSlow(f"got {len(body)} bytes of the body in {spent:.1f} s: too slow") from None
            if len(body) > limits.body:
                raise TooLarge(f"expected at most {limits.body} bytes")
        return bytes(body)

    async def drop_if_small(self) -> None:
        """Let a small body end, so that the connection can serve the next request."""
        if self._small:
            await self.drop()

    async def drop(self) -> None:
        """Read and throw away for a moment, so that the client is done sending and looks at the answer."""
        try:
            async with asyncio.timeout(self._limits.linger):
                while not self.ended:
                    await self._next()
        except (TimeoutError, _Gone):
            pass

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        self.ended = not message.get("more_body")
        part: bytes = message["body"]
        return part


class Axon:
    """The ASGI application.

    answer: the service's answer. cheap_answer: of the same signature, called instead when the queue sheds a request;
    it must need no queue itself (the cheapest tier, or the prior). prior: sent when either raises or answers no
    probability. observe: told of every request, (outcome, seconds): "answered", "shed", "guarded", or a refusal's
    reason; must not block or raise.
    """

    def __init__(
        self,
        gate: Gate,
        answer: Answer,
        cheap_answer: Answer,
        limits: Limits | None = None,
        prior: float = 0.5,
        observe: Callable[[str, float], None] = lambda outcome, seconds: None,
    ) -> None:
        self.limits = limits or Limits()
        self._gate = gate
        self._answer = answer
        self._cheap_answer = cheap_answer
        self._prior = prior
        self._observe = observe
        self._lanes = Lanes(self.limits.in_flight, self.limits.waiting)
        self._own_headers: list[Header] = [
            (b"content-type", b"application/json"),
            (b"bt_header_axon_hotkey", gate.identity.encode()),
            (b"bt_header_axon_version", str(sdk_version()).encode()),
            (b"bt_header_axon_uuid", str(uuid.uuid1()).encode()),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        body = _Body(headers, receive, self.limits)
        try:
            outcome, reply = await self._serve(scope, headers, body, started)
            name = reply["name"].encode()
            await _send(
                send, 200, [*self._own_headers, *_echo(name, headers), *_status(200, "Success", started)], reply
            )
        except Refusal as refusal:
            outcome = refusal.reason
            log.debug("refused (%s): %s", outcome, refusal)
            await self._refuse(refusal, body, send, started)
        except _Gone:
            outcome = "disconnected"
        self._observe(outcome, time.perf_counter() - started)

    async def _serve(
        self, scope: Scope, headers: Mapping[str, str], body: _Body, started: float
    ) -> tuple[str, dict[str, Any]]:
        """The outcome and the JSON of a 200. Raises Refusal or _Gone."""
        name = scope["path"][1:]
        if name not in NAMES:
            raise UnknownPath(f"Synapse name '{_printable(name)}' not found. Available synapses {list(NAMES)}")
        if scope["method"] != "POST":
            raise WrongMethod("expected POST")
        if btauth.VERSION_HEADER in headers:
            claim = await self._timely(btauth.read_claim(headers), self._gate.screen)
            content = await body.read()
            admission = self._gate.prove(btauth.cover(claim, scope["method"], _target(scope), content))
        else:
            claim = await self._timely(gate.read_claim(headers), self._gate.screen)
            admission = self._gate.prove(claim)
            content = await body.read()
        if name == "Synapse":
            return "ping", _reply(name, claim, headers, started)
        image, label = _read_synapse(content)
        outcome, prediction = await self._predict(image, label, admission, started)
        reply = _reply(name, claim, headers, started)
        return outcome, {**reply, "image": image, "prediction": prediction, "testnet_label": label}

    async def _timely(self, claim: Claim, screen: Callable[[Claim], None]) -> Claim:
        """The claim, screened; one that is a little ahead of our clock is held until it is not."""
        try:
            screen(claim)
        except NonceAhead as early:
            if early.wait > self.limits.patience:
                raise
            await asyncio.sleep(early.wait)
            screen(claim)
        return claim

    async def _predict(self, image: str, label: int, admission: Admission, started: float) -> tuple[str, float]:
        """The outcome and a finite probability, always, within the time the caller gave."""

        def left() -> float:
            return max(0.0, admission.timeout - (time.perf_counter() - started))

        if not await self._lanes.enter(admission.priority, patience=left() - self.limits.reserve):
            return await self._guard(self._cheap_answer, image, label, admission, left(), "shed")
        try:
            return await self._guard(self._answer, image, label, admission, left(), "answered")
        finally:
            self._lanes.leave()

    async def _guard(
        self, answer: Answer, image: str, label: int, admission: Admission, left: float, outcome: str
    ) -> tuple[str, float]:
        try:
            async with asyncio.timeout(left * BACKSTOP):
                probability = float(await answer(image, left, admission.hotkey, label))
            if 0.0 <= probability <= 1.0:
                return outcome, probability
            log.error(
                "%s got the prior: expected a probability in [0, 1], the answer was %r", admission.hotkey, probability
            )
        except Exception:
            log.exception("%s got the prior: no answer came", admission.hotkey)
        return "guarded", self._prior

    async def _refuse(self, refusal: Refusal, body: _Body, send: Send, started: float) -> None:
        """Say no. The connection goes on if the body has ended; else it is closed, not before the no could be read."""
        await body.drop_if_small()
        fields = [*self._own_headers, *_status(refusal.status, str(refusal), started)]
        if not body.ended:
            fields.append(CLOSE)
        await _send(send, refusal.status, fields, {"message": str(refusal)}, more=not body.ended)
        if not body.ended:
            await body.drop()
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def _read_synapse(body: bytes) -> tuple[str, int]:
    """(image, testnet label) of a request's JSON; what is missing or of the wrong type counts as not sent.

    The caller is admitted by now, so it gets a number: the service turns an empty picture into the prior.
    """
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        return "", -1
    image, label = fields.get("image"), fields.get("testnet_label")
    return image if isinstance(image, str) else "", label if label in (0, 1) and isinstance(label, int) else -1


def _reply(name: str, claim: Claim, headers: Mapping[str, str], started: float) -> dict[str, Any]:
    """The JSON of a synapse without its own fields, as the SDK's model writes it, from what the caller proved."""
    timeout = claim.timeout if math.isfinite(claim.timeout) else None
    dendrite = {
        "ip": headers.get("bt_header_dendrite_ip"),
        "version": _integer(headers.get("bt_header_dendrite_version")),
        "nonce": claim.nonce,
        "uuid": headers.get("bt_header_dendrite_uuid"),
        "hotkey": claim.hotkey,
        "signature": claim.signature,
    }
    axon = {
        "status_code": 200,
        "status_message": "Success",
        "process_time": time.perf_counter() - started,
        "ip": headers.get("bt_header_axon_ip"),
        "port": _integer(headers.get("bt_header_axon_port")),
        "hotkey": claim.receiver,
    }
    return {
        "name": name,
        "timeout": timeout,
        "total_size": _integer(headers.get("total_size")) or 0,
        "header_size": 0,
        "dendrite": {**TERMINAL, **dendrite},
        "axon": {**TERMINAL, **axon},
        "computed_body_hash": "",
    }


TERMINAL: Final = dict.fromkeys(
    ("status_code", "status_message", "process_time", "ip", "port", "version", "nonce", "uuid", "hotkey", "signature")
)
ECHOED: Final = (
    "timeout",
    "bt_header_axon_ip",
    "bt_header_axon_port",
    "bt_header_dendrite_ip",
    "bt_header_dendrite_version",
    "bt_header_dendrite_nonce",
    "bt_header_dendrite_uuid",
    "bt_header_dendrite_hotkey",
    "bt_header_dendrite_signature",
    "header_size",
    "total_size",
)


def _echo(name: bytes, headers: Mapping[str, str]) -> Iterable[Header]:
    """The headers that a stock axon sends back as they came; only ever to a caller that the gate admitted."""
    yield b"name", name
    yield b"computed_body_hash", EMPTY_HASH.encode()
    for field in ECHOED:
        if field in headers:
            yield field.encode(), headers[field].encode("latin-1")


def _status(code: int, message: str, started: float) -> Iterable[Header]:
    yield b"bt_header_axon_status_code", str(code).encode()
    yield b"bt_header_axon_status_message", message.encode("latin-1", "replace")
    yield b"bt_header_axon_process_time", str(time.perf_counter() - started).encode()


async def _send(send: Send, status: int, headers: list[Header], content: dict[str, Any], more: bool = False) -> None:
    body = json.dumps(content, separators=(",", ":")).encode()
    headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": more})


def _integer(raw: str | None) -> int | None:
    return int(raw) if raw and raw.isdecimal() and len(raw) < 16 else None


def _printable(name: str) -> str:
    """A stranger's path, fit to stand in a header: at most 40 plain characters."""
    return "".join(character for character in name[:40] if character.isascii() and character.isprintable())


def _target(scope: Scope) -> str:
    query = scope["query_string"].decode("latin-1")
    path: str = scope["raw_path"].decode("latin-1")
    return f"{path}?{query}" if query else path


# The server: uvicorn's HTTP/1.1 protocol, with the limits that it lacks.


class _HeadTooLarge(Exception):
    """Raised inside the parser's callback; the parser turns it into a failed request."""


class _Connection(HttpToolsProtocol):
    """uvicorn's protocol with a clock that always runs: for the head, for the request, for the idle time between.

    uvicorn stops its only clock (keep-alive) at the first byte, so a client that sends one byte a minute stays for
    ever; and it has no limit of its own to a head's size.
    """

    def __init__(
        self, config: uvicorn.Config, state: ServerState, limits: Limits, peers: dict[_Connection, None]
    ) -> None:
        super().__init__(config=config, server_state=state, app_state={})
        self._peers = peers
        self.logger = http_log
        self.access_log = False
        self.limits = limits
        self._clock: asyncio.TimerHandle | None = None
        self._head = 0  # bytes of an unfinished head so far
        self._in_head = True
        self._too_large = False

    @property
    def idle(self) -> bool:
        """No request has been taken, or the last was answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._make_room()
        self._peers[self] = None
        self._run_clock(self.limits.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._clock is not None:
            self._clock.cancel()
        self._peers.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.idle and not self._in_head:
            self._in_head = True
            self._run_clock(self.limits.head_seconds)
        if self._in_head:
            self._head += len(data)
        super().data_received(data)
        if self._in_head and self._head > self.limits.head and not self.transport.is_closing():
            self._too_large = True
            self.send_400_response("")

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.limits.head:
            self._too_large = True
            raise _HeadTooLarge
        self._in_head = False
        self._head = 0
        self._run_clock(self.limits.request_seconds)
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        another = bool(self.pipeline)
        super().on_response_complete()
        self._run_clock(self.limits.request_seconds if another else self.limits.idle_seconds)

    def send_400_response(self, msg: str) -> None:
        status, text = b"400 Bad Request", "not an HTTP/1.1 request"
        if self._too_large:
            status, text = (
                b"431 Request Header Fields Too Large",
                f"expected a head of at most {self.limits.head} bytes",
            )
        body = json.dumps({"message": text}).encode()
        head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(head % (status, len(body)) + body)
        self.transport.close()

    def _make_room(self) -> None:
        """At the cap, the oldest connection that never asked goes, else the oldest idle one, else this one."""
        if len(self._peers) < self.limits.connections:
            return
        silent = (peer for peer in self._peers if peer.cycle is None)
        idle = (peer for peer in self._peers if peer.idle)
        gone = next(silent, None) or next(idle, self)
        gone.transport.abort()
        self._peers.pop(gone, None)

    def _run_clock(self, seconds: float) -> None:
        if self._clock is not None:
            self._clock.cancel()
        self._clock = self.loop.call_later(seconds, self.transport.abort)


class Server:
    """Serves an `Axon` inside the caller's running event loop.

    host: an address; None for every address, IPv4 and IPv6. port: 0 lets the system choose one (see `port`).
    """

    def __init__(self, axon: Axon, host: str | None, port: int) -> None:
        self.port = port
        self._host = host
        self._limits = axon.limits
        self._config = uvicorn.Config(
            axon,
            http=_Connection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            proxy_headers=False,
            timeout_keep_alive=math.ceil(axon.limits.idle_seconds) + 1,  # ours comes first
        )
        self._state = ServerState()
        self._open: dict[_Connection, None] = {}  # in order of arrival
        self._listeners: list[asyncio.Server] = []
        self._date: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Listen. Raises OSError when the address cannot be had (port taken, not ours)."""
        http_log.setLevel(logging.ERROR)  # a stranger's broken request is no news
        self._config.load()
        loop = asyncio.get_running_loop()
        for listener in _listen(self._host, self.port):
            self.port = listener.getsockname()[1]
            self._listeners.append(await loop.create_server(self._connect, sock=listener, backlog=2048))
        self._stamp()

    async def drain(self, seconds: float) -> bool:
        """Take no new request, finish those at work within `seconds`, then stop. True when all were finished."""
        for listener in self._listeners:
            listener.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        if self._state.tasks:
            await asyncio.wait(list(self._state.tasks), timeout=seconds)
        finished = not self._state.tasks
        await self.stop()
        return finished

    async def stop(self) -> None:
        """Close everything now. Safe to call twice."""
        if self._date is not None:
            self._date.cancel()
        for listener in self._listeners:
            listener.close()
        for task in list(self._state.tasks):
            task.cancel()
        for connection in list(self._state.connections):
            connection.transport.close()
        await asyncio.sleep(0)

    def _connect(self) -> _Connection:
        return _Connection(self._config, self._state, self._limits, self._open)

    def _stamp(self) -> None:
        self._state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        self._date = asyncio.get_running_loop().call_later(1.0, self._stamp)


def _listen(host: str | None, port: int) -> list[socket.socket]:
    """Bound sockets: one for an address; for None, one per family that this machine has, on the same port."""
    if host is not None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return [_bind(family, host, port)]
    found = [_bind(socket.AF_INET, "0.0.0.0", port)]
    if socket.has_dualstack_ipv6():
        try:
            found.append(_bind(socket.AF_INET6, "::", found[0].getsockname()[1]))
        except OSError:
            log.info("no IPv6 here: serving IPv4 only")
    return found


def _bind(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    # asyncio turns Nagle's algorithm off only where the protocol is named; with it on, each answer waits 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
