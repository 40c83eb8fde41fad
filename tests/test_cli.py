"""The front door: commands, exit codes, and errors that say what to do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from miner import cli
from miner.commands.mock import reserved_ports


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_a_module_that_says_what_it_is_for(name: str) -> None:
    module = Path(cli.ROOT, "miner", "commands", f"{name.replace('-', '_')}.py")
    assert module.read_text().startswith('"""`' + name)


def test_an_unknown_command_exits_2_and_names_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["srve"]) == 2
    said = capsys.readouterr().err
    assert "srve" in said
    assert "serve" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--axon-port", "1"], "error: unrecognized arguments: --axon-port 1; see ./run_miner.sh mock --help"),
        (["--miner", "http://127.0.0.1:9100"], "unrecognized arguments: --miner"),
        (["--challenges", "0"], "challenges: Input should be greater than or equal to 1, got '0'"),
        (["--images", "nowhere"], "images: Path does not point to a directory, got 'nowhere'"),
    ],
)
def test_mock_refuses_what_it_cannot_do_before_it_starts_anything(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (cli.main(["mock", *words]), list(Path().iterdir())) == (2, [])
    assert says in capsys.readouterr().err


def test_predict_says_of_a_folder_how_its_pictures_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("street").mkdir()
    assert cli.main(["predict", "street"]) == 2
    assert "street: expected a JPEG or PNG picture, or a video, got a folder; name its files: street/*.jpg" in (
        capsys.readouterr().err
    )


def test_a_folder_that_cannot_be_written_is_named_and_no_traceback_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir("/proc")  # not even root can make a folder there
    assert cli.main(["mock"]) == 2
    assert capsys.readouterr().err == (
        "error: runs: No such file or directory; the report goes to ./runs: start in a folder that can be written\n"
    )
    assert cli.main(["replay", "/proc/none.jsonl"]) == 2
    assert "/proc/none.jsonl: expected a file of trace lines, got: No such file or directory" in capsys.readouterr().err
    assert cli.main(["improve", "audit", "--state-dir", "/proc/state"]) == 2
    assert "error: state directory /proc/state: No such file or directory; make it writable" in capsys.readouterr().err


def test_who_reads_the_first_line_only_sees_no_traceback() -> None:
    shown = subprocess.run(
        f"{sys.executable} -P -m miner models --json | head -1",
        cwd=cli.ROOT,
        env={**os.environ, "PYTHONPATH": str(cli.ROOT)},
        shell=True,
        capture_output=True,
        text=True,
    )
    assert (shown.stdout, shown.stderr) == ("[\n", "")


def test_a_foreign_package_of_our_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = tmp_path / "models"
    foreign.mkdir()
    (foreign / "__init__.py").touch()
    for name in [name for name in sys.modules if name.partition(".")[0] == "models"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert cli.main(["doctor"]) == 2
    assert f"'models' comes from {foreign}" in capsys.readouterr().err.replace("\n", "")


def test_leaving_runs_the_exit_handlers_and_keeps_the_code() -> None:
    """What a thread inside a native library makes of an ordinary end: `benchmarks.reliability --only 23`."""
    code = "import atexit; from miner.cli import leave; atexit.register(print, 'handled'); print('said'); leave(3)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=cli.ROOT, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.split()) == (3, ["said", "handled"])


def test_a_reserved_port_answers_nobody_goes_to_nobody_else_and_may_be_listened_on() -> None:
    with reserved_ports(2) as (port, other):
        assert port != other
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))
            with socket.create_server(("127.0.0.1", port)):  # and again, as a server that is started anew
                socket.create_connection(("127.0.0.1", port)).close()
        with socket.socket() as unaware, pytest.raises(OSError, match="in use"):
            unaware.bind(("127.0.0.1", port))
