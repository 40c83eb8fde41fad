"""btauth/1: requests that bittensor 11.3.0 signed itself are admitted; spoiled ones are not."""

from __future__ import annotations

import json
import math
import pathlib
from typing import Any

import pytest

from miner import btauth, gate
from miner.axon import verify_signature
from miner.gate import SECOND, Gate, Refusal, Rules
from miner.metagraph import Snapshot
from miner.replay_store import ReplayStore

GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden" / "wire" / "btauth.json").read_text())
CASES: dict[str, Any] = GOLDEN["cases"]
BOUND = [name for name in CASES if name != "not bound to a receiver"]


def admit(case: dict[str, Any], ago: float = 0.0, method: str = "POST", **changed: Any) -> str:
    """The admitted hotkey. changed: headers, path or body other than recorded."""
    case = {**case, **changed}
    now = GOLDEN["nonce"] + int(ago * SECOND)
    open_gate = Gate(
        GOLDEN["miner"],
        lambda: Snapshot(72),
        verify_signature,
        ReplayStore(),
        Rules(allow_non_registered=True),
        lambda: now,
    )
    claim = btauth.read_claim(case["headers"])
    open_gate.screen(claim)
    return open_gate.prove(btauth.cover(claim, method, case["path"], case["body"].encode())).hotkey


@pytest.mark.parametrize("name", BOUND)
def test_what_release_11_signs_is_admitted(name: str) -> None:
    assert admit(CASES[name]) == CASES[name]["hotkey"]


@pytest.mark.parametrize("name", BOUND)
def test_the_signed_bytes_are_release_11s_own(name: str) -> None:
    case = CASES[name]
    covered = btauth.cover(btauth.read_claim(case["headers"]), "post", case["path"], case["body"].encode())
    assert covered.message.decode() == case["payload"]


def test_a_request_bound_to_nobody_is_refused() -> None:
    with pytest.raises(gate.WrongReceiver):
        admit(CASES["not bound to a receiver"])


def test_the_picture_is_covered() -> None:
    case = CASES["picture"]
    with pytest.raises(gate.BadSignature):
        admit(case, body=case["body"].replace("aGVsbG8=", "c3dhcA=="))


@pytest.mark.parametrize("changed", [{"path": "/Synapse"}, {"method": "GET"}, {"path": "/ImageSynapse?"}])
def test_method_and_target_are_covered(changed: dict[str, str]) -> None:
    with pytest.raises(gate.BadSignature):
        admit(CASES["picture"], **changed)


@pytest.mark.parametrize(("ago", "accepted"), [(-2.0, True), (-2.1, False), (9.9, True), (10.1, False), (-3e7, False)])
def test_the_window_is_the_protocols_own(ago: float, accepted: bool) -> None:
    if accepted:
        assert admit(CASES["picture"], ago)
    else:
        with pytest.raises((gate.NonceTooOld, gate.NonceAhead)):
            admit(CASES["picture"], ago)


def test_the_time_out_is_read_as_a_dendrites() -> None:
    headers = CASES["picture"]["headers"]
    assert btauth.read_claim({**headers, "timeout": "3.5"}).timeout == 3.5
    assert math.isnan(btauth.read_claim(headers).timeout)


SPOILED: dict[str, tuple[dict[str, str | None], type[Refusal]]] = {
    "another version": ({"x-bittensor-version": "2"}, gate.MalformedField),
    "no hotkey": ({"x-bittensor-hotkey": None}, gate.NotRegistered),
    "no nonce": ({"x-bittensor-nonce": None}, gate.MissingField),
    "nonce in words": ({"x-bittensor-nonce": "now"}, gate.MalformedField),
    "no signature": ({"x-bittensor-signature": None}, gate.MissingField),
    "signature in words": ({"x-bittensor-signature": "mine"}, gate.BadSignature),
    "no receiver": ({"x-bittensor-receiver": None}, gate.WrongReceiver),
    "unknown scheme": ({"x-bittensor-crypto": "rsa"}, gate.MalformedField),
    "another scheme": ({"x-bittensor-crypto": "ed25519"}, gate.BadSignature),
}


@pytest.mark.parametrize("name", SPOILED)
def test_spoiled_headers_are_refused(name: str) -> None:
    spoiled, expected = SPOILED[name]
    fields = {**CASES["picture"]["headers"], **spoiled}
    with pytest.raises(expected):
        admit(CASES["picture"], headers={name: value for name, value in fields.items() if value is not None})
