"""A node of a Substrate chain, as far as a miner asks it: JSON-RPC answers whose bytes are encoded here, by hand.

The SCALE codec (https://docs.polkadot.com/reference/parachains/data-encoding/) is written out on purpose: the SDK's
decoder meets bytes that it did not make. The metadata (version 15) declares one runtime API, the metagraph's, with the
fields that the miner asks for, and one storage item, the clock's.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from bittensor_wallet import Keypair

HASH = "0x" + "ab" * 32
PRIMITIVES = {"bool": 0, "u8": 3, "u16": 4, "u32": 5, "u64": 6, "u128": 7}
UNUSED = [
    "mechid",
    "name",
    "symbol",
    "identity",
    "network_registered_at",
    "owner_coldkey",
    "tempo",
    "last_step",
    "blocks_since_last_step",
    "subnet_emission",
    "alpha_in",
    "alpha_out",
    "tao_in",
    "alpha_in_emission",
    "tao_in_emission",
    "pending_alpha_emission",
    "pending_root_emission",
    "subnet_volume",
    "moving_price",
    "rho",
    "kappa",
    "min_allowed_weights",
    "max_weights_limit",
    "weights_version",
    "weights_rate_limit",
    "activity_cutoff",
    "max_validators",
    "num_uids",
    "max_uids",
    "difficulty",
    "registration_allowed",
    "pow_registration_allowed",
    "immunity_period",
    "min_difficulty",
    "max_difficulty",
    "min_burn",
    "max_burn",
    "adjustment_alpha",
    "adjustment_interval",
    "target_regs_per_interval",
    "max_regs_per_block",
    "serving_rate_limit",
    "commit_reveal_weights_enabled",
    "commit_reveal_period",
    "liquid_alpha_enabled",
    "alpha_high",
    "alpha_low",
    "bonds_moving_avg",
    "coldkeys",
    "identities",
    "active",
    "pruning_score",
    "last_update",
    "emission",
    "dividends",
    "consensus",
    "trust",
    "rank",
    "block_at_registration",
    "alpha_stake",
    "tao_stake",
    "tao_dividends_per_hotkey",
    "alpha_dividends_per_hotkey",
    "validators",
    "commitments",
]


def little(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little")


def compact(value: int) -> bytes:
    """An unsigned integer in as few bytes as it needs."""
    for mode, size in ((0, 1), (1, 2), (2, 4)):
        if value < 1 << (8 * size - 2):
            return little(value << 2 | mode, size)
    size = max(4, (value.bit_length() + 7) // 8)
    return little((size - 4) << 2 | 3, 1) + little(value, size)


def vector(items: Iterable[bytes]) -> bytes:
    parts = list(items)
    return compact(len(parts)) + b"".join(parts)


def text(value: str) -> bytes:
    return compact(len(value.encode())) + value.encode()


def some(value: bytes) -> bytes:
    return b"\x01" + value


NONE = b"\x00"
EMPTY = vector([])


class Types:
    """A registry of types; each call adds one and gives its number."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []

    def add(self, kind: int, body: bytes, path: Iterable[str] = (), parameters: bytes = EMPTY) -> int:
        number = len(self.entries)
        names = vector(text(name) for name in path)
        self.entries.append(compact(number) + names + parameters + little(kind, 1) + body + EMPTY)
        return number

    def composite(self, path: str, fields: Iterable[tuple[str, int]]) -> int:
        body = vector(some(text(name)) + compact(kind) + NONE + EMPTY for name, kind in fields)
        return self.add(0, body, path.split("::"))

    def sequence(self, kind: int) -> int:
        return self.add(2, compact(kind))

    def bytes32(self, path: str) -> int:
        array = self.add(3, little(32, 4) + compact(self.primitive("u8")))
        return self.add(0, vector([NONE + compact(array) + NONE + EMPTY]), path.split("::"))

    def primitive(self, name: str) -> int:
        return self.add(5, little(PRIMITIVES[name], 1))

    def compact(self, name: str) -> int:
        return self.add(6, compact(self.primitive(name)))

    def option(self, kind: int) -> int:
        none = text("None") + EMPTY + little(0, 1) + EMPTY
        given = text("Some") + vector([NONE + compact(kind) + NONE + EMPTY]) + little(1, 1) + EMPTY
        return self.add(1, vector([none, given]), ["Option"], vector([text("T") + some(compact(kind))]))


def metadata() -> bytes:
    """Version 15 of the metadata, as `Metadata_metadata_at_version` gives it."""
    types = Types()
    integers = {name: types.primitive(name) for name in PRIMITIVES}
    account = types.bytes32("sp_core::crypto::AccountId32")
    axon_fields = [("block", "u64"), ("version", "u32"), ("ip", "u128"), ("port", "u16"), ("ip_type", "u8")]
    axon_fields += [(name, "u8") for name in ("protocol", "placeholder1", "placeholder2")]
    axon = types.composite("pallet_subtensor::AxonInfo", [(name, integers[kind]) for name, kind in axon_fields])
    amount, share, nothing = types.compact("u64"), types.compact("u16"), types.option(integers["u8"])
    fields = {
        "netuid": share,
        "owner_hotkey": types.option(account),
        "block": types.option(amount),
        "alpha_out_emission": types.option(amount),
        "burn": types.option(amount),
        "hotkeys": types.option(types.sequence(account)),
        "axons": types.option(types.sequence(axon)),
        "validator_permit": types.option(types.sequence(integers["bool"])),
        "incentives": types.option(types.sequence(share)),
        "total_stake": types.option(types.sequence(amount)),
    } | dict.fromkeys(UNUSED, nothing)
    metagraph = types.option(types.composite("pallet_subtensor::SelectiveMetagraph", fields.items()))
    generics = vector(text(name) + some(compact(account)) for name in ("Address", "Call", "Signature", "Extra"))
    types.add(0, EMPTY, ["sp_runtime", "generic", "unchecked_extrinsic", "UncheckedExtrinsic"], generics)
    asked = [("netuid", integers["u16"]), ("mechid", integers["u8"]), ("columns", types.sequence(integers["u16"]))]
    inputs = vector(text(name) + compact(kind) for name, kind in asked)
    method = text("get_selective_mechagraph") + inputs + compact(metagraph) + EMPTY
    api = text("SubnetInfoRuntimeApi") + vector([method]) + EMPTY
    now = text("Now") + little(1, 1) + little(0, 1) + compact(integers["u64"]) + vector([bytes(1)] * 8) + EMPTY
    clock = text("Timestamp") + some(text("Timestamp") + vector([now])) + 2 * NONE + EMPTY + NONE + little(2, 1) + EMPTY
    extrinsic = little(4, 1) + 4 * compact(account) + EMPTY
    parts = [vector(types.entries), vector([clock]), extrinsic, compact(account), vector([api]), 3 * compact(account)]
    whole = b"meta" + little(15, 1) + b"".join(parts) + EMPTY
    return some(compact(len(whole)) + whole)


@dataclass
class Member:
    """One row of the metagraph. stake: in rao (1e-9). incentive: 0..65535."""

    hotkey: str
    stake: int = 0
    permit: bool = False
    ip: str = ""
    port: int = 0
    incentive: int = 0


@dataclass
class Subnet:
    """What the node knows. timestamp: unix time in milliseconds."""

    members: list[Member] = field(default_factory=list)
    netuid: int = 72
    block: int = 1
    owner: str = ""
    burn: int = 0
    emission: int = 0
    timestamp: int = 0
    genesis: str = HASH

    def metagraph(self) -> bytes:
        def column(encode: Callable[[Member], bytes]) -> bytes:
            return some(vector(encode(member) for member in self.members))

        used = [
            compact(self.netuid),
            some(_account(self.owner)) if self.owner else NONE,
            some(compact(self.block)),
            some(compact(self.emission)),
            some(compact(self.burn)),
            column(lambda member: _account(member.hotkey)),
            column(_axon),
            column(lambda member: bytes([member.permit])),
            column(lambda member: compact(member.incentive)),
            column(lambda member: compact(member.stake)),
        ]
        return some(b"".join(used) + NONE * len(UNUSED))

    def answer(self, method: str, params: list[Any]) -> Any:
        """The JSON-RPC reply, without its id."""
        if method == "state_call":
            if params[0] == "Metadata_metadata_at_version":
                return {"result": "0x" + metadata().hex()}
            asked = int.from_bytes(bytes.fromhex(params[1].removeprefix("0x"))[:2], "little")
            return {"result": "0x" + (self.metagraph() if asked == self.netuid else NONE).hex()}
        replies = {
            "chain_getBlockHash": self.genesis,
            "chain_getHead": f"0x{self.block:064x}",  # a new one at each block, as the SDK caches by it
            "chain_getHeader": {
                "parentHash": f"0x{self.block - 1:064x}",
                "number": hex(self.block),
                "digest": {"logs": []},
            },
            "state_getRuntimeVersion": {"specName": "node-subtensor", "specVersion": 470, "transactionVersion": 1},
            "state_getStorageAt": "0x" + little(self.timestamp, 8).hex(),
        }
        if method not in replies:
            return {"error": {"code": -32601, "message": f"Method not found: {method}"}}
        return {"result": replies[method]}


def _account(address: str) -> bytes:
    return bytes(Keypair(ss58_address=address).public_key)


def _axon(member: Member) -> bytes:
    ip = ipaddress.ip_address(member.ip or "0.0.0.0")
    head = little(0, 8) + little(1, 4) + little(int(ip), 16) + little(member.port, 2)
    return head + bytes([ip.version if member.port else 0, 4, 0, 0])
