"""From a hotkey to a registered miner: each step says what is done and what is missing; nothing is signed unasked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bittensor_wallet import Keyfile, Keypair
from rich.console import Console

from miner.chain import ChainAway, Description
from miner.commands.register import Register, guide, main
from miner.doctor.world import ChainFacts
from miner.metagraph import Neuron, Snapshot
from miner.registration import RegistrationError, checked, payload, poll, submit
from miner.settings import UsageError, parse
from tests.stand_in import serving

ALICE = Keypair.create_from_uri("//Alice")
TOLD = Description("wss://node.example", 323, "0x0", burned=1.0, registration=0.0003)


class ApplicationServer:
    """Stands in for the operator's server: checks the signature as it must, and is slow to finish."""

    def __init__(self) -> None:
        self.posted: list[dict[str, str]] = []
        self.states = ["pending", "succeeded"]
        self.error = ""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        if method == "POST" and path == "/participants/register":
            sent = json.loads(body)
            self.posted.append(sent)
            key = Keypair(ss58_address=sent["natix_public_key"])
            if not key.verify(sent["message"].encode(), bytes.fromhex(sent["natix_signature"])):
                return 401, {"detail": "bad signature"}
            return 200, {"detail": "Registration enqueued."}
        if method == "GET" and path.startswith("/participants/registration-status/"):
            state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
            return 200, {"status": state, "error_message": self.error}
        return 404, {"detail": path}


@pytest.fixture
def server() -> Iterator[tuple[ApplicationServer, str]]:
    kept = ApplicationServer()
    with serving(kept) as address:
        yield kept, address


def facts(*neurons: Neuron) -> Callable[[], ChainFacts]:
    return lambda: ChainFacts(Snapshot(323, 1, 1.0, {one.hotkey: one for one in neurons}), TOLD)


REGISTERED = facts(Neuron(88, ALICE.ss58_address, 0.0, False))


@pytest.fixture
def wallets(tmp_path: Path) -> Path:
    hotkey = tmp_path / "wallets" / "default" / "hotkeys" / "default"
    hotkey.parent.mkdir(parents=True)
    Keyfile(str(hotkey), "default", False).set_keypair(ALICE, encrypt=False, overwrite=True)
    return tmp_path / "wallets"


def walk(wallets: Path, chain: Callable[[], ChainFacts], *words: str, consent: bool = False) -> tuple[int, str]:
    console = Console(record=True, width=200)
    asked = parse(Register, ["--network", "test", "--wallet-path", str(wallets), "--wait", "0", *words])
    code = guide(asked, chain, console, lambda _: consent)
    return code, console.export_text()


def test_a_hotkey_that_is_not_registered_gets_price_burn_and_command(wallets: Path) -> None:
    code, shown = walk(wallets, facts())
    assert code == 1
    assert ALICE.ss58_address in shown
    assert "0.0003 TAO" in shown
    assert "100% of the miners' emission is burned" in shown
    assert "btcli subnet register --netuid 323" in shown


def test_a_registered_one_without_a_server_is_done(wallets: Path) -> None:
    code, shown = walk(wallets, REGISTERED)
    assert (code, "registered as uid 88" in shown) == (0, True)


def test_nothing_is_signed_without_consent(wallets: Path, server: tuple[ApplicationServer, str]) -> None:
    kept, address = server
    code, shown = walk(wallets, REGISTERED, "--server", address, "--model-repo", "me/mine")
    assert (code, kept.posted) == (1, [])
    assert "Nothing was signed, nothing was sent." in shown


@pytest.mark.parametrize(("words", "consent"), [(["--yes"], False), ([], True)])
def test_the_servers_register_is_signed_with_the_time(
    wallets: Path, server: tuple[ApplicationServer, str], words: list[str], consent: bool
) -> None:
    kept, address = server
    kept.states = ["succeeded"]
    code, shown = walk(wallets, REGISTERED, "--server", address, "--model-repo", "me/mine", *words, consent=consent)
    assert code == 0
    [sent] = kept.posted
    assert sent["natix_public_key"] == ALICE.ss58_address
    assert (sent["uid"], sent["type"], sent["model_repo"]) == ("88", "miner", "me/mine")
    assert ALICE.verify(sent["message"].encode(), bytes.fromhex(sent["natix_signature"]))
    assert "Registration enqueued." in shown
    assert "Status: succeeded." in shown


def test_the_official_miners_variables_name_server_and_repository(
    wallets: Path, server: tuple[ApplicationServer, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, address = server
    kept.states = ["success"]
    monkeypatch.setenv("PROXY_CLIENT_URL", address)
    monkeypatch.setenv("MODEL_URL", "https://huggingface.co/me/mine")
    assert walk(wallets, REGISTERED, "--yes")[0] == 0
    assert kept.posted[0]["model_repo"] == "https://huggingface.co/me/mine"


def test_a_server_that_is_slow_is_left_with_the_command_to_ask_again(
    wallets: Path, server: tuple[ApplicationServer, str]
) -> None:
    kept, address = server
    kept.states = ["pending"]
    code, shown = walk(wallets, REGISTERED, "--server", address, "--model-repo", "me/mine", "--yes")
    assert code == 1
    assert "Not finished (pending)" in shown
    assert f"curl -s {address}/participants/registration-status/88" in shown


def test_a_server_that_refuses_says_why(wallets: Path, server: tuple[ApplicationServer, str]) -> None:
    kept, address = server
    kept.states, kept.error = ["failed"], "model repository is not public"
    with pytest.raises(UsageError, match="model repository is not public"):
        walk(wallets, REGISTERED, "--server", address, "--model-repo", "me/mine", "--yes")


def test_the_repository_is_asked_for(wallets: Path) -> None:
    with pytest.raises(UsageError, match="--model-repo"):
        walk(wallets, REGISTERED, "--server", "https://server.example", "--yes")


def test_polling_goes_on_until_it_is_finished_and_waits_between(server: tuple[ApplicationServer, str]) -> None:
    kept, address = server
    kept.states = ["queued", "processing", "succeeded"]
    waits: list[float] = []
    assert poll(address, 88, sleep=waits.append).done
    assert waits == [3.0, 3.0]


def test_a_wrong_signature_is_refused_by_the_server(server: tuple[ApplicationServer, str]) -> None:
    body = payload(ALICE, 88, "me/mine", 1_795_000_000)
    with pytest.raises(RegistrationError, match=r"401.*bad signature"):
        submit(server[1], {**body, "message": "1795000001"})


@pytest.mark.parametrize(
    "address", ["https://server.example", "http://127.0.0.1:8000", "http://localhost", "http://[::1]:80"]
)
def test_encrypted_addresses_and_this_machine_may_be_posted_to(address: str) -> None:
    assert checked(address) == checked(address + "/") == address


@pytest.mark.parametrize(
    "address", ["http://server.example", "ftp://server.example", "ftp://localhost", "server.example", "https://", ""]
)
def test_only_encrypted_addresses_are_posted_to(address: str) -> None:
    with pytest.raises(RegistrationError, match="expected an https:// address"):
        checked(address)


def test_a_server_that_is_not_there_or_talks_nonsense(server: tuple[ApplicationServer, str]) -> None:
    with pytest.raises(RegistrationError, match="does not answer"):
        submit("http://127.0.0.1:1", {})
    kept, address = server
    kept.answer = lambda *_: (200, b"<html>")  # type: ignore[method-assign]
    with pytest.raises(RegistrationError, match="expected JSON"):
        poll(address, 88)
    kept.answer = lambda *_: (200, [])  # type: ignore[method-assign]
    with pytest.raises(RegistrationError, match="expected a JSON object, got list"):
        poll(address, 88)


def test_a_missing_hotkey_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no hotkey at"):
        walk(tmp_path, REGISTERED)


def test_a_chain_that_does_not_answer_is_named(wallets: Path) -> None:
    def gone() -> ChainFacts:
        raise ChainAway("wss://node.example does not answer")

    with pytest.raises(UsageError, match=r"node\.example does not answer"):
        walk(wallets, gone)


def test_the_mock_network_needs_none() -> None:
    with pytest.raises(UsageError, match="--network test"):
        main([])
