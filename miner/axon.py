"""The port that validators reach: an ASGI application that speaks a stock 10.5.0 axon's wire, run by `miner.server`.

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
import json
import logging
import math
import string
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final

import sr25519
from bittensor_wallet import CRYPTO_ED25519, CRYPTO_SR25519, Keypair

from miner import btauth, gate
from miner.gate import (
    Admission,
    Claim,
    Fault,
    Gate,
    NonceAhead,
    Refusal,
    Stopping,
    TooLarge,
    TooSlow,
    UnknownPath,
    WrongMethod,
)
from miner.priority import Lanes
from miner.server import ADMITTED, BODY_ARRIVED, BROKEN, WHOLE_RESPONSE, Limits, Server
from miner.unproven import Unproven

__all__ = ["Answer", "Axon", "Limits", "Server", "verify_signature"]

log = logging.getLogger(__name__)

Answer = Callable[[str, float, str, int], Awaitable[float]]
"""(image_base64, seconds left, caller's hotkey, testnet label) -> probability of road work."""
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Header = tuple[bytes, bytes]

SCHEMES: Final = {"sr25519": CRYPTO_SR25519, "ed25519": CRYPTO_ED25519}
NAMES: Final = ("Synapse", "ImageSynapse")
MOST_VALUES: Final = 1000  # in a request's JSON: a dendrite sends forty, and a million would hold the loop for seconds
EMPTY_HASH: Final = b"a7ffc6f8bf1ed76651c14756a061d662f580ff4de43b49fa82d80a4b80f8434a"  # SHA3-256 of nothing
BACKSTOP: Final = 0.95  # of the caller's time: an answer that hangs is given up, and the prior still arrives
BASE64: Final = string.ascii_letters.encode() + string.digits.encode() + b"+/="
CLOSE: Final = (b"connection", b"close")
encode_json: Final = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps would make one for every call


def verify_signature(hotkey: str, message: bytes, signature: bytes, scheme: str) -> bool:
    """True when `signature` is the hotkey's over `message`; False for anything else, a hotkey that is none included.

    The wallet library checks a wrong sr25519 signature a second time, wrapped as browser wallets sign and no dendrite
    does. The binding to the same library checks once, so that a forgery costs half.
    """
    try:
        key = _public_key(hotkey, scheme)
        if scheme == "sr25519":
            return bool(sr25519.verify(signature, message, key.public_key))
        return bool(key.verify(message, signature))
    except ValueError:
        return False


@lru_cache(maxsize=1024)
def _public_key(hotkey: str, scheme: str) -> Keypair:
    return Keypair(ss58_address=hotkey, crypto_type=SCHEMES[scheme])


class _Gone(Exception):
    """The client closed the connection."""


class _Body:
    """The body of one request: read within the limits, or dropped."""

    def __init__(self, scope: Scope, headers: Mapping[str, str], receive: Receive, limits: Limits) -> None:
        self.ended = False
        # Most bodies are there before anybody asks for them; the server then says so, and no clock needs to be set.
        self._arrived: Callable[[], bool] = scope.get("extensions", {}).get(BODY_ARRIVED, lambda: False)
        self._receive = receive
        self._limits = limits
        self._declared = int(headers.get("content-length", "0"))
        # A client that waits for "100 Continue" must not be told to go on with a body that nobody wants.
        self._small = self._declared <= limits.drop and not {"transfer-encoding", "expect"} & headers.keys()

    async def read(self, take: Callable[[int], None] = lambda size: None) -> bytes:
        """All of it. take: told of each part's size; may refuse. Raises TooLarge, TooSlow, _Gone and what it raises."""
        limits = self._limits
        if self._declared > limits.body:
            raise TooLarge(f"expected at most {limits.body} bytes, got a content-length of {self._declared}")
        loop = asyncio.get_running_loop()
        began = loop.time()
        parts: list[bytes] = []
        size = 0
        while not self.ended:
            if self._arrived():
                parts.append(await self._next())
            else:
                due = began + min(limits.body_seconds, limits.body_grace + size / limits.body_rate)
                try:
                    async with asyncio.timeout_at(due):
                        parts.append(await self._next())
                except TimeoutError:
                    raise TooSlow(f"got {size} bytes of the body in {loop.time() - began:.1f} s: too slow") from None
            size += len(parts[-1])
            if size > limits.body:
                raise TooLarge(f"expected at most {limits.body} bytes")
            take(len(parts[-1]))
        return b"".join(parts)

    async def drop_if_small(self) -> None:
        """Let a small body end, so that the connection can serve the next request."""
        if self._arrived():
            self.ended = True
        elif self._small:
            await self.drop()

    async def drop(self) -> None:
        """Read and throw away for a moment, so that the client is done sending and looks at the answer.

        A server that stops cuts the moment short; what is to be said is still said.
        """
        with suppress(TimeoutError, _Gone, asyncio.CancelledError):
            async with asyncio.timeout(self._limits.linger):
                while not self.ended:
                    await self._next()

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
    it must need no queue itself (the cheapest tier, or the prior). prior: what to send now when either raises or
    answers no probability. observe: told of every request, (outcome, seconds): "answered", "shed", "guarded", "ping",
    "gone" (its caller left before the answer), or a refusal's reason; must not block or raise.
    """

    def __init__(
        self,
        gate: Gate,
        answer: Answer,
        cheap_answer: Answer,
        limits: Limits | None = None,
        prior: Callable[[], float] = lambda: 0.5,
        observe: Callable[[str, float], None] = lambda outcome, seconds: None,
    ) -> None:
        self.limits = limits or Limits()
        self._gate = gate
        self._answer = answer
        self._cheap_answer = cheap_answer
        self._prior = prior
        self._observe = observe
        self.lanes = Lanes(self.limits.in_flight, self.limits.waiting)
        self._unproven = Unproven(self.limits.unproven)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        body = _Body(scope, headers, receive, self.limits)
        try:
            outcome, name, reply = await self._serve(scope, headers, body, started)
            fields = [*_echo(name, headers), *_status(200, "Success", started)]
            if not await _send(scope, send, 200, fields, reply):
                outcome = "gone"
        except _Gone:
            outcome = "not-http" if scope.get("extensions", {}).get(BROKEN, lambda: False)() else "disconnected"
        except (Exception, asyncio.CancelledError) as error:
            refusal = _refusal(error)
            outcome = refusal.reason
            await self._refuse(refusal, scope, body, send, started)
        self._observe(outcome, time.perf_counter() - started)

    async def _serve(
        self, scope: Scope, headers: Mapping[str, str], body: _Body, started: float
    ) -> tuple[str, str, str]:
        """The outcome, the synapse's name and the JSON of a 200. Raises Refusal or _Gone."""
        name = scope["path"][1:]
        if name not in NAMES:
            raise UnknownPath(f"Synapse name '{_printable(name)}' not found. Available synapses {list(NAMES)}")
        if scope["method"] != "POST":
            raise WrongMethod("expected POST")
        if btauth.VERSION_HEADER in headers:
            claim = await self._timely(btauth.read_claim(headers), self._gate.screen)
            async with self._unproven.share() as take:
                content = await body.read(take)
            admission = self._prove(btauth.cover(claim, scope["method"], _target(scope), content), scope)
        else:
            claim = await self._timely(gate.read_claim(headers), self._gate.screen)
            admission = self._prove(claim, scope)
            content = await body.read()
        if name == "Synapse":
            return "ping", name, encode_json(_reply(name, claim, headers, started))
        image, label = _read_synapse(content)
        outcome, prediction = await self._predict(image, label, admission, started)
        reply = _reply(name, claim, headers, started)
        return (
            outcome,
            name,
            _encode_answer({**reply, "image": image, "prediction": prediction, "testnet_label": label}),
        )

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

    def _prove(self, claim: Claim, scope: Scope) -> Admission:
        admission = self._gate.prove(claim)
        scope.get("extensions", {}).get(ADMITTED, lambda: None)()
        return admission

    async def _predict(self, image: str, label: int, admission: Admission, started: float) -> tuple[str, float]:
        """The outcome and a finite probability, always, within the time the caller gave."""

        def left() -> float:
            return max(0.0, admission.timeout - (time.perf_counter() - started))

        try:
            if not await self.lanes.enter(admission.priority, patience=left() - self.limits.reserve):
                return await self._guard(self._cheap_answer, image, label, admission, left(), "shed")
            try:
                return await self._guard(self._answer, image, label, admission, left(), "answered")
            finally:
                self.lanes.leave()
        except asyncio.CancelledError:  # the server is stopping and has given this request up
            log.warning("%s got the prior: the miner is stopping", admission.hotkey)
            return "guarded", self._prior()

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
        return "guarded", self._prior()

    async def _refuse(self, refusal: Refusal, scope: Scope, body: _Body, send: Send, started: float) -> None:
        """Say no. The connection goes on if the body has ended; else it is closed, not before the no could be read."""
        await body.drop_if_small()
        fields, content = _status(refusal.status, str(refusal), started), f'{{"message":{encode_json(str(refusal))}}}'
        if body.ended:
            await _send(scope, send, refusal.status, fields, content)
            return
        await _send(scope, send, refusal.status, [*fields, CLOSE], content, more=True)
        await body.drop()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _refusal(error: BaseException) -> Refusal:
    """What the caller is told of an error that kept its request from being answered.

    A refusal comes without the frames that it went through: they hold the request and what was read of its body.
    """
    if isinstance(error, Refusal):
        log.debug("refused (%s): %s", error.reason, error)
        error.__context__ = None
        return error.with_traceback(None)
    if isinstance(error, asyncio.CancelledError):  # the server has given this request up
        return Stopping("this miner is stopping: ask again when it is back")
    log.error("a request could not be judged", exc_info=error)
    return Fault("this miner could not judge the request, by a fault of its own: its log says more")


def _read_synapse(body: bytes) -> tuple[str, int]:
    """(image, testnet label) of a request's JSON; what is missing or of the wrong type counts as not sent, and so does
    all of a body that holds more values than a synapse.

    The caller is admitted by now, so it gets a number: the service turns an empty picture into the prior.
    """
    try:
        fields = json.loads(body) if sum(map(body.count, (b",", b"[", b"{"))) <= MOST_VALUES else None
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        return "", -1
    image, label = fields.get("image"), fields.get("testnet_label")
    return image if isinstance(image, str) else "", label if type(label) is int and label in (0, 1) else -1


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
    "bt_header_axon_hotkey",
    "bt_header_dendrite_ip",
    "bt_header_dendrite_version",
    "bt_header_dendrite_nonce",
    "bt_header_dendrite_uuid",
    "bt_header_dendrite_hotkey",
    "bt_header_dendrite_signature",
    "header_size",
    "total_size",
)


def _echo(name: str, headers: Mapping[str, str]) -> list[Header]:
    """The headers that a stock axon sends back as they came; only ever to a caller that the gate admitted."""
    echoed = [(field.encode(), headers[field].encode("latin-1")) for field in ECHOED if field in headers]
    return [(b"name", name.encode()), *echoed, (b"computed_body_hash", EMPTY_HASH)]


def _status(code: int, message: str, started: float) -> list[Header]:
    """What a dendrite reads its own status from."""
    return [
        (b"bt_header_axon_status_code", b"%d" % code),
        (b"bt_header_axon_status_message", message.encode("latin-1", "replace")),
        (b"bt_header_axon_process_time", b"%f" % (time.perf_counter() - started)),
    ]


def _encode_answer(answer: dict[str, Any]) -> str:
    """The JSON of an answer, with the picture as it came. Base64 needs no escaping; looking for it would cost most."""
    image: str = answer["image"]
    if image.encode("utf-8", "replace").translate(None, BASE64):
        return encode_json(answer)
    return encode_json({**answer, "image": ""}).replace('"image":""', f'"image":"{image}"', 1)


async def _send(scope: Scope, send: Send, status: int, headers: list[Header], content: str, more: bool = False) -> bool:
    """False when nobody is there any more, as far as the server tells. more: do not close the connection yet."""
    body = content.encode()
    headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    whole = scope.get("extensions", {}).get(WHOLE_RESPONSE)
    if whole is not None and not more:
        return bool(await whole(status, headers, body))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": more})
    return True


def _integer(raw: str | None) -> int | None:
    return int(raw) if raw and raw.isdecimal() and len(raw) < 16 else None


def _printable(name: str) -> str:
    """A stranger's path, fit to stand in a header: at most 40 plain characters."""
    return "".join(character for character in name[:40] if character.isascii() and character.isprintable())


def _target(scope: Scope) -> str:
    query = scope["query_string"].decode("latin-1")
    path: str = scope["raw_path"].decode("latin-1")
    return f"{path}?{query}" if query else path
