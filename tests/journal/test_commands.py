"""What an operator types: `journal stats | export | label`, `improve`, `improve audit | rollback | promote`."""

from __future__ import annotations

import io
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from miner.cli import main
from miner.commands.improve import versions_of
from miner.journal import Keep
from miner.learning.candidate import Candidate
from miner.learning.judging import Comparison, Judgement
from miner.settings import Settings
from tests.journal.making import answered, journal, jpeg_of, sha, verdict
from tests.journal.test_improve import OWN

STATE = ["--state-dir", "state"]


@pytest.fixture
def lived(tmp_path: Path) -> Path:
    """A state directory in which a miner answered six pictures."""
    directory = Settings(state_dir=Path("state")).state / "journal"
    made = journal(directory, keep=Keep(share=1.0))
    for seed in range(6):
        made(answered(seed, verdict(0.6 if seed % 2 else 0.2), label=seed % 2 if seed < 4 else -1))
    made(answered(fault="PictureError"))
    made.close()
    return directory


def test_stats_for_programs_and_people(lived: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["journal", "stats", "--json", *STATE]) == 0
    stats = json.loads(capsys.readouterr().out)
    assert (stats["requests"], stats["kept"], stats["labels"]) == (7, 6, {"testnet": 4})
    assert main(["journal", *STATE]) == 0
    assert "7 requests; 6 pictures ever" in capsys.readouterr().out


def test_without_a_journal_the_reason_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["journal", "stats"], ["journal", "export", "out"], ["improve"]):
        assert main([*words, *STATE]) == 2
        said = capsys.readouterr().err
        assert "no journal at" in said
        assert "--state-dir" in said


def test_an_unknown_word_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["journal", "nonsense"]) == main(["improve", "nonsense"]) == 2
    said = capsys.readouterr().err
    assert "known: journal stats" in said
    assert "unknown: improve 'nonsense'; known: improve, improve shadow" in said


def test_an_empty_audit_log_is_said_to_people_and_is_empty_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["improve", "audit", "--json", *STATE]) == 0
    assert capsys.readouterr().out == ""
    assert main(["improve", "audit", *STATE]) == 0
    assert capsys.readouterr().out.startswith("nothing yet")


def test_labels_from_elsewhere_are_taken_and_unknown_pictures_counted(
    lived: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("labels.csv").write_text(f"sha256,label\n{sha(4)},1\n{'ab' * 32},0\n")
    assert main(["journal", "label", "labels.csv", *STATE]) == 0
    assert "1 labels taken, 1 of pictures" in capsys.readouterr().out
    assert main(["journal", "stats", "--json", *STATE]) == 0
    assert json.loads(capsys.readouterr().out)["labels"]["consensus"] == 1


def test_labels_from_elsewhere_cost_no_picture_however_many_are_kept(
    lived: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """How much may be kept is the serving miner's setting, which this command does not know."""
    with closing(sqlite3.connect(lived / "journal.db", isolation_level=None)) as db:
        db.execute("UPDATE kept SET bytes = 1000000000000")
    Path("labels.csv").write_text(f"sha256,label\n{sha(4)},1\n")
    assert main(["journal", "label", "labels.csv", *STATE]) == 0
    capsys.readouterr()
    assert len(list(lived.rglob("*.jpg"))) == 6


@pytest.mark.parametrize(
    "text",
    ["sha256\nab\n", "sha256,label\nab,2\n", "sha256,label\nab,yes\n", "sha256,label\npicture-1,1\n"],
)
def test_a_file_that_is_no_list_of_labels_is_refused(
    lived: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("labels.csv").write_text(text)
    assert main(["journal", "label", "labels.csv", *STATE]) == 2
    assert "expected" in capsys.readouterr().err


def test_the_export_is_a_data_set_of_pictures_and_of_requests(lived: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["journal", "export", "out", *STATE]) == 0
    assert "7 requests and 4 labelled pictures in out" in capsys.readouterr().out
    pictures = pq.read_table("out/pictures/labelled.parquet")
    features = json.loads(pictures.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert features["label"]["names"] == ["clear", "roadwork"]
    assert set(features) == set(pictures.column_names)
    first = pictures.to_pylist()[0]
    assert first["image"]["bytes"] == jpeg_of(0)
    assert (first["label"], first["label_source"]) == (0, "testnet")
    assert Image.open(io.BytesIO(first["image"]["bytes"])).size == (64, 48)
    requests = pq.read_table("out/requests/all.parquet").to_pylist()
    assert [row["fault"] for row in requests] == [""] * 6 + ["PictureError"]
    assert "config_name: pictures" in Path("out/README.md").read_text()


def test_improve_with_too_few_labels_says_so(lived: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["improve", *STATE]) == 2
    assert "label more" in capsys.readouterr().err


def test_audit_and_rollback(lived: Path, capsys: pytest.CaptureFixture[str]) -> None:
    versions = versions_of(Settings(state_dir=Path("state")))
    it = Comparison(800, 400, 0.61, 0.68, 0.02, 0.01, 0.03)
    versions.promote(versions.write(Candidate(OWN)), Judgement(it, it, None, ()))
    versions.refuse(Judgement(it, it, None, ("nothing gained",)))
    assert main(["improve", "rollback", *STATE]) == 0
    assert "the own profile" in capsys.readouterr().out
    assert main(["improve", "rollback", *STATE]) == 2
    capsys.readouterr()
    assert main(["improve", "audit", *STATE]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in said] == ["promoted", "refused", "rollback"]
    assert "gate 0.610 -> 0.680 (n 800, low +0.0100)" in said[0]
    assert "nothing gained" in said[1]
    assert main(["improve", "audit", "--json", *STATE]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[0])["event"] == "promoted"
    assert main(["improve", "promote", *STATE]) == 2
