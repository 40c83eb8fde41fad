"""Everything outside this process that the checks look at, and how each is asked."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from miner.chain import Description, open_chain
from miner.gpu import Card
from miner.gpu import cards as driver_cards
from miner.metagraph import Neuron, Snapshot
from miner.settings import Settings
from miner.wallet import hotkey_file

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 3.0  # seconds for each question asked of the network
NTP_SERVER = "pool.ntp.org"
NTP_EPOCH = 2_208_988_800  # seconds from 1900, where NTP counts from, to 1970


@dataclass(frozen=True, slots=True)
class ChainFacts:
    """One reading of the chain: who is on the subnet, and what it tells of itself."""

    snapshot: Snapshot
    told: Description


class NotAsked(Exception):
    """There is nobody to ask. The message says why and is shown as it is."""


def read_chain(settings: Settings) -> ChainFacts:
    """Ask the settings' chain, once. Raises NotAsked on the mock network, else ChainError."""
    if settings.network == "mock":
        raise NotAsked("network mock: no chain is asked")
    chain = open_chain(settings.network, settings.subnet, "", settings.chain_endpoint)
    try:
        return ChainFacts(chain.snapshot(), chain.describe())
    finally:
        chain.close()


def clock_offset(server: str = NTP_SERVER, port: int = 123) -> float:
    """Seconds that this machine's clock is behind (positive) or ahead of an NTP server. Raises OSError."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as wire:
        wire.settimeout(PATIENCE)
        sent = time.time()
        wire.sendto(b"\x23" + 47 * b"\0", (server, port))  # version 4, client
        answer = wire.recv(512)
        received = time.time()
    if len(answer) < 48:
        raise OSError(f"{server}: expected an NTP answer of 48 bytes, got {len(answer)}")
    arrived, left = (whole + part / 2**32 - NTP_EPOCH for whole, part in struct.iter_unpack("!II", answer[32:48]))
    return float(arrived - sent + left - received) / 2


def fetch(url: str, headers: Mapping[str, str] | None = None) -> bytes:
    """The body of a GET. Raises OSError (HTTPError on a status that is not 2xx)."""
    with urlopen(Request(url, headers=dict(headers or {})), timeout=PATIENCE) as answer:
        return bytes(answer.read())


def listen(host: str, at: int) -> socket.socket:
    """A socket that listens on one address, or on all of them, IPv4 and IPv6. Raises OSError."""
    if host:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, at), family=family)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", at), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", at))


def newest_revision() -> tuple[str, str]:
    """(revision of this checkout, revision of its origin). Raises OSError or SubprocessError."""
    git = ["git", "-C", str(ROOT)]
    options: dict[str, Any] = {"capture_output": True, "text": True, "check": True, "timeout": 2 * PATIENCE}
    surroundings = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    mine = subprocess.run([*git, "rev-parse", "HEAD"], **options).stdout.strip()
    theirs = subprocess.run([*git, "ls-remote", "origin", "HEAD"], env=surroundings, **options).stdout.split()
    if not theirs:
        raise OSError("origin has no HEAD")
    return mine, theirs[0]


@dataclass(frozen=True, slots=True)
class World:
    """Everything the checks look at outside this process. reflector: an echoip server, empty for none."""

    settings: Settings
    chain: Callable[[], ChainFacts]
    cards: Callable[[], Sequence[Card]] = driver_cards
    clock: Callable[[], float] = clock_offset
    fetch: Callable[[str, Mapping[str, str] | None], bytes] = fetch
    revisions: Callable[[], tuple[str, str]] = newest_revision
    reflector: str = ""

    @property
    def health(self) -> str:
        host = self.settings.health_host
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.settings.health_port}"

    def running(self) -> dict[str, Any] | None:
        """What `/readyz` of a miner on the health port says, ready or not; None when nobody listens there."""
        try:
            answer = self.fetch(f"{self.health}/readyz", None)
        except HTTPError as error:
            answer = error.read()
        except OSError:
            return None
        try:
            return dict(json.loads(answer))
        except ValueError:
            return None

    def me(self) -> Neuron | None:
        """Our registration on the chain. Raises what `chain` and `hotkey` raise."""
        return self.chain().snapshot.neurons.get(self.hotkey())

    def hotkey(self) -> str:
        """SS58 address of the hotkey file. Raises NotAsked or OSError."""
        if self.settings.network == "mock":
            raise NotAsked("network mock: a throw-away hotkey is made")
        held = json.loads(self.hotkey_file.read_text(encoding="utf-8"))
        return str(held["ss58Address"])

    @property
    def hotkey_file(self) -> Path:
        settings = self.settings
        return hotkey_file(settings.wallet_path, settings.wallet_name, settings.wallet_hotkey)
