"""Record requests signed by bittensor 11's own `http_auth`, into tests/golden/wire/btauth.json.

    pip install bittensor==11.3.0 && python tests/edge/record_btauth.py

Needs an environment of its own, since release 11 and the axon's release 10 do not fit in one. Each case is verified
by `http_auth.verify` before it is stored.
"""

from __future__ import annotations

import importlib.metadata
import json
import pathlib

from bittensor import http_auth
from bittensor.sp_core import CRYPTO_ED25519, CRYPTO_SR25519, Keypair

TARGET = pathlib.Path(__file__).parent.parent / "golden" / "wire" / "btauth.json"
NONCE = 1_795_435_661_704_211_827


def fresh(scheme: int) -> Keypair:
    return Keypair.create_from_mnemonic(Keypair.generate_mnemonic(), scheme)


def main() -> None:
    receiver = fresh(CRYPTO_SR25519).ss58_address
    body = json.dumps({"image": "aGVsbG8=", "prediction": -1.0, "testnet_label": -1}).encode()
    cases = {}
    for name, scheme, path, sent, bound in (
        ("picture", CRYPTO_SR25519, "/ImageSynapse", body, receiver),
        ("picture, with a query", CRYPTO_SR25519, "/ImageSynapse?era=2&x=%20", body, receiver),
        ("picture, ed25519", CRYPTO_ED25519, "/ImageSynapse", body, receiver),
        ("ping without a body", CRYPTO_SR25519, "/Synapse", b"", receiver),
        ("not bound to a receiver", CRYPTO_SR25519, "/ImageSynapse", body, None),
    ):
        key = fresh(scheme)
        headers = http_auth.sign(key, method="POST", path=path, body=sent, receiver_ss58=bound, nonce_ns=NONCE)
        http_auth.verify(
            headers,
            sent,
            method="POST",
            path=path,
            self_hotkey_ss58=receiver,
            require_receiver=bound is not None,
            now_ns=NONCE,
            nonce_store=http_auth.InMemoryNonceStore(),
        )
        payload = http_auth.build_payload(
            scheme="ed25519" if scheme == CRYPTO_ED25519 else "sr25519",
            method="POST",
            path=path,
            body=sent,
            nonce_ns=NONCE,
            sender_ss58=key.ss58_address,
            receiver_ss58=bound,
        )
        cases[name] = {
            "path": path,
            "headers": {field.lower(): value for field, value in headers.items()},
            "body": sent.decode(),
            "payload": payload.decode(),
            "hotkey": key.ss58_address,
        }
    golden = {"bittensor": importlib.metadata.version("bittensor"), "miner": receiver, "nonce": NONCE, "cases": cases}
    TARGET.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
