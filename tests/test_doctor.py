"""Every check says what it saw and what to do; what cannot be looked at is unknown, never fine."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import HTTPError

import pytest

from cascade.profile import load
from miner import profiles
from miner.chain import ChainAway, ChainUnreadable, Description
from miner.commands.doctor import main
from miner.commands.mock import reserved_ports
from miner.doctor import chain as on_chain
from miner.doctor import machine, weights
from miner.doctor import world as outside
from miner.doctor.examination import CHECKS, examine
from miner.doctor.finding import Finding, Outcome
from miner.doctor.world import ChainFacts, World
from miner.gpu import Card, NoCards
from miner.learning.candidate import Candidate
from miner.learning.judging import Judgement
from miner.learning.versions import Versions
from miner.metagraph import Neuron, Snapshot
from miner.settings import Settings, parse

HOTKEY = "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty"
VALIDATOR = Neuron(0, "validator", 50_000.0, True)
CARD = Card(0, "H100", 80_000_000_000, 1_000_000_000, 0.0, "570.1", "12.8")


def silent(url: str, headers: Mapping[str, str] | None = None) -> bytes:
    raise ConnectionRefusedError(f"nobody at {url}")


def no_cards() -> list[Card]:
    raise NoCards("nvidia-ml-py is not installed")


def settings(tmp_path: Path, *flags: str) -> Settings:
    wallets = tmp_path / "wallets"
    return parse(Settings, ["--state-dir", str(tmp_path), "--wallet-path", str(wallets), *flags])


def with_hotkey(tmp_path: Path, mode: int = 0o600) -> Path:
    file = tmp_path / "wallets" / "default" / "hotkeys" / "default"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"ss58Address": HOTKEY}))
    file.chmod(mode)
    return file


def facts(*neurons: Neuron, **more: float) -> Callable[[], ChainFacts]:
    snapshot = Snapshot(323, block=1000, taken_at=time.time(), neurons={one.hotkey: one for one in neurons})
    told = replace(Description("wss://node.example", 323, "0x0"), **more)  # type: ignore[arg-type]
    return lambda: ChainFacts(snapshot, told)


def world(tmp_path: Path, *flags: str, **more: object) -> World:
    quiet = World(
        settings(tmp_path, "--network", "test", *flags),
        chain=facts(VALIDATOR),
        cards=no_cards,
        clock=lambda: 0.01,
        fetch=silent,
        revisions=lambda: ("a" * 40, "a" * 40),
    )
    return replace(quiet, **more)  # type: ignore[arg-type]


def look(name: str, at: World) -> Finding:
    return {finding.name: finding for finding in examine(at)}[name]


# A machine with nothing.


def test_a_bare_machine_gets_every_check_and_no_crash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside, "PATIENCE", 0.2)
    failed = main(["--json", "--state-dir", str(tmp_path), "--chain-endpoint", "ws://127.0.0.1:1"])
    told = json.loads(capsys.readouterr().out)
    assert [check["name"] for check in told["checks"]] == list(CHECKS)
    assert told["failures"] == failed == sum(check["verdict"] == "fail" for check in told["checks"])
    blind = {check["name"] for check in told["checks"] if check["verdict"] == "unknown"}
    assert {"chain", "registration", "emission", "reachable"} <= blind
    assert all(check["figure"] for check in told["checks"])


def test_the_exit_code_is_the_number_of_failures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(socket.create_server(("", 0))) as taken:
        port = str(taken.getsockname()[1])
        failed = main(["--axon-port", port, "--profile", "nonsense", "--state-dir", str(tmp_path)])
    shown = capsys.readouterr().out
    assert failed >= 2
    assert f"{failed} failed" in shown
    assert "ss -ltnp" in shown


def test_a_check_that_breaks_is_unknown_and_says_how(tmp_path: Path) -> None:
    def breaks() -> float:
        raise ZeroDivisionError("oh")

    finding = look("clock", world(tmp_path, clock=breaks))
    assert (finding.verdict, finding.figure) == (Outcome.UNKNOWN, "ZeroDivisionError: oh")


def test_the_chain_is_asked_once_for_all_checks(tmp_path: Path) -> None:
    asked: list[int] = []

    def chain() -> ChainFacts:
        asked.append(1)
        return facts(VALIDATOR)()

    examine(world(tmp_path, chain=chain))
    assert len(asked) == 1


def test_a_chain_that_cannot_be_reached_fails_nothing_that_depends_on_it(tmp_path: Path) -> None:
    def gone() -> ChainFacts:
        raise ChainAway("wss://node.example does not answer")

    with_hotkey(tmp_path)
    found = {finding.name: finding for finding in examine(world(tmp_path, chain=gone))}
    assert found["chain"].figure == "wss://node.example does not answer"
    for name in ("registration", "who may ask", "emission", "announced address"):
        assert found[name] == Finding(name, Outcome.UNKNOWN, "the chain could not be read: see above")


# The machine.


@pytest.mark.parametrize(
    ("offset", "verdict"), [(0.2, Outcome.OK), (-2.0, Outcome.WARN), (31.0, Outcome.FAIL), (-31.0, Outcome.FAIL)]
)
def test_a_clock_that_is_off_is_named_with_its_seconds(tmp_path: Path, offset: float, verdict: Outcome) -> None:
    finding = look("clock", world(tmp_path, clock=lambda: offset))
    assert finding.verdict is verdict
    assert f"{abs(offset):.3f} s {'behind' if offset > 0 else 'ahead of'}" in finding.figure


@pytest.fixture
def ntp_server() -> Iterator[tuple[int, float]]:
    """A time server on loopback whose clock is 10 s ahead of ours."""
    wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    wire.bind(("127.0.0.1", 0))

    def answer() -> None:
        _, client = wire.recvfrom(512)
        now = time.time() + 10 + outside.NTP_EPOCH
        stamp = struct.pack("!II", int(now), int(now % 1 * 2**32))
        wire.sendto(b"\x24" + 31 * b"\0" + stamp + stamp, client)

    thread = threading.Thread(target=answer)
    thread.start()
    yield wire.getsockname()[1], 10.0
    thread.join()
    wire.close()


def test_the_offset_comes_from_a_time_servers_answer(ntp_server: tuple[int, float]) -> None:
    port, ahead = ntp_server
    assert outside.clock_offset("127.0.0.1", port) == pytest.approx(ahead, abs=5.0)


def test_cards_are_named_with_driver_and_cuda(tmp_path: Path) -> None:
    finding = look("driver and CUDA", world(tmp_path, cards=lambda: [CARD, replace(CARD, index=1)]))
    assert (finding.verdict, finding.figure) == (Outcome.OK, "2 x H100, driver 570.1, CUDA 12.8")


def test_no_card_is_well_where_the_profile_needs_none(tmp_path: Path) -> None:
    finding = look("driver and CUDA", world(tmp_path, cards=no_cards))
    assert (finding.verdict, finding.figure) == (Outcome.OK, "profile embedded needs no card")
    finding = look("driver and CUDA", world(tmp_path, "--profile", "one-80gb", cards=no_cards))
    assert (finding.verdict, finding.figure) == (Outcome.UNKNOWN, "nvidia-ml-py is not installed")


@pytest.mark.parametrize(("free_gb", "verdict"), [(None, Outcome.FAIL), (0.5, Outcome.FAIL), (79, Outcome.OK)])
def test_video_memory_is_held_against_the_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_gb: float | None, verdict: Outcome
) -> None:
    on_card = next(entry for entry in profiles.entries().values() if entry.isolated and entry.memory_gb)
    monkeypatch.setattr(machine, "members", lambda _: [on_card])
    used = int(CARD.memory_total - (free_gb or 0) * 1e9)
    cards = no_cards if free_gb is None else lambda: [replace(CARD, memory_used=used)]
    assert look("video memory", world(tmp_path, cards=cards)).verdict is verdict


def test_a_state_directory_on_a_full_disk_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = type("usage", (), {"free": 1e8})
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: full)
    assert look("disk", world(tmp_path)).verdict is Outcome.FAIL


# The models.


def test_a_profile_that_does_not_exist_lists_those_that_do(tmp_path: Path) -> None:
    finding = look("profile", world(tmp_path, "--profile", "nonsense"))
    assert finding.verdict is Outcome.FAIL
    assert "embedded" in finding.figure


def test_a_promoted_version_is_named_and_a_broken_one_comes_with_the_way_back(tmp_path: Path) -> None:
    looked = world(tmp_path)
    versions = Versions(looked.settings.state / "versions")
    versions.promote(versions.write(Candidate(load("embedded"))), Judgement(None, None, None, ()))
    assert "embedded, version 0001 of improve: 2 tiers" in look("profile", looked).figure
    (versions.directory / "0001" / "embedded.toml").write_text("cut sho")
    finding = look("profile", looked)
    assert finding.verdict is Outcome.FAIL
    assert "improve rollback" in finding.remedy


@pytest.fixture
def gated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entry = profiles.entries()["embedded"].model_copy(update={"repository": "vendor/model", "gated": True})
    monkeypatch.setattr(profiles, "entries", lambda: {"embedded": entry})
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub-home"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)


@pytest.mark.usefixtures("gated")
def test_weights_that_have_to_be_fetched_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = look("weights", world(tmp_path))
    assert (finding.verdict, finding.remedy) == (Outcome.WARN, "./run_miner.sh fetch embedded")
    assert "vendor/model" in finding.figure
    monkeypatch.setattr(weights, "locate", lambda entry: tmp_path)
    assert look("weights", world(tmp_path)).figure == "0 in the package, 1 in the hub's cache"


@pytest.mark.usefixtures("gated")
def test_a_gated_model_without_a_token_fails(tmp_path: Path) -> None:
    finding = look("hub access", world(tmp_path))
    assert (finding.verdict, "HF_TOKEN" in finding.remedy) == (Outcome.FAIL, True)


@pytest.mark.usefixtures("gated")
@pytest.mark.parametrize(("status", "verdict"), [(200, Outcome.OK), (403, Outcome.FAIL), (503, Outcome.UNKNOWN)])
def test_the_hub_is_asked_whether_the_token_may_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, verdict: Outcome
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    asked: list[tuple[str, Mapping[str, str] | None]] = []

    def hub(url: str, headers: Mapping[str, str] | None = None) -> bytes:
        if "huggingface" not in url:
            return silent(url)
        asked.append((url, headers))
        if status != 200:
            raise HTTPError(url, status, "no", {}, None)  # type: ignore[arg-type]
        return b"{}"

    finding = look("hub access", world(tmp_path, fetch=hub))
    assert finding.verdict is verdict
    assert asked == [
        ("https://huggingface.co/api/models/vendor/model/auth-check", {"Authorization": "Bearer hf_secret"})
    ]
    assert "hf_secret" not in finding.figure + finding.remedy


# The wallet and the chain.


def test_a_missing_hotkey_comes_with_the_command_that_makes_one(tmp_path: Path) -> None:
    finding = look("wallet", world(tmp_path))
    assert finding.verdict is Outcome.FAIL
    assert "btcli wallet new-hotkey --wallet.name default --wallet.hotkey default" in finding.remedy


def test_a_hotkey_for_its_owner_only_is_well(tmp_path: Path) -> None:
    with_hotkey(tmp_path)
    assert look("wallet", world(tmp_path)) == Finding("wallet", Outcome.OK, HOTKEY)


def test_a_hotkey_that_others_may_read_is_warned_of(tmp_path: Path) -> None:
    file = with_hotkey(tmp_path, mode=0o644)
    assert look("wallet", world(tmp_path)).remedy == f"chmod 600 {file}"


def test_a_coldkey_beside_it_is_warned_of(tmp_path: Path) -> None:
    file = with_hotkey(tmp_path)
    (file.parent.parent / "coldkey").write_text("encrypted")
    finding = look("wallet", world(tmp_path))
    assert (finding.verdict, "coldkey" in finding.figure) == (Outcome.WARN, True)


def test_a_file_that_is_no_hotkey_fails(tmp_path: Path) -> None:
    with_hotkey(tmp_path).write_text("{}")
    assert look("wallet", world(tmp_path)).verdict is Outcome.FAIL


def test_a_hotkey_that_is_not_registered_gets_the_command_and_the_price(tmp_path: Path) -> None:
    with_hotkey(tmp_path)
    finding = look("registration", world(tmp_path, chain=facts(VALIDATOR, registration=0.0512)))
    assert finding.verdict is Outcome.FAIL
    assert "0.0512 TAO" in finding.figure
    assert "btcli subnet register --netuid 323 --wallet.name default" in finding.remedy


def test_a_registered_hotkey_is_shown_with_its_uid(tmp_path: Path) -> None:
    with_hotkey(tmp_path)
    finding = look("registration", world(tmp_path, chain=facts(VALIDATOR, Neuron(7, HOTKEY, 0.0, False))))
    assert (finding.verdict, finding.figure) == (Outcome.OK, "uid 7")


def test_a_hotkey_that_validators_never_ask_fails(tmp_path: Path) -> None:
    with_hotkey(tmp_path)
    whale = Neuron(7, HOTKEY, 50_000.0, True)
    assert look("registration", world(tmp_path, chain=facts(whale))).verdict is Outcome.FAIL


def test_who_may_ask_is_counted(tmp_path: Path) -> None:
    chain = facts(VALIDATOR, Neuron(1, "miner", 5.0, False))
    assert look("who may ask", world(tmp_path, chain=chain)).figure.startswith("1 of 2 hotkeys")
    nobody = look("who may ask", world(tmp_path, "--minimum-stake", "1000000", chain=chain))
    assert nobody.verdict is Outcome.FAIL


def test_answering_anybody_is_warned_of(tmp_path: Path) -> None:
    assert look("who may ask", world(tmp_path, "--allow-non-registered")).verdict is Outcome.WARN


@pytest.mark.parametrize(("burned", "verdict"), [(1.0, Outcome.WARN), (0.0, Outcome.OK), (None, Outcome.UNKNOWN)])
def test_burned_emission_is_said_before_it_costs(tmp_path: Path, burned: float | None, verdict: Outcome) -> None:
    told = {} if burned is None else {"burned": burned}
    finding = look("emission", world(tmp_path, chain=facts(VALIDATOR, **told)))
    assert finding.verdict is verdict
    if burned:
        assert "100% of the miners' emission is burned" in finding.figure


def test_a_lagging_node_is_told_by_the_age_of_its_newest_block(tmp_path: Path) -> None:
    at = world(tmp_path, chain=facts(VALIDATOR, block_time=time.time() - 600))
    assert look("chain", at).verdict is Outcome.WARN


def test_an_sdk_that_does_not_fit_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_chain, "version", lambda _: "9.12.2")
    finding = look("SDK", world(tmp_path))
    assert (finding.verdict, finding.figure) == (Outcome.FAIL, "bittensor 9.12.2")
    assert "bittensor>=10.5,<11" in finding.remedy


def test_a_chain_that_the_sdk_cannot_read_is_the_sdks_failure(tmp_path: Path) -> None:
    def strange() -> ChainFacts:
        raise ChainUnreadable("wss://node.example answers what bittensor 10.5.0 cannot read")

    finding = look("SDK", world(tmp_path, chain=strange))
    assert (finding.verdict, "cannot read" in finding.figure) == (Outcome.FAIL, True)


# Reachability.


@pytest.fixture
def echoip() -> Iterator[str]:
    """A server that, like echoip, really connects back to the port it is asked about."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer: dict[str, object] = {"ip": "127.0.0.1"}
            if self.path.startswith("/port/"):
                port = int(self.path.rpartition("/")[2])
                try:
                    socket.create_connection(("127.0.0.1", port), 60).close()
                    answer |= {"port": port, "reachable": True}
                except OSError:
                    answer |= {"port": port, "reachable": False}
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def free_ports() -> Iterator[list[str]]:
    """Two that nobody listens on, and that nobody else is given meanwhile."""
    with reserved_ports(2) as held:
        yield [str(port) for port in held]


def test_the_port_is_tried_from_outside_even_when_no_miner_listens_yet(
    tmp_path: Path, echoip: str, free_ports: list[str]
) -> None:
    at = world(tmp_path, "--axon-port", free_ports[0], reflector=echoip, fetch=outside.fetch)
    assert look("reachable", at).verdict is Outcome.OK


def test_a_port_that_outside_cannot_reach_fails(tmp_path: Path, echoip: str, free_ports: list[str]) -> None:
    ours, outer = free_ports
    at = world(tmp_path, "--axon-port", ours, "--external-port", outer, reflector=echoip, fetch=outside.fetch)
    finding = look("reachable", at)
    assert (finding.verdict, "--external-port" in finding.remedy) == (Outcome.FAIL, True)


@pytest.mark.parametrize(
    "came",
    [
        b'{"ip": "203.0.113.9"}',
        b'{"ip": "203.0.113.9", "reachable": "no"}',
        b'{"ip": "here", "reachable": true}',
        b'["203.0.113.9", true]',
        b"203.0.113.9",
        b"",
        b"\xff\xfe",
    ],
)
def test_a_reflector_that_is_no_echoip_server_is_named_with_what_it_said(
    tmp_path: Path, came: bytes, free_ports: list[str]
) -> None:
    def fetch(url: str, headers: Mapping[str, str] | None = None) -> bytes:
        return came if url.startswith("http://site.example/") else silent(url)

    finding = look(
        "reachable", world(tmp_path, "--axon-port", free_ports[0], reflector="http://site.example", fetch=fetch)
    )
    assert finding.verdict is Outcome.UNKNOWN
    assert "/port/" in finding.figure
    assert 'expected JSON with "ip" and "reachable"' in finding.figure
    assert finding.figure.endswith(f"got {came.decode(errors='replace')!r}")
    assert "--reflector" in finding.remedy


def test_a_reflector_that_refuses_and_one_that_sends_a_page_are_told_in_a_line(
    tmp_path: Path, free_ports: list[str]
) -> None:
    with_hotkey(tmp_path)
    chain = facts(Neuron(7, HOTKEY, 0.0, False, "203.0.113.9", 8091))

    def fetch(url: str, headers: Mapping[str, str] | None = None) -> bytes:
        if url == "http://site.example/json":
            raise HTTPError(url, 429, "Too Many Requests", {}, None)  # type: ignore[arg-type]
        return b"<html>" * 1000 if url.startswith("http://site.example/") else silent(url)

    at = world(tmp_path, "--axon-port", free_ports[0], chain=chain, reflector="http://site.example", fetch=fetch)
    told = look("announced address", at).figure
    assert told == 'http://site.example/json: expected JSON with "ip", got status 429 Too Many Requests'
    assert len(look("reachable", at).figure) < 200


def test_announced_and_real_address_are_compared(tmp_path: Path, echoip: str) -> None:
    with_hotkey(tmp_path)
    with closing(socket.create_server(("127.0.0.1", 0))) as axon:
        port = axon.getsockname()[1]
        chain = facts(Neuron(7, HOTKEY, 0.0, False, "127.0.0.1", port))
        right = world(tmp_path, "--axon-port", str(port), chain=chain, reflector=echoip, fetch=outside.fetch)
        assert look("announced address", right).verdict is Outcome.OK
        wrong = replace(right, settings=settings(tmp_path, "--network", "test", "--external-ip", "203.0.113.9"))
        finding = look("announced address", wrong)
    assert finding.verdict is Outcome.FAIL
    assert f"127.0.0.1:{port} announced, 203.0.113.9:8091 expected" in finding.figure


def test_an_address_never_announced_is_warned_of(tmp_path: Path) -> None:
    with_hotkey(tmp_path)
    chain = facts(Neuron(7, HOTKEY, 0.0, False))
    assert look("announced address", world(tmp_path, chain=chain)).verdict is Outcome.WARN


# The running miner.


def health(ready: bool, port: int = 8091, last: float | None = None) -> Callable[..., bytes]:
    def answer(url: str, headers: Mapping[str, str] | None = None) -> bytes:
        if url.endswith("/readyz"):
            state = {
                "ready": ready,
                "reason": "tier signs: loading",
                "uid": 7,
                "network": "test",
                "axon": {"port": port},
            }
            return json.dumps(state).encode()
        if url.endswith("/metrics"):
            return f"streetvision_last_challenge_timestamp_seconds {last or 0.0}\n".encode()
        return silent(url)

    return answer


def test_a_running_miner_is_asked_how_it_is(tmp_path: Path) -> None:
    assert look("running miner", world(tmp_path, fetch=health(True))).figure == "ready, uid 7 on test"
    not_ready = look("running miner", world(tmp_path, fetch=health(False)))
    assert (not_ready.verdict, not_ready.figure) == (Outcome.FAIL, "not ready: tier signs: loading")


def test_a_port_held_by_our_own_miner_is_well(tmp_path: Path) -> None:
    with closing(socket.create_server(("", 0))) as axon:
        port = axon.getsockname()[1]
        at = world(tmp_path, "--axon-port", str(port), fetch=health(True, port))
        assert look("axon port", at).verdict is Outcome.OK


@pytest.mark.parametrize(("ago", "verdict"), [(60, Outcome.OK), (7200, Outcome.WARN), (None, Outcome.WARN)])
def test_a_miner_that_nobody_asks_is_told_of(tmp_path: Path, ago: float | None, verdict: Outcome) -> None:
    last = None if ago is None else time.time() - ago
    assert look("last challenge", world(tmp_path, fetch=health(True, last=last))).verdict is verdict


def test_a_health_port_beyond_this_machine_is_warned_of(tmp_path: Path) -> None:
    assert look("health port", world(tmp_path, "--health-host", "0.0.0.0")).verdict is Outcome.WARN


def test_a_health_port_that_something_else_holds_fails(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        finding = look("health port", world(tmp_path, "--health-port", port))
        assert (finding.verdict, finding.figure) == (Outcome.FAIL, f"127.0.0.1:{port}: Address already in use")
        assert "--health-port" in finding.remedy
        ours = world(tmp_path, "--health-port", port, fetch=health(True, 8091))
        assert look("health port", ours).verdict is Outcome.OK


def test_a_newer_revision_at_the_origin_is_told_of(tmp_path: Path) -> None:
    finding = look("update", world(tmp_path, revisions=lambda: ("a" * 40, "b" * 40)))
    assert (finding.verdict, finding.remedy) == (Outcome.WARN, "git pull, then restart")


def test_the_mock_network_has_no_chain_to_ask(tmp_path: Path) -> None:
    at = settings(tmp_path)
    finding = look("chain", world(tmp_path, chain=lambda: outside.read_chain(at)))
    assert (finding.verdict, finding.figure) == (Outcome.UNKNOWN, "network mock: no chain is asked")
