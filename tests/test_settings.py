"""One typed tree; flag > environment > .env > miner.env > default; a wrong name or value is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from miner.commands.doctor import Doctor
from miner.commands.improve import Improve, Rollback
from miner.commands.plan import Plan
from miner.commands.predict import Predict
from miner.settings import Settings, UsageError, env_example, parse, variables

ROOT = Path(__file__).resolve().parent.parent

OFFICIAL = """\
IMAGE_DETECTOR=ViT
IMAGE_DETECTOR_CONFIG=ViT_roadwork.yaml
IMAGE_DETECTOR_DEVICE=cuda:1
NETUID=323
SUBTENSOR_NETWORK=test
SUBTENSOR_CHAIN_ENDPOINT=wss://node.example:443
WALLET_NAME=cold
WALLET_HOTKEY=hot
MINER_AXON_PORT=9000
BLACKLIST_FORCE_VALIDATOR_PERMIT=False
MODEL_URL=https://example.org/model
PROXY_CLIENT_URL=
"""


def test_a_miner_env_of_the_official_miner_is_understood_as_it_is() -> None:
    Path("miner.env").write_text(OFFICIAL)
    settings = parse(Settings, [])
    assert (settings.network, settings.subnet, settings.axon_port) == ("test", 323, 9000)
    assert (settings.wallet_name, settings.wallet_hotkey, settings.device) == ("cold", "hot", "cuda:1")
    assert settings.chain_endpoint == "wss://node.example:443"
    assert not settings.force_validator_permit


def test_a_flag_wins_over_the_environment_over_env_over_miner_env(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse(Settings, []).axon_port == 8091
    Path("miner.env").write_text("MINER_AXON_PORT=1\n")
    assert parse(Settings, []).axon_port == 1
    Path(".env").write_text("MINER_AXON_PORT=2\n")
    assert parse(Settings, []).axon_port == 2
    monkeypatch.setenv("MINER_AXON_PORT", "3")
    assert parse(Settings, []).axon_port == 3
    assert parse(Settings, ["--axon-port", "4"]).axon_port == 4


@pytest.mark.parametrize("words", [["--axon.port", "7"], ["--axon_port=7"], ["--axon-port", "7"]])
def test_the_sdks_spelling_of_a_flag_is_ours_too(words: list[str]) -> None:
    assert parse(Settings, words).axon_port == 7


@pytest.mark.parametrize(("word", "meant"), [("False", False), ("True", True)])
def test_a_switch_may_be_given_a_word_and_the_word_counts(word: str, meant: bool) -> None:
    assert parse(Settings, ["--blacklist.force_validator_permit", word]).force_validator_permit is meant


@pytest.mark.parametrize(("network", "subnet"), [("finney", 72), ("test", 323)])
def test_each_network_has_its_subnet(network: str, subnet: int) -> None:
    assert parse(Settings, ["--network", network]).subnet == subnet


def test_an_unknown_name_in_a_file_is_named() -> None:
    Path(".env").write_text("AXON_PROT=8091\n")
    with pytest.raises(UsageError, match=r"unknown name AXON_PROT in \.env; \.env\.example lists the known ones"):
        parse(Settings, [])


def test_a_slip_of_the_pen_is_answered_with_the_name_that_was_meant() -> None:
    Path("miner.env").write_text("MINER_AXON_PROT=8091\n")
    with pytest.raises(UsageError, match=r"unknown name MINER_AXON_PROT in miner\.env; did you mean MINER_AXON_PORT\?"):
        parse(Settings, [])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"NETUID=72\nwhat is this\n", r"\.env, line 2: expected NAME=value, got 'what is this'"),
        (b"NETUID=\xff\n", r"\.env: expected text in UTF-8"),
    ],
)
def test_a_file_that_cannot_be_understood_is_named_with_the_place(content: bytes, said: str) -> None:
    Path(".env").write_bytes(content)
    with pytest.raises(UsageError, match=said):
        parse(Settings, [])


def test_an_unknown_variable_of_ours_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINER_AXON_PROT", "8091")
    with pytest.raises(
        UsageError, match=r"^unknown environment variable MINER_AXON_PROT; did you mean MINER_AXON_PORT\?"
    ):
        parse(Settings, [])


def test_a_bad_value_says_what_was_expected_and_what_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBTENSOR_NETWORK", "fineny")
    with pytest.raises(UsageError, match=r"network: Input should be 'finney', .*, got 'fineny'"):
        parse(Settings, [])


def test_a_secret_that_is_wrong_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINER_DASHBOARD_TOKEN", "hunter2")
    with pytest.raises(UsageError, match=r"^dashboard_token: expected at least 16 characters, got 7") as caught:
        parse(Settings, [])
    assert "hunter2" not in str(caught.value)


def test_an_unknown_flag_is_refused_with_the_way_to_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"^unrecognized arguments: --axon-prot 1; see \./run_miner\.sh serve --help$"):
        parse(Settings, ["--axon-prot", "1"])


@pytest.mark.parametrize("device", ["cudaa", "0", "cuda:x", "gpu"])
def test_a_device_that_does_not_exist_is_refused(device: str) -> None:
    with pytest.raises(UsageError, match=f"^device: expected auto, cpu, cuda or cuda:N, got '{device}'$"):
        parse(Settings, ["--device", device])


def test_names_of_the_official_miner_env_that_mean_nothing_here_are_no_flags() -> None:
    for command in (Settings, Doctor):
        with pytest.raises(UsageError, match=r"^--model-url: "):
            parse(command, ["--model-url", "https://example.org/model"])


def test_nobody_gives_their_gpu_to_anybody_on_mainnet() -> None:
    with pytest.raises(UsageError, match="allow_non_registered"):
        parse(Settings, ["--network", "finney", "--allow-non-registered"])


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse(Settings, []).axon_port = 1  # type: ignore[misc]


def test_the_example_file_is_the_one_the_settings_make() -> None:
    assert (ROOT / ".env.example").read_text() == env_example(), "run: python -m miner.settings > .env.example"


def test_every_line_of_the_example_file_is_accepted_when_uncommented() -> None:
    lines = [line[1:] for line in env_example().splitlines() if line.startswith("#") and not line.startswith("# ")]
    Path(".env").write_text("\n".join(lines))
    assert parse(Settings, []) == Settings()
    assert len(lines) == len(variables(Settings))


@pytest.mark.parametrize(
    ("command", "word", "called"),
    [(Improve, "", "improve"), (Rollback, "rollback", "improve rollback"), (Plan, "", "plan")],
)
def test_help_says_how_the_command_is_called(
    command: type[BaseSettings], word: str, called: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(command, ["--help"], word)
    assert capsys.readouterr().out.startswith(f"usage: run_miner.sh {called} [OPTIONS]\n")


def test_help_shows_each_flag_once_under_its_shortest_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(Doctor, ["--help"])
    said = capsys.readouterr().out
    shown = re.findall(r"^  (--\S+)", said, re.MULTILINE)
    assert len(shown) == len(set(shown))
    assert {"--network", "--device", "--json", "--[no-]journal", "--[no-]force-validator-permit"} <= set(shown)
    assert "--endpoint-key str" in said
    assert not re.search(r"default: (None|False|)\)", said)


def test_no_flag_listens_to_a_variable_without_our_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JSON", "whatever")
    assert not parse(Plan, []).as_json
    assert parse(Plan, ["--json"]).as_json
    assert parse(Improve, ["--json"]).as_json


def test_a_command_shows_its_own_flags_and_those_of_serve_that_it_has_a_use_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        parse(Improve, ["--help"])
    said = capsys.readouterr().out
    assert "--steps" in said
    assert "--state-dir" in said
    assert "--axon-port" not in said


@pytest.mark.parametrize(
    ("command", "words", "refused"),
    [
        (Improve, ["--axon.port", "1"], "--axon-port"),
        (Rollback, ["--profile=embedded"], "--profile"),
        (Predict, ["x.jpg", "--no-journal", "--canary", "0.1"], "--canary, --no-journal"),
    ],
)
def test_a_flag_of_serve_that_means_nothing_to_a_command_is_refused_with_those_it_takes(
    command: type[Settings], words: list[str], refused: str
) -> None:
    with pytest.raises(UsageError, match=rf"^{refused}: .* it takes .*--{command.takes[0]}"):
        parse(command, words)


def test_a_variable_that_means_nothing_to_a_command_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINER_AXON_PORT", "8092")
    assert parse(Rollback, []).axon_port == 8092


def test_the_doctor_takes_every_flag_of_serve() -> None:
    given = ["--network", "test", "--axon-port", "8092", "--allow-non-registered"]
    asked = parse(Doctor, given)
    assert {name: getattr(asked, name) for name in Settings.model_fields} == parse(Settings, given).model_dump()
