"""Record what a stock axon of the installed SDK answers, case by case, into tests/golden/wire/stock.json.

    python -m tests.edge.record

A real `bittensor.Axon` on loopback, real sr25519 keys made for the occasion, and, for the cases named "dendrite",
a real `bittensor.Dendrite` whose bytes pass through a recording proxy. Run again when the SDK's pin moves; the
difference is then read like any other change.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import pathlib
import time
import typing

import bittensor
from bittensor_wallet import Keypair

from miner.commands.mock import reserved_ports
from miner.protocol import ImageSynapse
from tests.edge.signing import Dendrite, Request
from tests.edge.wire import until

TARGET = pathlib.Path(__file__).parent.parent / "golden" / "wire" / "stock.json"
FORBIDDEN: set[str] = set()


class Hotkeys:
    """The part of a wallet that an axon and a dendrite look at."""

    def __init__(self) -> None:
        self.hotkey = Keypair.create_from_mnemonic(Keypair.generate_mnemonic())
        self.coldkeypub = self.hotkey


def forward(synapse: ImageSynapse) -> ImageSynapse:
    if synapse.image == "raise":
        raise RuntimeError("the model broke")
    synapse.prediction = 0.75
    return synapse


def blacklist(synapse: ImageSynapse) -> typing.Tuple[bool, str]:  # noqa: UP006  (the SDK insists on this annotation)
    return synapse.dendrite.hotkey in FORBIDDEN, "Unrecognized hotkey"


# The SDK compares annotations as objects, and this module keeps them as text.
forward.__annotations__ = {"synapse": ImageSynapse, "return": ImageSynapse}
blacklist.__annotations__ = {"synapse": ImageSynapse, "return": typing.Tuple[bool, str]}  # noqa: UP006


async def exchange(port: int, payload: bytes) -> bytes:
    """Send one request, close our half, return everything that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(payload)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(parse(head, "response")["headers"].get("content-length", "0"))
    body = await reader.readexactly(length)
    writer.close()
    return head + body


def parse(raw: bytes, kind: str) -> dict[str, typing.Any]:
    """A raw HTTP message as the plain values that the golden file stores. kind: request or response."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    if kind == "request":
        method, path, _ = first.split(" ")
        return {"method": method, "path": path, "headers": headers, "body": body.decode()}
    return {"status": int(first.split(" ")[1]), "headers": headers, "body": body.decode()}


class Proxy:
    """Passes one connection on to `target` and keeps both directions."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.sent = b""
        self.received = b""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(parse(head, "request")["headers"].get("content-length", "0"))
        self.sent = head + await reader.readexactly(length)
        self.received = await exchange(self.target, self.sent)
        writer.write(self.received)
        writer.close()


async def through_dendrite(
    port: int, wallet: Hotkeys, receiver: str, synapse: bittensor.Synapse
) -> dict[str, typing.Any]:
    proxy = Proxy(port)
    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    info = bittensor.AxonInfo(
        version=10005000,
        ip="127.0.0.1",
        port=server.sockets[0].getsockname()[1],
        ip_type=4,
        hotkey=receiver,
        coldkey=receiver,
    )
    at = time.time_ns()
    async with bittensor.Dendrite(wallet=wallet.hotkey) as dendrite:
        got = await dendrite(info, synapse, timeout=9.0, deserialize=False)
    server.close()
    seen = got.model_dump(mode="json")
    return {
        "at_ns": at,
        "request": parse(proxy.sent, "request"),
        "response": parse(proxy.received, "response"),
        "dendrite_sees": {key: seen[key] for key in seen if key not in ("total_size", "header_size")},
    }


def cases(dendrite: Dendrite, stranger: Dendrite, other: Dendrite) -> typing.Iterator[tuple[str, Request]]:
    """Every case but the ones a real dendrite makes; each is sent once, in this order."""

    def spoil(request: Request, **headers: str | None) -> Request:
        for name, value in headers.items():
            if value is None:
                del request.headers[name]
            else:
                request.headers[name] = value
        return request

    def ago(seconds: float) -> int:
        return time.time_ns() - int(seconds * 1e9)

    yield "normal", dendrite.request()
    again = dendrite.request()
    yield "before the replay", again
    yield "exact replay", again
    late, early = ago(0.2), ago(0.1)
    yield "first of two concurrent requests", dendrite.request(nonce=time.time_ns())
    yield "second of two concurrent requests, older nonce", dendrite.request(nonce=early - (early - late))
    fresh = Dendrite(dendrite.key, dendrite.receiver, uuid="00000000-0000-0000-0000-000000000001")
    yield "unsigned", spoil(fresh.request(), bt_header_dendrite_signature=None)
    yield "empty signature", spoil(fresh.request(), bt_header_dendrite_signature="")
    yield "garbage signature", spoil(fresh.request(), bt_header_dendrite_signature="garbage")
    yield "signature of zeroes", spoil(fresh.request(), bt_header_dendrite_signature="0x" + "00" * 64)
    yield "foreign signature", spoil(other.request(), bt_header_dendrite_hotkey=fresh.key.ss58_address)
    yield "signed for another axon", Dendrite(fresh.key, other.key.ss58_address, uuid=fresh.uuid).request()
    yield "nonce 60 s old", fresh.request(nonce=ago(60))
    patient = Dendrite(fresh.key, fresh.receiver, uuid=fresh.uuid, timeout="1000000.0")
    yield "nonce 60 s old, time-out header 1000000", patient.request(nonce=ago(60))
    late_key = Dendrite(fresh.key, fresh.receiver, uuid="00000000-0000-0000-0000-000000000002")
    yield "nonce a year ahead", late_key.request(nonce=ago(-31_536_000))
    fresh = Dendrite(dendrite.key, dendrite.receiver, uuid="00000000-0000-0000-0000-000000000003")
    yield "no nonce", spoil(fresh.request(), bt_header_dendrite_nonce=None)
    yield "nonce is not a number", spoil(fresh.request(), bt_header_dendrite_nonce="soon")
    yield "no hotkey", spoil(fresh.request(), bt_header_dendrite_hotkey=None)
    yield "hotkey None", spoil(fresh.request(), bt_header_dendrite_hotkey="None")
    yield "hotkey is not an address", spoil(fresh.request(), bt_header_dendrite_hotkey="5Nobody")
    yield "no uuid", spoil(fresh.request(), bt_header_dendrite_uuid=None)
    yield (
        "old SDK version",
        Dendrite(fresh.key, fresh.receiver, uuid="00000000-0000-0000-0000-000000000004", version=7001000).request(),
    )
    yield "unknown caller", stranger.request()
    yield (
        "time-out NaN",
        Dendrite(fresh.key, fresh.receiver, uuid="00000000-0000-0000-0000-000000000005", timeout="nan").request(),
    )
    yield "time-out is not a number", spoil(fresh.request(), timeout="soon")
    swapped = fresh.request()
    swapped.body = fresh.body("c3dhcHBlZA==", swapped.headers)
    yield "image swapped under a valid signature", swapped
    other_hash = fresh.headers(body_hash="00" * 32)
    yield (
        "signed over another body hash",
        Request("POST", "/ImageSynapse", other_hash, fresh.body("aGVsbG8=", other_hash)),
    )
    cut = fresh.request()
    cut.body = cut.body[:-20]
    yield "malformed JSON", cut
    array = fresh.request()
    array.body = b"[]"
    yield "JSON is not an object", array
    nothing = fresh.request()
    nothing.body = b""
    yield "empty body", nothing
    yield "image is a number", fresh.request(5)
    yield "image is null", fresh.request(None)
    yield "unknown field", fresh.request(colour="red")
    yield "forward raises", fresh.request("raise")
    yield "testnet label 1", fresh.request(testnet_label=1)
    unknown = fresh.request()
    unknown.path = "/NopeSynapse"
    yield "unknown synapse name", unknown
    yield "GET /", Request("GET", "/", {})
    yield "GET /docs", Request("GET", "/docs", {})
    yield "GET /ImageSynapse", Request("GET", "/ImageSynapse", {})
    ping = stranger.headers(name="Synapse")
    yield "ping by an unknown caller", Request("POST", "/Synapse", ping, stranger.body(headers=ping, name="Synapse"))
    ping = fresh.headers(name="Synapse")
    yield (
        "unsigned ping",
        spoil(
            Request("POST", "/Synapse", ping, fresh.body(headers=ping, name="Synapse")),
            bt_header_dendrite_signature=None,
        ),
    )


async def main(port: int) -> None:
    miner, validator, unknown, foreign = Hotkeys(), Hotkeys(), Hotkeys(), Hotkeys()
    identity = miner.hotkey.ss58_address
    FORBIDDEN.update({unknown.hotkey.ss58_address})
    bittensor.utils.networking.get_external_ip = lambda: "192.0.2.1"  # offline: no what-is-my-ip service is asked
    axon = bittensor.Axon(wallet=miner, port=port, ip="127.0.0.1", external_ip="127.0.0.1", external_port=port)
    axon.attach(forward_fn=forward, blacklist_fn=blacklist).start()
    await until(lambda: axon.fast_server.started)

    found = {}
    found["dendrite"] = await through_dendrite(port, validator, identity, ImageSynapse(image="aGVsbG8="))
    found["dendrite ping"] = await through_dendrite(port, validator, identity, bittensor.Synapse())
    found["dendrite, forward raises"] = await through_dendrite(port, validator, identity, ImageSynapse(image="raise"))
    found["dendrite, unknown caller"] = await through_dendrite(port, unknown, identity, ImageSynapse(image="aGVsbG8="))
    hand = Dendrite(validator.hotkey, identity)
    for name, request in cases(hand, Dendrite(unknown.hotkey, identity), Dendrite(foreign.hotkey, identity)):
        at, raw = time.time_ns(), request.bytes()
        found[name] = {
            "at_ns": at,
            "request": parse(raw, "request"),
            "response": parse(await exchange(port, raw), "response"),
        }
    axon.stop()
    golden = {
        "bittensor": importlib.metadata.version("bittensor"),
        "miner": identity,
        "validator": validator.hotkey.ss58_address,
        "unknown": unknown.hotkey.ss58_address,
        "cases": found,
    }
    TARGET.write_text(json.dumps(golden, indent=1) + "\n")
    for name, case in found.items():
        print(f"{case['response']['status']}  {name}")


if __name__ == "__main__":
    with reserved_ports(1) as (free,):
        asyncio.run(main(free))
