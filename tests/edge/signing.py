"""Signed requests made by hand, byte for byte as a dendrite sends them, so that a test can spoil any one field."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field

from bittensor_wallet import Keypair

EMPTY_HASH = (
    "a7ffc6f8bf1ed76651c14756a061d662f580ff4de43b49fa82d80a4b80f8434a"  # SHA3-256 of nothing: no required fields
)
UUID = "5ecbd69c-1cec-11ee-b0dc-e29ce36fec1a"


@dataclass
class Request:
    """One HTTP request before it is sent. headers: lower case names."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""

    def head(self) -> bytes:
        """The request's head as it goes over the wire, with its content-length."""
        lines = [f"{self.method} {self.path} HTTP/1.1"]
        fields = {"host": "127.0.0.1", "content-length": str(len(self.body)), **self.headers}
        lines += [f"{name}: {value}" for name, value in fields.items()]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"

    def bytes(self) -> bytes:
        return self.head() + self.body


@dataclass
class Dendrite:
    """What a dendrite knows when it asks: its key, and whom it asks."""

    key: Keypair
    receiver: str
    uuid: str = UUID
    version: int = 10005000
    timeout: str = "9.0"
    extra: dict[str, str] = field(default_factory=dict)

    def headers(
        self, name: str = "ImageSynapse", nonce: int | None = None, body_hash: str = EMPTY_HASH
    ) -> dict[str, str]:
        """The headers of one signed request. nonce: unix time in nanoseconds, now when not given."""
        nonce = time.time_ns() if nonce is None else nonce
        message = f"{nonce}.{self.key.ss58_address}.{self.receiver}.{self.uuid}.{body_hash}"
        return {
            "name": name,
            "timeout": self.timeout,
            "bt_header_axon_ip": "127.0.0.1",
            "bt_header_axon_port": "8091",
            "bt_header_axon_hotkey": self.receiver,
            "bt_header_dendrite_ip": "127.0.0.1",
            "bt_header_dendrite_version": str(self.version),
            "bt_header_dendrite_nonce": str(nonce),
            "bt_header_dendrite_uuid": self.uuid,
            "bt_header_dendrite_hotkey": self.key.ss58_address,
            "bt_header_dendrite_signature": "0x" + self.key.sign(message.encode()).hex(),
            "header_size": "640",
            "total_size": "4000",
            "computed_body_hash": body_hash,
            "content-type": "application/json",
            **self.extra,
        }

    def body(self, image: object = "aGVsbG8=", headers: dict[str, str] | None = None, **fields: object) -> bytes:
        """The JSON that a dendrite sends beside `headers`."""
        known = headers or {}
        terminal = dict.fromkeys(
            (
                "status_code",
                "status_message",
                "process_time",
                "ip",
                "port",
                "version",
                "nonce",
                "uuid",
                "hotkey",
                "signature",
            )
        )
        dendrite = {
            **terminal,
            "ip": "127.0.0.1",
            "version": self.version,
            "uuid": self.uuid,
            "hotkey": self.key.ss58_address,
        }
        dendrite["nonce"] = int(known.get("bt_header_dendrite_nonce", "0"))
        dendrite["signature"] = known.get("bt_header_dendrite_signature")
        synapse = {
            "name": "ImageSynapse",
            "timeout": float(self.timeout),
            "total_size": 4000,
            "header_size": 0,
            "dendrite": dendrite,
            "axon": {**terminal, "ip": "127.0.0.1", "port": 8091, "hotkey": self.receiver},
            "computed_body_hash": "",
            "image": image,
            "prediction": -1.0,
            "testnet_label": -1,
            **fields,
        }
        return json.dumps(synapse).encode()

    def request(self, image: object = "aGVsbG8=", nonce: int | None = None, **fields: object) -> Request:
        """One whole signed request for `image`."""
        headers = self.headers(nonce=nonce)
        return Request("POST", "/ImageSynapse", headers, self.body(image, headers, **fields))
