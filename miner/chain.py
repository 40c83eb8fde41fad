"""The chain as the miner needs it: see the subnet, announce where we listen, a few facts for the operator.

`Chain` is the interface. `SubtensorChain` speaks to a real node through the SDK (bittensor 10.5); `MemoryChain` is a
whole network in memory, for the mock network and for tests. `open_chain` chooses one by the network's name.

The SDK's own client retries on a new websocket without closing the old one, waits 5 x 60 s, asks before it knows which
chain it speaks to, and sets every logger to CRITICAL when it is imported. `_sdk` mends these four and nothing else.

What could be tried without a real chain is tried against a real websocket server (tests/test_chain.py): no answer,
garbage, errors, wrong genesis, metadata that cannot be decoded, flapping, and a whole metagraph whose bytes
tests/substrate_node.py encodes by hand. Not tried: the public chains themselves (size, speed, today's runtime), and the
`serve_axon` extrinsic beyond what is composed and which key signs it.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from miner.metagraph import Neuron, Snapshot
from miner.mocknet import VALIDATORS, dev_validator
from models.installing import pip_install

if TYPE_CHECKING:
    from bittensor_wallet import Keypair

log = logging.getLogger(__name__)
T = TypeVar("T")

SDK = "bittensor>=10.5,<11"  # older ones cannot read today's chain, newer ones have no axon

ENDPOINTS = {
    "finney": "wss://entrypoint-finney.opentensor.ai:443",
    "test": "wss://test.finney.opentensor.ai:443",
    "local": "ws://127.0.0.1:9944",
}
GENESIS = {
    "finney": "0x2f0555cc76fc2840a25a6ea3b9637146806f1f44b090c175ffde2a7e5ab36c03",
    "test": "0x8f9cf856bf558a14440e75569c9e58594757048d7b3a84b5d25f6bd978263105",
}

AXON_PROTOCOL = 4  # what every axon announces: HTTP with synapses
BLOCKS_A_DAY = 7200
MINERS_SHARE = 0.41  # of a subnet's alpha; the rest goes to its owner (18 %) and its validators (41 %)
MOCK_STAKE = 100_000.0


class ChainError(Exception):
    """The chain could not do what was asked. The message says where, why and what to do."""


class ChainAway(ChainError):
    """No connection, or no answer in time. Worth trying again."""


class ChainUnreadable(ChainError):
    """The node answers, and the SDK cannot make sense of it."""


class WrongChain(ChainError):
    """The endpoint belongs to another network, or the subnet is not on it."""


class NotServed(ChainError):
    """The chain refused to announce our address."""


@dataclass(frozen=True, slots=True)
class Description:
    """The chain for a person. None: the chain did not say.

    block_time: unix time of the newest block in seconds. spec_version: of the chain's runtime. burned: share of the
    miners' incentive that goes to the subnet owner's hotkey, which the chain burns, in [0, 1]. emission: alpha a day to
    the miners before that. registration: TAO that a registration costs now.
    """

    endpoint: str
    netuid: int
    genesis: str
    block_time: float | None = None
    spec_version: int | None = None
    burned: float | None = None
    emission: float | None = None
    registration: float | None = None


class Chain(Protocol):
    """One subnet of one chain. Each verb raises ChainError and nothing else; used by one thread at a time."""

    @property
    def netuid(self) -> int:
        """The subnet."""

    @property
    def endpoint(self) -> str:
        """Where the chain is, for messages."""

    def snapshot(self) -> Snapshot:
        """The subnet now."""

    def serve(self, hotkey: Keypair, ip: str, port: int) -> None:
        """Announce that `hotkey` listens there. Costs a place in the chain's rate limit: only when it changed."""

    def describe(self) -> Description:
        """What a person wants to know of the chain."""

    def close(self) -> None:
        """Close the connection. The next question opens another one."""


def open_chain(network: str, netuid: int, hotkey: str, endpoint: str | None = None) -> Chain:
    """The chain of a network; nothing is connected yet. hotkey: SS58 address that the mock network registers."""
    if network == "mock":
        return mock_chain(netuid, hotkey)
    return SubtensorChain(netuid, endpoint or ENDPOINTS[network], GENESIS.get(network, ""))


def register_command(netuid: int, network: str, wallet_name: str, wallet_hotkey: str) -> str:
    """What the operator types to register."""
    wallet = f"--wallet.name {wallet_name} --wallet.hotkey {wallet_hotkey}"
    return f"btcli subnet register --netuid {netuid} {wallet} --network {network}"


def own_address() -> str:
    """This machine's address as the internet sees it, from the public services that the SDK asks. Raises ChainError."""
    with logging_kept():
        from bittensor.utils.networking import get_external_ip
    try:
        return str(get_external_ip())
    except Exception as error:  # the SDK's ExternalIPNotFound and whatever its HTTP client raises
        why = str(error) or type(error).__name__
        raise ChainError(f"no public service told our address ({why}); say it: --external-ip") from error


class MemoryChain:
    """A network in memory. Time passes by one block per snapshot. Safe from several threads."""

    endpoint = "memory"
    genesis = "0x" + "0" * 64

    def __init__(self, netuid: int) -> None:
        self.netuid = netuid
        self._lock = threading.Lock()
        self._block = 0
        self._neurons: dict[str, Neuron] = {}

    def register(self, hotkey: str, stake: float = 0.0, validator_permit: bool = False) -> Neuron:
        """Give `hotkey` the lowest free uid, as a chain does."""
        with self._lock:
            taken = {neuron.uid for neuron in self._neurons.values()}
            uid = next(uid for uid in range(len(taken) + 1) if uid not in taken)
            self._neurons[hotkey] = Neuron(uid, hotkey, stake, validator_permit)
            return self._neurons[hotkey]

    def deregister(self, hotkey: str) -> None:
        with self._lock:
            del self._neurons[hotkey]

    def snapshot(self) -> Snapshot:
        with self._lock:
            self._block += 1
            return Snapshot(self.netuid, self._block, time.time(), dict(self._neurons), self.genesis)

    def serve(self, hotkey: Keypair, ip: str, port: int) -> None:
        with self._lock:
            mine = self._neurons.get(hotkey.ss58_address)
            if mine is None:
                raise NotServed(f"{self.endpoint}: {hotkey.ss58_address} is not registered on subnet {self.netuid}")
            self._neurons[mine.hotkey] = replace(mine, ip=ip, port=port)

    def describe(self) -> Description:
        return Description(self.endpoint, self.netuid, self.genesis, block_time=time.time())

    def close(self) -> None:
        """There is no connection."""


def mock_chain(netuid: int, hotkey: str) -> MemoryChain:
    """The mock network: the development validators with a permit, and the miner."""
    chain = MemoryChain(netuid)
    for index in range(VALIDATORS):
        chain.register(dev_validator(index).ss58_address, MOCK_STAKE, validator_permit=True)
    chain.register(hotkey)
    return chain


class SubtensorChain:
    """A subnet of a real chain, through bittensor's Subtensor. Connects at the first question, by one socket at most.

    genesis: hash that the chain must have; empty takes that of the first connection and holds on to it.
    patience: seconds to wait for one answer; a whole question (many answers) may take four times that.
    """

    def __init__(self, netuid: int, endpoint: str, genesis: str = "", patience: float = 20.0) -> None:
        self.netuid = netuid
        self.endpoint = endpoint
        self.genesis = genesis
        self.patience = patience
        self._subtensor: Any = None
        self._socket: Any = None
        self._closed = False

    def snapshot(self) -> Snapshot:
        return self._ask(lambda subtensor: read_metagraph(self._metagraph(subtensor), self.genesis, time.time()))

    def serve(self, hotkey: Keypair, ip: str, port: int) -> None:
        response = self._ask(lambda subtensor: _serve_axon(subtensor, hotkey, self.netuid, ip, port))
        if not response.success:
            raise NotServed(f"{self.endpoint}: {ip}:{port} was not announced: {response.message}")

    def describe(self) -> Description:
        return self._ask(self._describe)

    def close(self) -> None:
        """For good, and safe from any thread: a question that is being asked ends."""
        self._closed = True
        self._drop()

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
        if self._subtensor is not None:
            self._subtensor.close()

    def _describe(self, subtensor: Any) -> Description:
        said = read_description(self._metagraph(subtensor), self.endpoint, self.genesis)
        when = subtensor.get_timestamp().timestamp()
        return replace(said, block_time=when, spec_version=subtensor.substrate.runtime.runtime_version)

    def _metagraph(self, subtensor: Any) -> Any:
        info = subtensor.get_metagraph_info(self.netuid, selected_indices=_columns())
        if info is None or info.netuid != self.netuid:
            raise WrongChain(f"{self.endpoint} has no subnet {self.netuid}; use --netuid 72 on finney, 323 on test")
        return info

    def _ask(self, question: Callable[[Any], T]) -> T:
        """One question, asked in bounded time; whatever goes wrong is a ChainError and closes the socket."""
        sdk = _sdk()
        try:
            with _closed_after(4 * self.patience, self._drop):
                if self._subtensor is None:
                    self._subtensor = sdk.open(self.endpoint, self.patience, self._check_genesis, self._hold)
                self._check_genesis(self._subtensor.substrate)
                return question(self._subtensor)
        except Exception as error:  # the SDK documents no exceptions, and a new runtime raises anything in its decoder
            self._drop()
            explained = self._explained(error)
            if not isinstance(explained, ChainAway):  # what it knows of the chain may be wrong: begin anew
                self._subtensor = None
                sdk.forget()
            raise explained from error

    def _hold(self, socket: Any) -> None:
        """The socket that is open from now on; the client is told of it only when it is done asking."""
        self._socket = socket
        if self._closed:
            raise ChainAway(f"{self.endpoint}: the connection was closed on our side")

    def _check_genesis(self, substrate: Any) -> None:
        genesis = substrate.rpc_request("chain_getBlockHash", [0])["result"]
        if self.genesis and genesis != self.genesis:
            raise WrongChain(
                f"{self.endpoint} is another chain: expected genesis {self.genesis}, got {genesis}. "
                "Name the right one with --network or --chain-endpoint"
            )
        self.genesis = genesis

    def _explained(self, error: Exception) -> ChainError:
        if isinstance(error, ChainError):
            return error
        told = f"{type(error).__name__}: {error}"
        if isinstance(error, _sdk().away):
            return ChainAway(f"{self.endpoint} does not answer ({told})")
        return ChainUnreadable(
            f"{self.endpoint} answers what {sdk_version()} cannot read ({told}). When the chain was upgraded, "
            f"update the SDK: {pip_install(SDK, '--upgrade')}; else try another --chain-endpoint"
        )


def read_metagraph(info: Any, genesis: str, taken_at: float) -> Snapshot:
    """The SDK's `MetagraphInfo` as a snapshot. A neuron's address is empty until it announced one."""
    neurons = {}
    rows = zip(info.hotkeys, info.total_stake, info.validator_permit, info.axons, strict=True)
    for uid, (hotkey, stake, permit, axon) in enumerate(rows):
        neurons[hotkey] = Neuron(uid, hotkey, float(stake.tao), bool(permit), *_address(axon))
    return Snapshot(info.netuid, int(info.block), taken_at, neurons, genesis)


def _address(axon: Mapping[str, int]) -> tuple[str, int]:
    """(ip, port) of the chain's record, whose ip is a number; anybody may have announced anything."""
    kind = IPv6Address if axon["ip_type"] == 6 else IPv4Address
    try:
        return (str(kind(axon["ip"])), axon["port"]) if axon["port"] else ("", 0)
    except ValueError:
        return "", 0


def read_description(info: Any, endpoint: str, genesis: str) -> Description:
    """What the SDK's `MetagraphInfo` tells of money."""
    paid = sum(info.incentives or [])
    to_owner = sum(
        one for hotkey, one in zip(info.hotkeys, info.incentives or [], strict=False) if hotkey == info.owner_hotkey
    )
    return Description(
        endpoint,
        info.netuid,
        genesis,
        burned=to_owner / paid if paid else None,
        emission=float(info.alpha_out_emission.tao) * BLOCKS_A_DAY * MINERS_SHARE if info.alpha_out_emission else None,
        registration=float(info.burn.tao) if info.burn is not None else None,
    )


def sdk_version() -> str:
    """The packages that decode the chain, with their versions."""
    named = []
    for package in ("bittensor", "async-substrate-interface", "cyscale"):
        try:
            named.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(named)


@contextmanager
def logging_kept() -> Iterator[None]:
    """Import bittensor inside: it sets the level of every logger that exists to CRITICAL, and its own logger gets a
    handler that prints on stdout, where a program may be reading JSON. Both are undone."""
    sdk = logging.getLogger("bittensor")
    sdk.setLevel(logging.WARNING)
    loggers = [one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    levels = [(one, one.level) for one in (logging.root, *loggers)]
    try:
        yield
    finally:
        sdk.handlers.clear()
        for one, level in levels:
            one.setLevel(level)


@contextmanager
def _closed_after(seconds: float, close: Callable[[], None]) -> Iterator[None]:
    """Close the socket when the block takes longer: the SDK bounds the wait for a message, not for the whole."""
    timer = threading.Timer(seconds, close)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@dataclass(frozen=True, slots=True)
class _Sdk:
    """open(endpoint, patience, check, hold) -> Subtensor; `hold` is told of each socket. away: what means "no answer".

    forget: the SDK caches methods by instance, for ever; this lets go of clients that are not used any more.
    """

    open: Callable[[str, float, Callable[[Any], None], Callable[[Any], None]], Any]
    forget: Callable[[], None]
    away: tuple[type[Exception], ...]


@functools.cache
def _sdk() -> _Sdk:
    """The SDK with its client mended as the module's docstring says. Imported here, because it takes seconds."""
    try:
        with logging_kept():
            import bittensor
            from async_substrate_interface.errors import MaxRetriesExceeded
            from async_substrate_interface.sync_substrate import SubstrateInterface
            from bittensor.core.settings import TYPE_REGISTRY
            from bittensor_wallet.utils import SS58_FORMAT
    except ImportError as error:
        raise ChainUnreadable(f"{sdk_version()} does not fit ({error}); {pip_install(SDK)}") from error
    from websockets.exceptions import WebSocketException
    from websockets.sync.client import connect

    class Node(SubstrateInterface):  # type: ignore[misc]
        ws: Any = None

        def __init__(
            self, url: str, patience: float, check: Callable[[Any], None], hold: Callable[[Any], None]
        ) -> None:
            self._check, self._hold = check, hold
            try:
                super().__init__(
                    url,
                    ss58_format=SS58_FORMAT,
                    type_registry=TYPE_REGISTRY,
                    chain_name="Bittensor",
                    max_retries=1,
                    retry_timeout=patience,
                )
            except BaseException:
                if self.ws is not None:
                    self.ws.close()
                forget()
                raise

        def connect(self, init: bool = False) -> Any:
            if self.ws is not None and not init and self.ws.close_code is None:
                return self.ws
            if self.ws is not None:
                self.ws.close()
            opened = connect(self.url, max_size=self.ws_max_size, open_timeout=self.retry_timeout, close_timeout=1)
            self.ws = opened.__enter__()  # closed by hand; websockets from 17.1 on warns when it is not entered
            self._hold(self.ws)
            return self.ws

        def initialize(self) -> None:
            if not self.initialized:
                self._check(self)
            super().initialize()

    def forget() -> None:
        for method in vars(SubstrateInterface).values():
            if hasattr(method, "cache_clear"):
                method.cache_clear()

    class OneSocket(bittensor.Subtensor):  # type: ignore[misc]
        def __init__(self, endpoint: str, *node: Any) -> None:
            self._node = node
            super().__init__(network=endpoint)

        def _get_substrate(self, **_: Any) -> Any:
            return Node(self.chain_endpoint, *self._node)

    return _Sdk(OneSocket, forget, (OSError, WebSocketException, MaxRetriesExceeded))


@functools.cache
def _columns() -> list[Any]:
    """The columns of the metagraph that are asked for; all of them would be ten times the bytes."""
    from bittensor.core.chain_data.metagraph_info import SelectiveMetagraphIndex as Column

    return [
        Column.OwnerHotkey,
        Column.Block,
        Column.AlphaOutEmission,
        Column.Burn,
        Column.Hotkeys,
        Column.Axons,
        Column.ValidatorPermit,
        Column.Incentives,
        Column.TotalStake,
    ]


@dataclass(frozen=True, slots=True)
class _HotkeyOnly:
    """The part of a wallet that signing an announcement needs. The SDK's own way reads the coldkey's public file."""

    hotkey: Any


def _serve_axon(subtensor: Any, hotkey: Keypair, netuid: int, ip: str, port: int) -> Any:
    """The `serve_axon` extrinsic, signed by the hotkey; the SDK's response."""
    from bittensor.core.extrinsics.pallets import SubtensorModule
    from bittensor.core.settings import version_as_int
    from bittensor.utils.networking import ip_to_int, ip_version

    call = SubtensorModule(subtensor).serve_axon(
        netuid=netuid,
        version=version_as_int,
        ip=ip_to_int(ip),
        port=port,
        ip_type=ip_version(ip),
        protocol=AXON_PROTOCOL,
    )
    return subtensor.sign_and_send_extrinsic(call=call, wallet=_HotkeyOnly(hotkey), sign_with="hotkey")
