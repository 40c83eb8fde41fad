"""The mock validator against a stock SDK axon and a `/readyz` like the miner's: real sockets, real signatures."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import socket
import threading
import time
import typing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import bittensor
import numpy as np
import pytest
from bittensor_wallet import Keypair, Wallet
from PIL import Image
from rich.console import Console

from cascade.trace import Record
from cascade.trace import write as trace_line
from cascade.verdict import Source, Stop, Verdict
from miner.mocknet import VALIDATORS, dev_validator
from miner.protocol import ImageSynapse
from miner.report import Board, Exchange
from models.base import Frame
from neurons import validator

# The SDK reads pydantic's `model_fields` the old way, and a dendrite that was closed warns again when it is collected.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Accessing the 'model_fields'"),
    pytest.mark.filterwarnings("ignore:You are calling this from an already-running event loop"),
]


def sees_red(image):
    return 0.9 if np.asarray(image)[..., 0].mean() > 60 else 0.2


class StockMiner:
    """The SDK's own axon, and the health port that a miner has beside it."""

    def __init__(self, folder, ports):
        self.says = sees_red
        self.callers = []
        self.ready = True
        self.trace = None
        wallet = Wallet(name="stock", path=str(folder))
        wallet.set_hotkey(Keypair.create_from_uri("//stock-miner"), encrypt=False, overwrite=True)
        self.hotkey = wallet.hotkey.ss58_address
        axon_port, health_port = ports
        self.axon = bittensor.Axon(wallet=wallet, port=axon_port, ip="127.0.0.1", external_ip="127.0.0.1")
        self.axon.attach(forward_fn=self._forward_function())
        self.health = ThreadingHTTPServer(("127.0.0.1", health_port), self._handler())
        self.url = f"http://127.0.0.1:{health_port}"
        self.port = axon_port

    def _forward_function(self):
        def forward(synapse: ImageSynapse) -> ImageSynapse:
            jpeg = base64.b64decode(synapse.image)
            self.callers.append(synapse.dendrite.hotkey)
            synapse.prediction = self.says(Image.open(io.BytesIO(jpeg)))
            if self.trace is not None:
                frame = Frame(np.zeros((1, 1, 3), np.uint8), hashlib.sha256(jpeg).hexdigest())
                p = synapse.prediction
                verdict = Verdict(p, (p, p), (), (), ("eye",), Stop.DECIDED, Source.CASCADE, False, 2.0)
                with self.trace.open("a") as file:
                    file.write(trace_line(Record.of(verdict, frame)) + "\n")
            return synapse

        forward.__annotations__ = typing.get_type_hints(forward)
        return forward

    def _handler(self):
        miner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                body = {"ready": miner.ready, "reason": "still loading", "hotkey": miner.hotkey, "uid": 7}
                body |= {"network": "mock", "axon": {"ip": "127.0.0.1", "port": miner.port}, "tiers": []}
                self.send_response(200 if miner.ready else 503)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_):
                pass

        return Handler

    def __enter__(self):
        threading.Thread(target=self.health.serve_forever, daemon=True).start()
        self.axon.start()
        while not self._listens():
            time.sleep(0.01)
        return self

    def _listens(self):
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except ConnectionRefusedError:
            return False
        return True

    def __exit__(self, *_):
        self.axon.stop()
        self.health.shutdown()
        self.health.server_close()


@pytest.fixture
def miner(tmp_path):
    from miner.commands.mock import reserved_ports

    with reserved_ports(2) as ports, StockMiner(tmp_path / "wallets", ports) as running:
        yield running


@pytest.fixture
def pictures(tmp_path):
    """Red is road work, blue is clear."""
    for name, colour in (("roadwork", (250, 30, 30)), ("clear", (20, 20, 240))):
        (tmp_path / "city" / name).mkdir(parents=True)
        Image.new("RGB", (64, 48), colour).save(tmp_path / "city" / name / "a.png")
    return tmp_path / "city"


def run(miner, pictures, *more):
    return validator.main(["--miner", miner.url, "--images", str(pictures), "--challenges", "24", *more])


@pytest.mark.slow
def test_a_perfect_miner_is_asked_by_each_validator_with_its_own_key_and_reported_as_perfect(
    miner, pictures, tmp_path, capsys
):
    code = run(miner, pictures, "--era", "2026-05", "--report", str(tmp_path / "out"), "--validators", "3", "--json")
    printed = json.loads(capsys.readouterr().out)
    assert code == 0
    assert printed == json.loads((tmp_path / "out" / "report.json").read_text())
    assert printed["answers"] | {"organic": 0} == {"challenges": 24, "answered": 24, "organic": 0, "failures": {}}
    assert printed["reward"]["total"]["mcc"] == printed["reward"]["total"]["reward"] == 1.0
    assert printed["run"]["hotkey"] == miner.hotkey
    assert set(miner.callers) == {dev_validator(i).ss58_address for i in range(3)}
    assert "<svg" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.slow
def test_lines_without_a_terminal_and_the_trace_tells_the_tiers(miner, pictures, tmp_path, capsys):
    miner.trace = tmp_path / "trace.jsonl"
    code = run(miner, pictures, "--trace", str(miner.trace), "--organic", "0.3")
    text = capsys.readouterr().out
    assert code == 0
    assert "24/24 asked, 24 answered" in text
    assert "24 x eye" in text
    assert "MCC, last 100" in text


@pytest.mark.slow
def test_a_miner_that_fails_is_counted_by_cause_and_the_exit_code_says_so(miner, pictures, capsys):
    answers = iter([0.9, 1.5, float("nan"), -1.0] * 6)
    miner.says = lambda image: next(answers)
    code = run(miner, pictures, "--json", "--organic", "0")
    values = json.loads(capsys.readouterr().out)
    assert code == 1
    assert values["answers"]["answered"] == 6
    assert values["answers"]["failures"]["outside [0, 1]"] == 6
    assert values["answers"]["failures"]["200 without a prediction (-1)"] == 6
    assert sum(values["answers"]["failures"].values()) == 18


@pytest.mark.slow
def test_a_miner_that_goes_away_is_reported_not_raised(miner, pictures, capsys):
    miner.port = 1  # nobody listens there
    code = run(miner, pictures, "--json")
    values = json.loads(capsys.readouterr().out)
    assert code == 1
    assert values["answers"]["answered"] == 0
    assert sum(values["answers"]["failures"].values()) == 24
    assert values["quality"] is None


@pytest.mark.slow
def test_organic_requests_overlap_with_challenges(miner, pictures, capsys):
    """They leave through a dendrite of their own, so the axon's rule that nonces must grow refuses none."""
    miner.says = lambda image: (time.sleep(0.02), sees_red(image))[1]
    assert run(miner, pictures, "--organic", "0.5", "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert 4 < values["answers"]["organic"] < 20
    assert values["quality"]["n"] == 24 - values["answers"]["organic"]


@pytest.mark.slow
def test_pictures_that_cannot_be_read_end_the_run_with_their_name(miner, tmp_path, capsys):
    for name in ("roadwork", "clear"):
        (tmp_path / "city" / name).mkdir(parents=True)
        (tmp_path / "city" / name / "broken.jpg").write_bytes(b"")
    assert run(miner, tmp_path / "city") == 2
    assert "broken.jpg" in capsys.readouterr().err


def test_a_miner_that_is_not_ready_is_named_with_its_reason(miner, pictures, capsys):
    miner.ready = False
    assert run(miner, pictures) == 2
    assert "still loading" in capsys.readouterr().err


def test_no_miner_gives_the_command_that_starts_one(capsys):
    assert validator.main(["--miner", "http://127.0.0.1:1"]) == 2
    assert "serve --network mock" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--validators", "17"], "validators"),
        (["--organic", "2"], "organic"),
        (["--era", "2025-01"], "era"),
        (["--images", ".", "--dataset", "b"], "expected one of them"),
    ],
)
def test_wrong_flags_are_named(flags, says, capsys):
    assert validator.main(flags) == 2
    assert says in capsys.readouterr().err


def test_a_command_in_brackets_reaches_the_terminal_whole(monkeypatch, capsys):
    def missing(_):
        raise ModuleNotFoundError("run: pip install '.[hub]'")

    monkeypatch.setattr(validator, "ready", missing)
    assert validator.main(["--dataset", "owner/name"]) == 2
    assert "pip install '.[hub]'" in capsys.readouterr().err


def test_unknown_flags_exit_with_2(capsys):
    assert validator.main(["--mineer", "x"]) == 2
    assert "error: unrecognized arguments: --mineer x; see" in capsys.readouterr().err


def test_the_environment_changes_nothing(monkeypatch):
    monkeypatch.setenv("SEED", "5")
    assert validator.parse(validator.Options, []).seed == 0
    assert validator.parse(validator.Options, ["--seed", "5", "--json"]).as_json


def test_the_last_of_a_repeated_flag_counts():
    assert validator.parse(validator.Options, ["--report", "a", "--report", "b"]).report.name == "b"


def test_development_validators_are_sixteen_different_well_known_keys():
    addresses = [dev_validator(i).ss58_address for i in range(VALIDATORS)]
    assert len(set(addresses)) == 16
    assert addresses[0] == "5FgftxVraVbuovQZABVyATbWWE9HSknZvsvkBypW5NKQNFfH"
    with pytest.raises(ValueError, match="from 0 to 15"):
        dev_validator(16)


def test_the_live_table_breaks_no_cell_at_80_columns():
    board = Board(2)
    for who in (0, 1):
        board.add(Exchange(who, 0.0, 80.0, 0.918, "", "ab", 1, "2026-01", 2, "drawn", False))
    console = Console(width=80, file=io.StringIO())
    console.print(validator._live(board, validator.Options(challenges=999)))
    lines = console.file.getvalue().splitlines()
    assert sum("0.918 road work" in line for line in lines) == 3
    assert any("all of 999" in line for line in lines)
    assert max(map(len, lines)) <= 80
