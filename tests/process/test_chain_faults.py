"""The chain goes bad under a whole miner, and is dead when it starts: validators that it knows are answered throughout,
and it finds its way back by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bittensor_wallet import Keypair, Wallet
from substrate_node import Member, Subnet
from test_chain import Drop, Hang, Node, Raw

from benchmarks.process import miner
from miner.mocknet import dev_validator
from tests.edge.pictures import jpeg, noise, text
from tests.edge.signing import Dendrite
from tests.edge.wire import ask

pytestmark = pytest.mark.slow

COMMAND = ("-m", "benchmarks.odd_miners", "impatient")
PICTURE = text(jpeg(noise(300, 200)))


@pytest.fixture
def hotkey(tmp_path: Path) -> Keypair:
    wallet = Wallet(name="default", hotkey="default", path=str(tmp_path / "wallets"))
    wallet.create_new_hotkey(use_password=False, suppress=True)
    return wallet.hotkey


class Chain:
    """A node whose subnet knows a validator and the miner; a block a question. fault: what it answers instead."""

    def __init__(self, hotkey: Keypair) -> None:
        validator = Member(dev_validator(0).ss58_address, stake=10**15, permit=True)
        self.subnet = Subnet([validator, Member(hotkey.ss58_address, ip="127.0.0.1", port=8091)])
        self.fault: Any = None

    def __call__(self, method: str, params: list[Any]) -> Any:
        self.subnet.block += method == "chain_getHead"
        return self.fault or self.subnet.answer(method, params)


def until(happened: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 120.0
    while not happened():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_a_chain_that_is_dead_at_the_start_and_goes_bad_in_every_way_later(tmp_path: Path, hotkey: Keypair) -> None:
    chain = Chain(hotkey)
    node = Node(chain)
    own = ["--network", "local", "--netuid", "72", "--wallet-path", str(tmp_path / "wallets")]
    own += ["--chain-endpoint", node.url, "--axon-host", "127.0.0.1"]
    own += ["--external-ip", "127.0.0.1", "--external-port", "8091"]
    chain.fault = Hang()
    try:
        with miner(tmp_path / "state", *own, command=COMMAND, log_level="INFO") as running:
            dendrite = Dendrite(dev_validator(0), running.hotkey())

            def status() -> int:
                """That the validator gets."""
                return asyncio.run(ask(running.axon, dendrite.request(PICTURE).bytes())).status

            until(lambda: "does not answer" in running.log.read_text())
            assert "serving on the view of block 0" in running.log.read_text()
            assert status() == 403, "nobody is known"
            chain.fault = None
            until(lambda: status() == 200)
            for fault in (
                Hang(),
                Drop(),
                Raw("<html>502 Bad Gateway</html>"),
                {"error": {"code": -1, "message": "no"}},
            ):
                chain.fault, failures = fault, running.log.read_text().count("serving on the view of block")
                until(lambda before=failures: running.log.read_text().count("serving on the view of block") > before)
                assert status() == 200
                chain.fault, block = None, chain.subnet.block
                until(lambda before=block: running.metric("streetvision_chain_block") > before)
                assert status() == 200
            assert running.process.poll() is None
    finally:
        node.close()
