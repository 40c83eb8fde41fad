"""The command `calibrate`: a fit that the profile finds, and a page that shows what it is worth."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from cascade_helpers import study_records

from cascade import worth
from cascade.profile import load
from cascade.trace import write
from miner.calibration_report import MOST_POINTS
from miner.cli import main
from miner.journal import Keep
from miner.settings import Settings
from models.base import Opinion
from tests.journal.making import answered, journal, sha, verdict

PROFILE = """name = "own"
band = [0.1, 0.9]

[[tiers]]
name = "cheap"
expected_ms = 20
members = [{ model = "a" }]

[[tiers]]
name = "dear"
expected_ms = 300
members = [{ model = "b" }]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "own.toml").write_text(PROFILE, encoding="utf-8")
    lines = [write(record) + "\n" for record in study_records(400, seed=1, missing=0.2)]
    (tmp_path / "traces.jsonl").write_text("".join(lines), encoding="utf-8")
    return tmp_path


def calibrate(folder: Path, *more: str) -> int:
    words = ["calibrate", "--traces", str(folder / "traces.jsonl"), "--profile", str(folder / "own.toml"), *more]
    return main(words)


def test_it_fits_reports_and_draws(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate(folder) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("before", "after", "first tier", "every tier", "ECE", "exit band"))
    assert "…" not in said, "every figure is whole in 80 columns"
    assert f"written to {folder / 'own.fit.json'}" in said.splitlines(), "on one line, to be copied"
    fitted = load(folder / "own.toml")
    assert fitted.fit is not None
    assert fitted.fit.n == 400
    page = (folder / "own.fit.html").read_text(encoding="utf-8")
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "<script" not in page
    drawn = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    assert [svg.get("aria-label") for svg in drawn] == [
        "Reliability diagram",
        "Reliability diagram",
        "Routing plot",
        "Cost and worth of exit bands",
    ]
    whiskers = [len(svg.findall(".//line[@class='whisker']")) for svg in drawn[:2]]
    assert min(whiskers) >= 5
    spots = [mark for mark in drawn[2] if mark.get("class", "").startswith("t")]
    assert len(spots) == 400 <= MOST_POINTS
    assert len(drawn[3].findall(".//circle[@class='band']")) == 225
    assert len(drawn[3].findall(".//circle[@class='dot']")) == 1


def test_as_json_with_the_columns_of_the_diagrams(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate(folder, "--json", "--out", str(folder / "x.json"), "--report", str(folder / "y.html")) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["fit"], found["report"]) == (str(folder / "x.json"), str(folder / "y.html"))
    assert found["gain"][1] <= found["gain"][0] <= found["gain"][2]
    for way in ("before", "after", "first tier", "every tier"):
        assert sum(column["count"] for column in found[way]["reliability"]) == found[way]["n"] == 400
        assert all(c["low"] <= c["share_of_roadwork"] <= c["high"] for c in found[way]["reliability"])


@pytest.mark.parametrize(("gain", "written"), [((-0.2, -0.3, -0.1), False), ((-0.03, -0.3, 0.2), True)])
def test_a_fit_that_is_certainly_worse_is_not_served_unless_a_place_is_named(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    gain: tuple[float, float, float],
    written: bool,
) -> None:
    fitted = replace(worth.fit_profile(study_records(400, seed=1), load(folder / "own.toml")), gain=gain)
    monkeypatch.setattr("miner.commands.calibrate.fit_profile", lambda *_, **__: fitted)
    assert calibrate(folder) == (0 if written else 2)
    assert (folder / "own.fit.json").exists() == written
    told = capsys.readouterr()
    assert ("nothing certain" in told.out) == written
    assert ("nothing was written" in told.err) == (not written)
    assert calibrate(folder, "--out", str(folder / "elsewhere.json")) == 0


def test_each_tier_is_checked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate(folder, "--check", "--json") == 0
    checks = json.loads(capsys.readouterr().out)
    assert [check["tier"] for check in checks] == ["cheap", "dear"]
    assert all(check["earns"] for check in checks)
    assert not (folder / "own.fit.json").exists()


def test_what_a_tier_gains_is_said_whole_in_80_columns(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interval is what decides: its far end must not be cut off, however long the tier's name is."""
    checks = [worth.TierCheck("embedded-network", 0.84, 0.813, 0.027, -0.003, 0.054, -1031.5, earns=True)]
    monkeypatch.setattr("miner.commands.calibrate.check", lambda *_, **__: checks)
    assert calibrate(folder, "--check") == 0
    said = capsys.readouterr().out
    assert "+0.027 (-0.003..+0.054)" in said
    assert "earns its cost" in said
    assert max(map(len, said.splitlines())) <= 80


def test_a_place_that_cannot_be_written_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate(folder, "--out", str(folder / "nowhere" / "x.json")) == 2
    assert "nowhere" in capsys.readouterr().err


def test_two_or_no_sources_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate(folder, "--images", str(folder)) == 2
    assert calibrate(folder, "--from-journal") == 2
    assert capsys.readouterr().err.count("one of --images DIR, --traces FILE and --from-journal") == 2


def test_from_the_journal_all_but_pictures_labelled_for_being_hard(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fifty pictures that the testnet labelled, and one more that a reviewer did."""
    state = ["--state-dir", str(folder / "state"), "--profile", str(folder / "own.toml")]
    kept = journal(Settings(state_dir=folder / "state").state / "journal", keep=Keep(share=0.0))
    rng = np.random.default_rng(0)
    for seed in range(51):
        label = seed % 2
        said = tuple(Opinion(key, float(rng.normal(2.0 * label - 1.0)), 10.0) for key in ("a", "b"))
        kept(answered(seed, verdict(0.6, opinions=said), label=label if seed < 50 else -1))
    kept.label(sha(50), 1, "human", 1.0)
    kept.close()
    assert main(["calibrate", "--from-journal", *state]) == 0
    assert "own: 50 pictures" in capsys.readouterr().out
    assert main(["calibrate", "--from-journal", "--state-dir", str(folder / "nothing")]) == 2
    assert "no journal at" in capsys.readouterr().err


def test_too_few_labels_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (folder / "traces.jsonl").read_text(encoding="utf-8").splitlines()[:9]
    (folder / "traces.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert calibrate(folder) == 2
    assert "at least 20 labelled pictures" in capsys.readouterr().err
