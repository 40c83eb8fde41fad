"""Requests signed by bittensor 11's `http_auth`, the protocol `btauth/1`, so that a validator that moves on is served.

The signed bytes are eight lines of UTF-8 joined by newlines: `btauth/1`, the signature scheme, the method in upper
case, the request target as sent (path and query), the SHA-256 of the raw body in lower-case hexadecimal, the nonce
(unix time in nanoseconds, decimal), the sender's and the receiver's SS58 address. Headers: X-Bittensor-Version ("1"),
-Hotkey, -Receiver, -Nonce, -Signature (hexadecimal, 0x allowed) and, unless sr25519, -Crypto. Unlike a dendrite's,
this signature covers the picture, so the body is read before it can be checked. Source: `bittensor/http_auth.py` of
release 11.3.0; tests/golden/wire/btauth.json holds requests that it signed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from miner.gate import Claim, MalformedField, MissingField, NotRegistered, read_nonce, read_seconds

VERSION_HEADER = "x-bittensor-version"
MAX_AGE = 10.0  # seconds, the protocol's own default
SCHEMES = {"sr25519": "sr25519", "1": "sr25519", "ed25519": "ed25519", "0": "ed25519"}


def read_claim(headers: Mapping[str, str]) -> Claim:
    """The claim in the headers (lower-case names); its message is empty until the body is known, see `cover`.

    Raises NotRegistered without a hotkey, MissingField or MalformedField.
    """
    if headers.get(VERSION_HEADER) != "1":
        raise MalformedField("expected X-Bittensor-Version 1")
    hotkey = headers.get("x-bittensor-hotkey")
    if not hotkey:
        raise NotRegistered("no hotkey.")
    nonce = read_nonce(headers.get("x-bittensor-nonce"))
    signature = headers.get("x-bittensor-signature")
    if not signature:
        raise MissingField("missing X-Bittensor-Signature")
    scheme = SCHEMES.get(headers.get("x-bittensor-crypto", "sr25519").strip().lower())
    if scheme is None:
        raise MalformedField("expected X-Bittensor-Crypto sr25519 or ed25519")
    receiver = headers.get("x-bittensor-receiver", "")
    timeout = read_seconds(headers.get("timeout"))
    return Claim(hotkey, receiver, nonce, b"", signature, timeout, past=MAX_AGE, scheme=scheme)


def cover(claim: Claim, method: str, target: str, body: bytes) -> Claim:
    """The claim with the message that its signature has to cover. target: path and query as sent."""
    lines = (
        "btauth/1",
        claim.scheme,
        method.upper(),
        target,
        hashlib.sha256(body).hexdigest(),
        str(claim.nonce),
        claim.hotkey,
        claim.receiver,
    )
    return replace(claim, message="\n".join(lines).encode())
