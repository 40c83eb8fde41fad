"""What the miner promises of the chain: it keeps serving on the last view, on one socket, and says what is wrong.

`SubtensorChain` speaks to real websocket servers here that misbehave in every way a node does; `MemoryChain` is the
mock network; a day passes on a simulated clock.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from substrate_node import HASH, Member, Subnet
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

from miner.chain import (
    GENESIS,
    MOCK_STAKE,
    ChainAway,
    ChainError,
    ChainUnreadable,
    Description,
    MemoryChain,
    NotServed,
    SubtensorChain,
    WrongChain,
    _address,
    logging_kept,
    mock_chain,
    open_chain,
    register_command,
)
from miner.metagraph import Neuron, Snapshot, load, save
from miner.mocknet import VALIDATORS, dev_validator
from miner.wallet import throwaway
from miner.watch import Pace, Watch

ME = throwaway()


class Node:
    """A websocket server in place of a node. `answer(method, params)` gives its reply, `Raw`, `Hang` or `Drop`."""

    def __init__(self, answer: Callable[[str, list[Any]], Any]) -> None:
        self.answer = answer
        self.open = self.peak = self.connections = 0
        self._server = serve(self._talk, "127.0.0.1", 0, close_timeout=0.2)
        self.url = f"ws://127.0.0.1:{self._server.socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def _talk(self, websocket: Any) -> None:
        self.connections += 1
        self.open += 1
        self.peak = max(self.peak, self.open)
        try:
            for message in websocket:
                asked = json.loads(message)
                answer = self.answer(asked["method"], asked["params"])
                if isinstance(answer, Hang):
                    continue
                if isinstance(answer, Drop):
                    return
                if not isinstance(answer, Raw):
                    answer = json.dumps({"jsonrpc": "2.0", "id": asked["id"], **answer})
                websocket.send(answer)
        except ConnectionClosed:
            pass
        finally:
            self.open -= 1

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()


class Hang:
    """The node says nothing."""


class Drop:
    """The node closes the connection."""


class Raw(str):
    """The node says exactly this."""


def node_of(genesis: str = HASH, **replies: Any) -> Callable[[str, list[Any]], Any]:
    """What a node answers up to its metadata. replies: method -> answer, instead."""
    usual = {
        "chain_getBlockHash": {"result": genesis},
        "chain_getHead": {"result": HASH},
        "chain_getHeader": {"result": {"parentHash": HASH, "number": "0x10", "digest": {"logs": []}}},
        "state_getRuntimeVersion": {
            "result": {"specName": "node-subtensor", "specVersion": 470, "transactionVersion": 1}
        },
        "state_call": {"result": "0x" + "00" * 64},
        "state_getMetadata": {"result": "0x" + "00" * 64},
    }
    table = usual | replies
    return lambda method, params: table.get(method, {"error": {"code": -32601, "message": "Method not found"}})


@pytest.fixture
def node():
    nodes: list[Node] = []

    def start(answer: Callable[[str, list[Any]], Any]) -> Node:
        nodes.append(Node(answer))
        return nodes[-1]

    yield start
    for one in nodes:
        one.close()


@pytest.fixture
def subtensor():
    chains: list[SubtensorChain] = []

    def start(url: str, genesis: str = "", patience: float = 60.0) -> SubtensorChain:
        chains.append(SubtensorChain(72, url, genesis, patience))
        return chains[-1]

    yield start
    for one in chains:
        one.close()


def settled(condition: Callable[[], bool]) -> bool:
    """Wait for the other side of a socket to notice."""
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


class TestSubtensor:
    def test_nobody_listens(self, subtensor):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = f"ws://127.0.0.1:{free.getsockname()[1]}"
            with pytest.raises(ChainAway, match=f"{url} does not answer .*refused"):
                subtensor(url).snapshot()

    def test_accepts_and_says_nothing(self, subtensor):
        with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ChainAway, match="does not answer"):
            subtensor(f"ws://127.0.0.1:{silent.getsockname()[1]}", patience=0.3).snapshot()

    @pytest.mark.parametrize("silent", ["chain_getBlockHash", "chain_getHead", "state_call"])
    def test_answers_and_then_hangs(self, node, subtensor, silent):
        server = node(node_of(**{silent: Hang()}))
        started = time.monotonic()
        with pytest.raises(ChainAway, match="does not answer"):
            subtensor(server.url, patience=1.0).snapshot()
        assert time.monotonic() - started < 30
        assert settled(lambda: server.open == 0)

    def test_closes_the_connection_in_the_middle(self, node, subtensor):
        server = node(node_of(chain_getHead=Drop()))
        chain = subtensor(server.url)
        for _ in range(5):
            with pytest.raises(ChainAway, match="does not answer"):
                chain.snapshot()
        assert settled(lambda: server.open == 0)
        assert server.peak == 1
        assert server.connections == 5

    @pytest.mark.parametrize("garbage", ["not json", "", "[]", "{}", '{"id": 1}', "null", '"text"'])
    def test_garbage(self, node, subtensor, garbage):
        server = node(node_of(chain_getHead=Raw(garbage)))
        with pytest.raises(ChainError, match=server.url):
            subtensor(server.url, patience=1.0).snapshot()
        assert settled(lambda: server.open == 0)

    def test_an_error_of_the_node_is_told(self, node, subtensor):
        server = node(node_of(chain_getHead={"error": {"code": 1, "message": "node is syncing"}}))
        with pytest.raises(ChainError, match="node is syncing"):
            subtensor(server.url).snapshot()

    def test_wrong_genesis_is_refused_before_anything_is_decoded(self, node, subtensor):
        server = node(node_of(genesis="0x" + "cd" * 32))
        with pytest.raises(WrongChain, match=f"expected genesis {GENESIS['finney']}, got 0xcdcd.*--network"):
            subtensor(server.url, GENESIS["finney"]).snapshot()
        assert settled(lambda: server.open == 0)

    def test_a_chain_that_changes_under_the_same_address_is_refused(self, node, subtensor):
        server = node(node_of())
        chain = subtensor(server.url)
        with pytest.raises(ChainUnreadable):
            chain.snapshot()
        server.answer = node_of(genesis="0x" + "cd" * 32)
        with pytest.raises(WrongChain, match=f"expected genesis {HASH}"):
            chain.snapshot()

    def test_metadata_that_cannot_be_decoded_names_the_sdk_and_the_remedy(self, node, subtensor):
        server = node(node_of())
        with pytest.raises(ChainUnreadable) as error:
            subtensor(server.url).snapshot()
        from importlib.metadata import version

        assert f"bittensor {version('bittensor')}" in str(error.value)
        assert "pip install --upgrade 'bittensor>=10.5,<11'" in str(error.value)
        assert settled(lambda: server.open == 0)

    @pytest.mark.slow
    def test_memory_and_sockets_stay_flat_over_many_failures(self, node, subtensor):
        server = node(node_of())
        chain = subtensor(server.url)

        def fail(times: int) -> None:
            for _ in range(times):
                with suppress(ChainUnreadable):
                    chain.snapshot()
                assert settled(lambda: server.open == 0)

        threads = threading.active_count()
        tracemalloc.start()
        fail(10)
        gc.collect()
        before, descriptors = tracemalloc.get_traced_memory()[0], len(os.listdir("/proc/self/fd"))
        fail(40)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert grown < 3_000_000, f"{grown} bytes in 40 attempts"  # a client that is not let go holds a million
        assert server.peak == 1
        assert settled(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)
        assert settled(lambda: threading.active_count() <= threads)

    def test_an_announcement_is_signed_by_the_hotkey_alone(self, subtensor, monkeypatch):
        """The extrinsic up to the SDK's own border: what is composed, and with which key it is signed."""
        sent: list[Any] = []

        class Recorder:
            substrate = None
            success, message = True, ""

            def compose_call(self, **call: Any) -> Any:
                return call

            def sign_and_send_extrinsic(self, call: Any, wallet: Any, sign_with: str) -> Any:
                sent.append((call, wallet, sign_with))
                return self

        recorder = Recorder()
        chain = subtensor("ws://127.0.0.1:1")
        monkeypatch.setattr(chain, "_ask", lambda question: question(recorder))
        chain.serve(ME, "203.0.113.7", 8091)
        ((call, wallet, sign_with),) = sent
        assert call["call_function"] == "serve_axon"
        assert call["call_params"].items() >= {"netuid": 72, "ip": 0xCB007107, "port": 8091, "ip_type": 4}.items()
        assert sign_with == "hotkey"
        assert wallet.hotkey is ME
        assert not hasattr(wallet, "coldkeypub")
        recorder.success, recorder.message = False, "ServingRateLimitExceeded"
        with pytest.raises(NotServed, match=r"203\.0\.113\.7:8091 was not announced: ServingRateLimitExceeded"):
            chain.serve(ME, "203.0.113.7", 8091)


VALIDATOR, MINER, OWNER = (dev_validator(index).ss58_address for index in range(3))


def subnet(**options: Any) -> Subnet:
    """Three neurons: a validator that announced nothing, a miner on IPv4, the owner's on IPv6."""
    members = [
        Member(VALIDATOR, stake=40_097_500_000_000, permit=True),
        Member(MINER, ip="203.0.113.7", port=8091, incentive=16_384),
        Member(OWNER, stake=10**9, ip="2001:db8::1", port=9, incentive=49_152),
    ]
    return Subnet(**{"members": members, "block": 6_000_000, "owner": OWNER} | options)


class TestReadingANode:
    """The whole way: JSON-RPC over a websocket, metadata, the metagraph's bytes, the SDK's decoder, our values."""

    def test_a_snapshot(self, node, subtensor):
        server = node(subnet().answer)
        before = time.time()
        snapshot = subtensor(server.url).snapshot()
        assert before <= snapshot.taken_at <= time.time()
        assert snapshot == Snapshot(
            72,
            6_000_000,
            snapshot.taken_at,
            {
                VALIDATOR: Neuron(0, VALIDATOR, 40_097.5, True),
                MINER: Neuron(1, MINER, 0.0, False, "203.0.113.7", 8091),
                OWNER: Neuron(2, OWNER, 1.0, False, "2001:db8::1", 9),
            },
            HASH,
        )

    def test_a_description(self, node, subtensor):
        server = node(subnet(burn=5 * 10**8, emission=10**9, timestamp=1_764_000_000_000).answer)
        assert subtensor(server.url).describe() == Description(
            endpoint=server.url,
            netuid=72,
            genesis=HASH,
            block_time=1_764_000_000.0,
            spec_version=470,
            burned=0.75,
            emission=pytest.approx(7200 * 0.41),
            registration=0.5,
        )

    def test_nothing_was_paid_yet(self, node, subtensor):
        server = node(subnet(members=[Member(VALIDATOR)]).answer)
        assert subtensor(server.url).describe().burned is None

    def test_a_chain_without_the_subnet(self, node, subtensor):
        server = node(subnet(netuid=5).answer)
        with pytest.raises(WrongChain, match="has no subnet 72; use --netuid 72 on finney, 323 on test"):
            subtensor(server.url).snapshot()

    @pytest.mark.parametrize("cut", [1, 40, 200])
    def test_a_metagraph_that_is_cut_short_names_the_sdk(self, node, subtensor, cut):
        whole = subnet()

        def answer(method: str, params: list[Any]) -> Any:
            reply = whole.answer(method, params)
            asked_for_it = method == "state_call" and params[0] != "Metadata_metadata_at_version"
            return {"result": reply["result"][: -2 * cut]} if asked_for_it else reply

        server = node(answer)
        with pytest.raises(ChainUnreadable, match=r"bittensor 10\.\d+.*pip install --upgrade"):
            subtensor(server.url).snapshot()

    def test_one_neurons_nonsense_does_not_hide_the_others(self):
        assert _address({"ip": 2**33, "port": 80, "ip_type": 4}) == ("", 0)
        assert _address({"ip": 0x7F000001, "port": 80, "ip_type": 4}) == ("127.0.0.1", 80)
        assert _address({"ip": 1, "port": 80, "ip_type": 6}) == ("::1", 80)

    def test_a_node_that_goes_and_comes_back_is_asked_on_one_socket(self, node, subtensor):
        there = subnet()
        server = node(there.answer)
        watch = Watch(subtensor(server.url), ME)
        for block in range(1, 6):
            there.block = block
            server.answer = there.answer
            watch.step()
            assert watch().block == block, watch.failure
            server.answer = lambda method, params: Drop()
            watch.step()
            assert "does not answer" in watch.failure
        assert server.peak == 1
        assert watch().neurons.keys() == {VALIDATOR, MINER, OWNER}

    def test_a_connection_that_is_held_is_used_again(self, node, subtensor):
        server = node(subnet().answer)
        chain = subtensor(server.url)
        for _ in range(5):
            chain.snapshot()
        assert server.connections == 1

    @pytest.mark.slow
    def test_memory_stays_flat_over_many_snapshots(self, node, subtensor):
        there = subnet()
        server = node(there.answer)
        chain = subtensor(server.url)

        def read(times: int) -> None:
            for _ in range(times):
                there.block += 1
                chain.snapshot()

        read(600)  # the SDK's caches hold 512 blocks
        tracemalloc.start()
        read(100)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        read(200)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert grown < 250_000, f"{grown} bytes in 200 snapshots"
        assert server.connections == 1


class TestNetworks:
    def test_each_name_opens_its_chain(self):
        for network, part in (("finney", "entrypoint-finney"), ("test", "test.finney"), ("local", "127.0.0.1:9944")):
            chain = open_chain(network, 72, ME.ss58_address)
            assert isinstance(chain, SubtensorChain)
            assert part in chain.endpoint
            assert chain.genesis == GENESIS.get(network, "")
        assert isinstance(open_chain("mock", 72, ME.ss58_address), MemoryChain)

    def test_an_endpoint_of_ones_own_keeps_the_networks_genesis(self):
        chain = open_chain("finney", 72, ME.ss58_address, "ws://10.0.0.1:9944")
        assert (chain.endpoint, chain.genesis) == ("ws://10.0.0.1:9944", GENESIS["finney"])

    def test_the_mock_network_has_its_validators_and_the_miner(self):
        neurons = mock_chain(72, ME.ss58_address).snapshot().neurons
        assert len(neurons) == VALIDATORS + 1
        for index in range(VALIDATORS):
            validator = neurons[dev_validator(index).ss58_address]
            assert validator.validator_permit
            assert validator.stake == MOCK_STAKE
        assert not neurons[ME.ss58_address].validator_permit

    def test_registration_is_fixed_by_one_command(self):
        command = "btcli subnet register --netuid 72 --wallet.name w --wallet.hotkey h --network finney"
        assert register_command(72, "finney", "w", "h") == command


class TestMemoryChain:
    def test_blocks_pass_and_uids_are_reused(self):
        chain = MemoryChain(72)
        assert [chain.register(name).uid for name in "abc"] == [0, 1, 2]
        chain.deregister("b")
        assert chain.register("d").uid == 1
        assert chain.snapshot().block + 1 == chain.snapshot().block

    def test_it_announces_registered_hotkeys_only(self):
        chain = MemoryChain(72)
        with pytest.raises(NotServed, match="not registered on subnet 72"):
            chain.serve(ME, "127.0.0.1", 1)
        chain.register(ME.ss58_address)
        chain.serve(ME, "127.0.0.1", 8091)
        assert chain.snapshot().neurons[ME.ss58_address].port == 8091

    def test_old_views_never_change(self):
        chain = MemoryChain(72)
        before = chain.snapshot()
        chain.register("a")
        assert before.neurons == {}

    def test_it_describes_itself(self):
        assert MemoryChain(72).describe().netuid == 72


class Clock:
    """A simulated clock."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class Faulty:
    """A chain that can be taken away. It stamps its views with the simulated clock."""

    def __init__(self, clock: Clock, chain: MemoryChain) -> None:
        self._clock, self._chain = clock, chain
        self.netuid, self.endpoint = chain.netuid, chain.endpoint
        self.fault: Exception | None = None
        self.stuck: int | None = None  # the block at which the node hangs
        self.asked = self.served = 0

    def snapshot(self) -> Snapshot:
        self.asked += 1
        if self.fault:
            raise type(self.fault)(*self.fault.args)  # one raised twice keeps both tracebacks
        seen = replace(self._chain.snapshot(), taken_at=self._clock())
        return seen if self.stuck is None else replace(seen, block=self.stuck)

    def serve(self, hotkey: Any, ip: str, port: int) -> None:
        self.served += 1
        if self.fault:
            raise type(self.fault)(*self.fault.args)  # one raised twice keeps both tracebacks
        self._chain.serve(hotkey, ip, port)

    def describe(self) -> Description:
        return self._chain.describe()

    def close(self) -> None:
        pass


class World:
    """A watch on a faulty chain, and time that passes at the watch's own pace."""

    def __init__(self, announce: tuple[str, int] | None = None, **options: Any) -> None:
        self.clock = Clock()
        self.network = mock_chain(72, ME.ss58_address)
        self.chain = Faulty(self.clock, self.network)
        self.watch = Watch(self.chain, ME, clock=self.clock, **options)
        if announce:
            self.watch.announce(*announce)
        self.waits: list[float] = []

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.waits.append(self.watch.step())
            self.clock.now += self.waits[-1]

    def live(self, seconds: float) -> None:
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.step()


class TestWatch:
    def test_before_the_first_view_nobody_is_known(self):
        watch = World().watch
        assert watch().neurons == {}
        assert watch.age == float("inf")
        assert watch.me is None

    def test_a_good_reading_is_in_force(self):
        world = World()
        world.step()
        assert world.watch().neurons.keys() == world.network.snapshot().neurons.keys()
        assert world.watch.me.uid == VALIDATORS
        assert world.waits == [Pace().every]

    def test_a_day_without_the_chain_changes_nothing(self, caplog):
        world = World()
        world.step()
        view = world.watch()
        world.chain.fault = ChainAway("ws://x does not answer")
        world.live(24 * 3600)
        assert world.watch() is view
        assert world.watch.age > 24 * 3600
        assert world.watch.failure == "ws://x does not answer"
        assert 250 < world.chain.asked < 700
        assert 3 <= len(caplog.records) <= 12  # a night's log can be read
        world.chain.fault = None
        world.step()
        assert world.watch.age <= Pace().every
        assert world.watch.failure == ""

    def test_memory_stays_flat_for_a_day_without_the_chain(self, monkeypatch):
        monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)  # pytest keeps every record
        world = World()
        world.step()
        world.chain.fault = ChainAway("ws://x does not answer")
        world.live(3600)
        tracemalloc.start()
        world.live(3600)
        before = tracemalloc.get_traced_memory()[0]
        world.live(24 * 3600)
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert grown < 50_000, f"{grown} bytes in a day"

    def test_waits_double_up_to_a_limit_with_jitter(self):
        chances = iter([1.0] * 12 + [0.0])
        world = World(chance=lambda: next(chances))
        world.chain.fault = ChainAway("gone")
        world.step(13)
        assert world.waits == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300, 300, 150]

    @settings(max_examples=30)
    @given(st.lists(st.booleans(), max_size=40), st.floats(0, 1))
    def test_flapping_never_loses_the_view_nor_the_pace(self, ups, chance):
        world = World(chance=lambda: chance)
        for up in ups:
            world.chain.fault = None if up else ChainAway("gone")
            world.step()
            assert bool(world.watch().neurons) == any(ups[: len(world.waits)])
            assert world.waits[-1] == Pace().every if up else 1 <= world.waits[-1] <= Pace().longest

    def test_the_same_fault_is_said_once(self, caplog):
        world = World()
        world.chain.fault = ChainUnreadable("bittensor 10.5.0 cannot read")
        world.step(4)
        world.chain.fault = None
        world.step()
        told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert len([line for line in told if "cannot read" in line]) == 1
        assert any("back after 4 failed attempts" in line for line in told)

    def test_a_fault_of_ours_does_not_end_it(self, caplog):
        world = World()
        world.chain.fault = ZeroDivisionError("ours")
        world.step()
        world.chain.fault = None
        world.step()
        assert world.watch().neurons
        assert "ZeroDivisionError: ours" in caplog.text

    def test_a_node_that_stands_still_is_stale(self, caplog):
        world = World()
        world.step()
        world.chain.stuck = world.watch().block
        world.live(1200)
        assert world.watch.age >= 1200
        assert "no new block for" in caplog.text

    def test_a_node_that_lags_does_not_take_the_newer_view_away(self):
        world = World()
        world.step(3)
        newest = world.watch()
        world.chain.stuck = 1
        world.step()
        assert world.watch() is newest

    def test_a_block_that_was_never_reached_does_not_freeze_the_view(self, caplog):
        """One wrong answer, or a chain that was rolled back; a restart was once the only way out."""
        world = World()
        world.chain.stuck = 10**12
        world.step()
        world.chain.stuck = None
        world.live(Pace().stale)
        world.step(2)
        assert 1 < world.watch().block < 100
        assert world.watch.age <= Pace().every
        assert "went back" in caplog.text

    def test_deregistration_and_return_are_said_once(self, caplog):
        caplog.set_level(logging.INFO)
        world = World(remedy="btcli subnet register --netuid 72")
        world.step(3)
        world.network.deregister(ME.ss58_address)
        world.step(3)
        assert world.watch.me is None
        world.network.register(ME.ss58_address)
        world.step(3)
        told = [record.getMessage() for record in caplog.records if "registered on subnet" in record.getMessage()]
        assert told == [
            f"registered on subnet 72 as uid {VALIDATORS}",
            f"{ME.ss58_address} is not registered on subnet 72. btcli subnet register --netuid 72",
            f"registered on subnet 72 as uid {VALIDATORS}",
        ]


class TestAnnouncing:
    def test_once_and_only_when_it_changed(self):
        world = World(announce=("203.0.113.7", 8091))
        world.step(30)
        assert world.chain.served == 1
        assert (world.watch.me.ip, world.watch.me.port) == ("203.0.113.7", 8091)

    def test_not_when_the_chain_shows_it_already(self):
        world = World(announce=("2001:db8:0:0::1", 8091))
        world.network.serve(ME, "2001:db8::1", 8091)
        world.step(3)
        assert world.chain.served == 0

    def test_again_after_a_new_registration(self):
        world = World(announce=("203.0.113.7", 8091))
        world.step(20)
        world.network.deregister(ME.ss58_address)
        world.step(3)
        world.network.register(ME.ss58_address)
        world.step(3)
        assert world.chain.served == 2

    def test_never_without_a_registration_or_a_wish(self):
        unregistered = World(announce=("203.0.113.7", 8091))
        unregistered.network.deregister(ME.ss58_address)
        unregistered.step(3)
        silent = World()
        silent.step(3)
        assert unregistered.chain.served == silent.chain.served == 0

    def test_a_refusal_is_told_and_tried_again_later(self, caplog, monkeypatch):
        world = World(announce=("203.0.113.7", 8091))
        attempts = []

        def refuse(hotkey, ip, port):
            attempts.append(world.clock())
            raise NotServed("rate limit")

        monkeypatch.setattr(world.chain, "serve", refuse)
        world.live(1900)
        assert [later - earlier for earlier, later in pairwise(attempts)] == [600, 600, 600]
        assert "rate limit; trying again in 10 min" in caplog.text

    def test_a_clock_that_is_put_back_does_not_keep_a_new_address_from_being_announced(self):
        world = World(announce=("203.0.113.7", 8091))
        world.step(2)
        world.clock.now -= 24 * 3600
        world.watch.announce("203.0.113.8", 8091)
        world.step()
        assert world.chain.served == 2

    def test_an_address_that_is_none_is_refused(self):
        with pytest.raises(ValueError, match="does not appear to be an IPv4 or IPv6 address"):
            World(announce=("my.house", 8091))


class TestDisk:
    def test_the_last_view_survives_a_restart(self, tmp_path):
        before = World(store=tmp_path / "state" / "chain.json")
        before.step()
        after = World(store=tmp_path / "state" / "chain.json")
        after.chain.fault = ChainAway("gone")
        assert after.watch.restore()
        after.step(5)
        assert after.watch() == before.watch()

    def test_a_restored_view_gives_way_to_any_live_one(self, tmp_path):
        save(Snapshot(72, 10**12, 1.0), tmp_path / "chain.json")
        world = World(store=tmp_path / "chain.json")
        assert world.watch.restore()
        world.step()
        assert world.watch().block == 1

    @pytest.mark.parametrize(
        "content", ["", "{", "[]", '{"neurons": 3}', '{"netuid": 72, "neurons": [{"uid": 1}]}', "\x00"]
    )
    def test_what_is_no_view_is_not_used(self, tmp_path, caplog, content):
        (tmp_path / "chain.json").write_text(content)
        assert not World(store=tmp_path / "chain.json").watch.restore()
        assert "expected a snapshot of the subnet" in caplog.text

    def test_a_view_of_another_subnet_is_not_used(self, tmp_path, caplog):
        save(Snapshot(323, 5, 1.0), tmp_path / "chain.json")
        assert not World(store=tmp_path / "chain.json").watch.restore()
        assert "is of subnet 323, not 72" in caplog.text

    def test_nothing_on_disk_is_fine(self, tmp_path):
        assert not World(store=tmp_path / "none.json").watch.restore()
        assert not World().watch.restore()

    def test_a_full_disk_only_warns(self, tmp_path, caplog):
        (tmp_path / "file").write_text("")
        world = World(store=tmp_path / "file" / "chain.json")
        world.step()
        assert world.watch().neurons
        assert "cannot be kept on disk" in caplog.text

    def test_a_failed_write_leaves_the_old_file_alone(self, tmp_path, monkeypatch):
        path = tmp_path / "chain.json"
        save(Snapshot(72, 1, 1.0), path)

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            save(Snapshot(72, 2, 2.0), path)
        assert load(path).block == 1
        assert list(tmp_path.iterdir()) == [path]

    @given(
        st.dictionaries(
            st.text(min_size=1), st.tuples(st.integers(0, 255), st.floats(0, 1e9), st.booleans(), st.text())
        ),
        st.integers(0, 2**40),
    )
    def test_what_was_saved_is_loaded(self, tmp_path_factory, hotkeys, block):
        path = tmp_path_factory.mktemp("view") / "chain.json"
        neurons = {key: Neuron(uid, key, stake, permit, ip, 1) for key, (uid, stake, permit, ip) in hotkeys.items()}
        snapshot = Snapshot(72, block, 1.5, neurons, HASH)
        save(snapshot, path)
        assert load(path) == snapshot


class TestLife:
    async def test_the_thread_refreshes_until_it_is_stopped(self):
        network = mock_chain(72, ME.ss58_address)
        watch = Watch(network, ME, pace=Pace(every=0.005))
        watch.start()
        assert settled(lambda: watch().block > 3)
        await watch.stop()
        last = watch().block
        await asyncio.sleep(0.02)
        assert watch().block == last

    async def test_stopping_does_not_wait_for_a_node_that_hangs(self, node, subtensor):
        server = node(node_of(chain_getHead=Hang()))
        watch = Watch(subtensor(server.url, patience=600.0), ME)
        watch.start()
        assert settled(lambda: server.open == 1)
        await watch.stop()
        assert settled(lambda: server.open == 0)
        assert watch._thread is not None
        assert settled(lambda: not watch._thread.is_alive())

    async def test_the_loop_goes_on_while_a_question_that_nothing_cuts_comes_to_its_end(self):
        asked, answered = threading.Event(), threading.Event()

        class Stubborn(MemoryChain):
            def snapshot(self) -> Snapshot:
                asked.set()
                answered.wait()
                return super().snapshot()

        watch = Watch(Stubborn(72), ME)
        watch.start()
        await asyncio.to_thread(asked.wait)
        stopping = asyncio.create_task(watch.stop())
        await asyncio.sleep(0)  # it has begun, and this is the loop going on
        assert not stopping.done()
        answered.set()
        await stopping
        assert watch._thread is not None
        assert not watch._thread.is_alive()


class TestLogging:
    def test_importing_the_sdk_silences_nobody_and_prints_nothing(self):
        script = (
            "import logging, sys\n"
            "logging.basicConfig(level=logging.INFO, stream=sys.stderr)\n"
            "logging.getLogger('vllm').setLevel(logging.DEBUG)\n"
            "from miner.chain import logging_kept\n"
            "with logging_kept():\n"
            "    import bittensor\n"
            "assert logging.getLogger('vllm').level == logging.DEBUG\n"
            "assert logging.getLogger('miner.chain').isEnabledFor(logging.INFO)\n"
            "assert logging.getLogger('bittensor').handlers == []\n"
        )
        root = Path(__file__).resolve().parents[1]
        done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""

    def test_levels_come_back_after_a_failed_import(self):
        mine = logging.getLogger("test.levels")
        mine.setLevel(logging.INFO)
        with suppress(ImportError), logging_kept():
            mine.setLevel(logging.CRITICAL)
            raise ImportError("broken")
        assert mine.level == logging.INFO
