"""A whole miner with real secrets around it, told to log all it can: none of them, and no picture, leaves."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from bittensor_wallet import Keypair, Wallet

from miner.cli import ROOT
from miner.commands.mock import reserved_ports
from miner.metagraph import Neuron, Snapshot, save
from tests.edge.pictures import jpeg, malformed, noise, text
from tests.edge.signing import Dendrite
from tests.edge.wire import ask

pytestmark = pytest.mark.slow

VALIDATOR = Keypair.create_from_uri("//validator")
DASHBOARD, HUB = "only-the-operator-knows-this", "hf_" + "Q" * 34
PICTURE = text(jpeg(noise(300, 300)))


@pytest.fixture
def hotkey(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Path:
    """The file that btcli would leave, with mnemonic and seed in it."""
    wallet = Wallet(name="alice", hotkey="miner", path=str(tmp_path / "wallets"))
    wallet.create_new_hotkey(use_password=False, suppress=True)
    capfd.readouterr()
    return tmp_path / "wallets" / "alice" / "hotkeys" / "miner"


def requests(own: str) -> list[bytes]:
    """A sound one, a forged one, and twenty of malformed pictures; signed now."""
    sound = Dendrite(VALIDATOR, own)
    forged = sound.request(PICTURE)
    forged.headers["bt_header_dendrite_signature"] = "0x" + "1" * 128
    return [each.bytes() for each in (sound.request(PICTURE), forged, *map(sound.request, malformed(20)))]


async def statuses(port: int, payloads: list[bytes]) -> list[int]:
    return [(await ask(port, payload)).status for payload in payloads]


def wait_until_ready(url: str, miner: subprocess.Popen[bytes]) -> str:
    """What /readyz says, once it says 200."""
    give_up = time.monotonic() + 600.0
    while miner.poll() is None and time.monotonic() < give_up:
        try:
            with urlopen(url + "/readyz", timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the miner did not get ready")


@pytest.fixture
def ports() -> Iterator[list[int]]:
    """An axon port and a health port."""
    with reserved_ports(2) as held:
        yield held


def test_no_secret_and_no_picture_leaves_a_whole_miner(hotkey: Path, tmp_path: Path, ports: list[int]) -> None:
    kept = json.loads(hotkey.read_text())
    own = kept["ss58Address"]
    state, trace, log = tmp_path / "state", tmp_path / "trace.jsonl", tmp_path / "miner.log"
    neurons = {VALIDATOR.ss58_address: Neuron(0, VALIDATOR.ss58_address, 1000.0, True), own: Neuron(1, own, 0.0, False)}
    save(Snapshot(72, 1, 1.0, neurons), state / "local" / "alice" / "miner" / "subnet.json")  # the chain is away
    axon, health = ports
    flags = {
        "--network": "local",
        "--chain-endpoint": "ws://127.0.0.1:1",
        "--wallet-name": "alice",
        "--wallet-hotkey": "miner",
        "--wallet-path": tmp_path / "wallets",
        "--state-dir": state,
        "--axon-host": "127.0.0.1",
        "--axon-port": axon,
        "--health-port": health,
        "--trace": trace,
        "--log-level": "TRACE",
    }
    secrets = {"MINER_DASHBOARD_TOKEN": DASHBOARD, "HF_TOKEN": HUB, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-m", "neurons.miner", *(str(word) for pair in flags.items() for word in pair)]
    url = f"http://127.0.0.1:{health}"
    with log.open("wb") as sink:
        miner = subprocess.Popen(command, stderr=sink, stdout=sink, env=os.environ | secrets)
        try:
            said = wait_until_ready(url, miner)
            assert asyncio.run(statuses(axon, requests(own))) == [200, 401] + [200] * 20
            for path in ("/metrics", "/"):
                with urlopen(Request(url + path, headers={"authorization": f"Bearer {DASHBOARD}"})) as answer:
                    said += answer.read().decode()
        finally:
            miner.terminate()
            assert miner.wait(60) == 0
    said += log.read_text() + trace.read_text()
    pieces = {
        "mnemonic": kept["secretPhrase"],
        "first words": " ".join(kept["secretPhrase"].split()[:3]),
        "seed": kept["secretSeed"].removeprefix("0x"),
        "dashboard's token": DASHBOARD,
        "hub's token": HUB,
        "picture": PICTURE[200:260],
        "picture's bytes": base64.b64decode(PICTURE)[200:230].hex(),
    }
    assert [name for name, piece in pieces.items() if piece in said] == []
    written = b"".join(path.read_bytes() for path in state.rglob("*") if path.is_file())
    assert [name for name, piece in pieces.items() if name[:7] != "picture" and piece.encode() in written] == []
    assert "answered" in log.read_text() or VALIDATOR.ss58_address[:8] in log.read_text()  # the log was looked at
