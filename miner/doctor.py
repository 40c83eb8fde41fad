"""What a person should know before a card costs money: ordered checks, each with a verdict, a figure and a remedy.

`examine(world)` runs every check side by side. A check that cannot look (no chain, no card, no network) says
"unknown" and why; only "fail" counts against the miner. Everything outside this process is reached through `World`,
so that the checks themselves can be tested with nothing there.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from cascade.profile import ProfileError
from miner.assembly import LEARNED, in_force
from miner.chain import ChainError, ChainUnreadable, Description, open_chain, register_command
from miner.gpu import GB, Card, NoCards
from miner.gpu import cards as driver_cards
from miner.metagraph import Neuron, Snapshot
from miner.profiles import load
from miner.settings import Settings, UsageError
from miner.wallet import hotkey_file
from models import planner
from models.base import BadWeights, ModelError
from models.catalog import Entry, entries
from models.weights import locate

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 3.0  # seconds for each question asked of the network
NTP_SERVER = "pool.ntp.org"
NTP_EPOCH = 2_208_988_800  # seconds from 1900, where NTP counts from, to 1970
NEVER_ASKED_STAKE = 40_096.0  # validators do not ask a miner that holds a permit and more stake than this


class Outcome(StrEnum):
    """ok: as it should be. warn: works, but look. fail: the miner will not earn. unknown: could not be looked at."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. figure: what was seen. remedy: what to do about it, empty when nothing."""

    name: str
    verdict: Outcome
    figure: str
    remedy: str = ""


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


Said = tuple[Outcome, str, str]


def ok(figure: str) -> Said:
    return Outcome.OK, figure, ""


def warn(figure: str, remedy: str) -> Said:
    return Outcome.WARN, figure, remedy


def fail(figure: str, remedy: str) -> Said:
    return Outcome.FAIL, figure, remedy


def unknown(figure: str, remedy: str = "") -> Said:
    return Outcome.UNKNOWN, figure, remedy


# The machine.


def python(_: World) -> Said:
    figure = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    return ok(figure) if sys.version_info >= (3, 11) else fail(figure, "install Python 3.11 or newer")


def driver(world: World) -> Said:
    found = world.cards()
    names = ", ".join(sorted({card.name for card in found}))
    return ok(f"{len(found)} x {names}, driver {found[0].driver}, CUDA {found[0].cuda}")


def video_memory(world: World) -> Said:
    keys = [entry.key for entry in members(world.settings.profile)]
    needed, _ = planner.jobs(keys, [80.0])
    if not needed:
        return ok(f"profile {world.settings.profile} needs no card")
    try:
        free = [(card.memory_total - card.memory_used) / GB for card in world.cards()]
    except NoCards as error:
        return fail(f"{world.settings.profile} needs a card; {error}", "choose --profile embedded, or rent a card")
    figure = f"{', '.join(f'{each:.1f}' for each in free)} GB free"
    try:
        placement = planner.place(keys, free)
    except planner.DoesNotFit as error:
        return fail(f"{figure}; {error}", "choose a smaller --profile, or end what holds the card (see nvidia-smi)")
    return ok(f"{figure}; {len(placement.placed)} processes fit")


def members(name: str) -> list[Entry]:
    """What the catalog says of a profile's models, those it does not know left out. Raises ProfileError."""
    return [entries()[member.model] for member in load(name).members if member.model in entries()]


def disk(world: World) -> Said:
    place = world.settings.state_dir.expanduser()
    existing = next(path for path in (place, *place.parents) if path.exists())
    free = shutil.disk_usage(existing).free / GB
    figure = f"{free:.1f} GB free at {existing}"
    if not os.access(existing, os.W_OK):
        return fail(f"{existing} cannot be written", "choose another --state-dir")
    if free < 0.5:
        return fail(figure, "free some space, or choose another --state-dir")
    return ok(figure) if free >= 5 else warn(figure, "weights and journals grow: 5 GB or more is comfortable")


def clock(world: World) -> Said:
    """Signed requests carry a time, and validators compare it."""
    offset = world.clock()
    figure = f"{abs(offset):.3f} s {'behind' if offset > 0 else 'ahead of'} {NTP_SERVER}"
    remedy = "sudo timedatectl set-ntp true"
    return ok(figure) if abs(offset) < 1 else warn(figure, remedy) if abs(offset) < 3 else fail(figure, remedy)


# The models.


def profile(world: World) -> Said:
    try:
        served = in_force(world.settings)
    except (UsageError, ProfileError) as error:
        return fail(str(error), "see docs/tuning.md for the profiles that ship; ./run_miner.sh improve rollback")
    except ModelError as error:
        return fail(str(error), "./run_miner.sh improve rollback")
    chosen = served.profile
    strange = sorted({member.model for member in chosen.members} - set(entries()) - set(LEARNED))
    if strange:
        return fail(f"{chosen.name}: no such model: {', '.join(strange)}", "models/catalog.toml lists the known ones")
    fitted = f"fitted {chosen.fit.date[:10]} on {chosen.fit.n} pictures" if chosen.fit else "default weights and band"
    number = f", version {served.version} of improve" if served.version else ""
    return ok(f"{chosen.name}{number}: {len(chosen.tiers)} tiers, {len(chosen.members)} models, {fitted}")


def weights(world: World) -> Said:
    chosen = members(world.settings.profile)
    remote = [entry for entry in chosen if entry.repository]
    missing = []
    for entry in remote:
        try:
            locate(entry)
        except BadWeights as error:
            missing.append(str(error))
    if missing:
        return warn("; ".join(missing), f"./run_miner.sh fetch {world.settings.profile}")
    return ok(f"{len(chosen) - len(remote)} in the package, {len(remote)} in the hub's cache")


def hub(world: World) -> Said:
    gated = [entry.repository for entry in members(world.settings.profile) if entry.gated]
    if not gated:
        return ok(f"profile {world.settings.profile} needs no token")
    token = hub_token()
    if not token:
        return fail(f"no token, and gated: {', '.join(gated)}", "huggingface-cli login, after accepting each licence")
    refused = [name for name in gated if not _granted(world, name, token)]
    if refused:
        pages = " ".join(f"https://huggingface.co/{name}" for name in refused)
        return fail(f"the token may not read {', '.join(refused)}", f"accept the licence: {pages}")
    return ok(f"token may read {', '.join(gated)}")


def _granted(world: World, repository: str, token: str) -> bool:
    try:
        world.fetch(f"https://huggingface.co/api/models/{repository}/auth-check", {"Authorization": f"Bearer {token}"})
    except HTTPError as error:
        if error.code in {401, 403, 404}:
            return False
        raise
    return True


def hub_token() -> str:
    """The Hugging Face token of this user, empty if there is none. Never shown."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    kept = Path(os.environ.get("HF_TOKEN_PATH", home / "token"))
    return os.environ.get("HF_TOKEN", "") or (kept.read_text(encoding="utf-8").strip() if kept.is_file() else "")


# Who we are, and what the chain says.


def sdk(world: World) -> Said:
    remedy = "pip install 'bittensor>=10.5,<11': older ones cannot read today's chain, newer ones have no axon"
    try:
        installed = version("bittensor")
    except PackageNotFoundError:
        return fail("bittensor is not installed", remedy)
    major, minor = (int(part) for part in installed.split(".")[:2])
    if not (major == 10 and minor >= 5):
        return fail(f"bittensor {installed}", remedy)
    try:
        spec = world.chain().told.spec_version
    except ChainUnreadable as error:
        return fail(f"bittensor {installed} cannot read this chain: {error}", "update the SDK, or wait for its release")
    except (NotAsked, ChainError):
        return ok(f"bittensor {installed}")
    return ok(f"bittensor {installed} reads the chain's runtime {spec if spec is not None else '(version not told)'}")


def wallet(world: World) -> Said:
    settings, file = world.settings, world.hotkey_file
    if settings.network == "mock":
        return unknown("network mock: a throw-away hotkey is made", "doctor --network test looks for yours")
    try:
        hotkey = world.hotkey()
    except FileNotFoundError:
        names = f"--wallet.name {settings.wallet_name} --wallet.hotkey {settings.wallet_hotkey}"
        return fail(f"{file}: no such file", f"btcli wallet new-hotkey {names}, or copy the hotkey file there")
    except (ValueError, KeyError):
        return fail(f"{file}: not a hotkey file", "copy it again from where the wallet was made")
    if file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return warn(f"{hotkey}, readable by others", f"chmod 600 {file}")
    cold = file.parent.parent / "coldkey"
    if cold.is_file():
        return warn(f"{hotkey}; the coldkey is on this machine too", f"a miner needs the hotkey only: move {cold} away")
    return ok(hotkey)


def chain(world: World) -> Said:
    facts = world.chain()
    figure = f"block {facts.snapshot.block}, {len(facts.snapshot.neurons)} neurons on {facts.snapshot.netuid}"
    if facts.told.block_time is None:
        return ok(figure)
    behind = time.time() - facts.told.block_time
    figure += f", newest block {behind:.0f} s old"
    remedy = "set the clock, or choose another --chain-endpoint: this node lags"
    return ok(figure) if -3 <= behind < 60 else warn(figure, remedy)


def registration(world: World) -> Said:
    mine, settings = world.me(), world.settings
    if mine is None:
        cost = world.chain().told.registration
        price = f" (costs {cost:.4f} TAO now)" if cost is not None else ""
        return fail(
            f"{world.hotkey()} is not registered on {settings.subnet}{price}",
            register_command(settings.subnet, settings.network, settings.wallet_name, settings.wallet_hotkey),
        )
    if mine.validator_permit and mine.stake > NEVER_ASKED_STAKE:
        figure = f"uid {mine.uid}, with a validator permit and a stake of {mine.stake:.0f}"
        return fail(figure, f"validators never ask such a hotkey (limit {NEVER_ASKED_STAKE:.0f}): mine with another")
    return ok(f"uid {mine.uid}")


def permits(world: World) -> Said:
    settings = world.settings
    if settings.allow_non_registered:
        return warn("any signed caller is answered", "for tests only: drop --allow-non-registered")
    everybody = world.chain().snapshot.neurons.values()
    permitted = [one for one in everybody if one.validator_permit or not settings.force_validator_permit]
    admitted = [one for one in permitted if one.stake >= settings.minimum_stake]
    rule = "with a validator permit" if settings.force_validator_permit else "registered"
    figure = f"{len(admitted)} of {len(everybody)} hotkeys may ask ({rule}, stake at least {settings.minimum_stake:g})"
    return ok(figure) if admitted else fail(figure, "lower --minimum-stake: nobody could ask")


def income(world: World) -> Said:
    told = world.chain().told
    if told.burned is None:
        return unknown("the chain did not say what is burned", "look at the subnet's page before paying for a card")
    figure = f"{told.burned:.0%} of the miners' emission is burned"
    if told.emission is not None:
        figure += f", {told.emission:.1f} alpha a day to miners before it"
    return ok(figure) if told.burned < 0.5 else warn(figure, "a miner earns next to nothing while this lasts")


# Reachability.


def port(world: World) -> Said:
    settings = world.settings
    miner = world.running()
    if miner and miner.get("axon", {}).get("port") == settings.axon_port:
        return ok(f"{settings.axon_port} is held by the running miner")
    try:
        _listen(settings.axon_host or "", settings.axon_port).close()
    except OSError as error:
        return fail(
            f"{settings.axon_port}: {error.strerror}", f"ss -ltnp 'sport = :{settings.axon_port}' shows the owner"
        )
    return ok(f"{settings.axon_port} is free")


def reachable(world: World) -> Said:
    """Asks an echoip server to connect back; listens for that moment when no miner does."""
    settings = world.settings
    if not world.reflector:
        return unknown("nobody outside was asked", "--reflector https://ifconfig.co lets that site try the port")
    announced = settings.external_port or settings.axon_port
    try:
        listener = _listen(settings.axon_host or "", settings.axon_port)
    except OSError:
        listener = None  # the miner itself is listening
    try:
        seen = _reflected(world, f"port/{announced}")
    finally:
        if listener:
            listener.close()
    figure = f"{seen['ip']}:{announced} " + ("answers from outside" if seen["reachable"] else "cannot be reached")
    remedy = "open the port in the firewall and the host's port map; set --external-port when the outer one differs"
    return ok(figure) if seen["reachable"] else fail(figure, remedy)


def announced(world: World) -> Said:
    mine, settings = world.me(), world.settings
    if mine is None:
        return unknown("not registered, so nothing is announced")
    if not mine.port:
        return warn("nothing announced yet", "serve announces it at its first start")
    figure = f"{mine.ip}:{mine.port}"
    expected_port = settings.external_port or settings.axon_port
    expected_ip = settings.external_ip or (str(_reflected(world, "json")["ip"]) if world.reflector else mine.ip)
    if (mine.ip, mine.port) != (expected_ip, expected_port):
        remedy = "start serve again with --external-ip and --external-port as they are, or mend these settings"
        return fail(f"{figure} announced, {expected_ip}:{expected_port} expected", remedy)
    try:
        socket.create_connection((mine.ip, mine.port), PATIENCE).close()
    except OSError as error:
        remedy = "start the miner; behind NAT a machine may not reach itself: --reflector asks from outside"
        return warn(f"{figure} does not answer from here: {error}", remedy)
    return ok(f"{figure} answers")


def _reflected(world: World, path: str) -> Any:
    """What the echoip server says. Raises OSError, or ValueError when it is none."""
    return json.loads(world.fetch(f"{world.reflector.rstrip('/')}/{path}", {"Accept": "application/json"}))


def _listen(host: str, at: int) -> socket.socket:
    """A socket that listens on one address, or on all of them, IPv4 and IPv6. Raises OSError."""
    if host:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, at), family=family)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", at), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", at))


# The running miner, and this software.


def running(world: World) -> Said:
    miner = world.running()
    if miner is None:
        return unknown(f"no miner at {world.health}", f"./run_miner.sh serve --network {world.settings.network}")
    if not miner.get("ready"):
        return fail(f"not ready: {miner.get('reason')}", "its log says more")
    return ok(f"ready, uid {miner.get('uid')} on {miner.get('network')}")


def last_challenge(world: World) -> Said:
    try:
        text = world.fetch(f"{world.health}/metrics", None).decode()
    except OSError:
        return unknown(f"no miner at {world.health} to ask")
    seen = [line.split()[-1] for line in text.splitlines() if line.startswith("streetvision_last_challenge_timestamp")]
    at = float(seen[0]) if seen else 0.0
    remedy = "the subnet may be halted: look at the burn rate above and the subnet's announcements"
    if not at:
        return warn("none since the miner started", remedy)
    figure = f"{time.time() - at:.0f} s ago"
    return ok(figure) if time.time() - at < 3600 else warn(figure, remedy)


def health_port(world: World) -> Said:
    host = world.settings.health_host
    if host in {"127.0.0.1", "::1", "localhost"}:
        return ok(f"{host}:{world.settings.health_port}, this machine only")
    return warn(
        f"{host}:{world.settings.health_port}", "anybody who reaches it reads the metrics: keep it in a private net"
    )


def update(world: World) -> Said:
    mine, theirs = world.revisions()
    return (
        ok(mine[:10])
        if mine == theirs
        else warn(f"{mine[:10]} here, {theirs[:10]} at origin", "git pull, then restart")
    )


CHECKS: Mapping[str, Callable[[World], Said]] = {
    "python": python,
    "driver and CUDA": driver,
    "video memory": video_memory,
    "disk": disk,
    "clock": clock,
    "profile": profile,
    "weights": weights,
    "hub access": hub,
    "SDK": sdk,
    "wallet": wallet,
    "chain": chain,
    "registration": registration,
    "who may ask": permits,
    "emission": income,
    "axon port": port,
    "reachable": reachable,
    "announced address": announced,
    "health port": health_port,
    "running miner": running,
    "last challenge": last_challenge,
    "update": update,
}


def examine(world: World) -> list[Finding]:
    """Every check, in the order of `CHECKS`. Never raises: what cannot be looked at is unknown, and says why."""
    with ThreadPoolExecutor(len(CHECKS) + 1) as pool:
        asked_once = pool.submit(world.chain)
        shared = replace(world, chain=asked_once.result)
        return list(pool.map(lambda item: _finding(item[0], item[1], shared), CHECKS.items()))


def _finding(name: str, check: Callable[[World], Said], world: World) -> Finding:
    try:
        return Finding(name, *check(world))
    except ChainError as error:
        return Finding(
            name, Outcome.UNKNOWN, str(error) if check is chain else "the chain could not be read: see above"
        )
    except (NotAsked, NoCards) as error:
        return Finding(name, Outcome.UNKNOWN, str(error))
    except FileNotFoundError as error:
        return Finding(name, Outcome.UNKNOWN, f"{error.filename}: no such file")
    except subprocess.SubprocessError:
        return Finding(name, Outcome.UNKNOWN, "git could not compare this checkout with an origin")
    except (URLError, TimeoutError, socket.gaierror) as error:
        return Finding(name, Outcome.UNKNOWN, f"no answer: {error}", "needs the network")
    except Exception as error:
        return Finding(name, Outcome.UNKNOWN, f"{type(error).__name__}: {error}")


def failures(findings: Sequence[Finding]) -> int:
    """How many failed: the exit code."""
    return sum(finding.verdict is Outcome.FAIL for finding in findings)


def as_json(findings: Sequence[Finding]) -> str:
    """`{"failures": n, "checks": [{"name", "verdict", "figure", "remedy"}]}`."""
    return json.dumps({"failures": failures(findings), "checks": [asdict(finding) for finding in findings]}, indent=2)
