"""The one table of the VLM: what it says of rows that were measured, cut short or failed, and that a run keeps them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import vlm_end_to_end, vlm_table
from benchmarks.vlm_table import Line, Row


def timing(what: str, batch: int, ms: float) -> dict[str, Any]:
    return {"what": what, "batch": batch, "p50_ms": ms, "p99_ms": ms + 1, "pictures_per_s": batch / ms * 1e3}


OURS = [
    {"limit": "bf16 product", "tflops": 800.0},
    {"limit": "copy, read and written", "tb_per_s": 3.0},
    {"costs": "4B", "gb": 9.0, "bf16_gflop": 800.0, "float8_gflop": 0},
    {"model": "4B", "load_s": 3.0, "first_grid_s": 2.5, "reserved_gb": 10.0},
    timing("graph", 1, 5.0),
    timing("graph", 64, 80.0),
    timing("pixels to log-odds", 1, 6.5),
    timing("pixels to log-odds", 64, 80.0),
]
THEIRS = [{"start_s": 120.0}, timing("pixels to log-odds", 1, 52.0), {**timing("pixels to log-odds", 512, 2560.0)}]


def cells(table: str, who: str, model: str = "4B") -> list[str]:
    (found,) = (line for line in table.splitlines() if line.startswith(f"| {who} | {model} |"))
    return [cell.strip() for cell in found.strip("|").split("|")][2:]


def test_the_table_sets_targets_ratios_and_limits_beside_what_was_measured() -> None:
    lines = [
        Line(vlm_table.scorer("4B", 1), OURS, ""),
        Line(vlm_table.vllm("tuned", "4B", 1), THEIRS, ""),
        Line(vlm_table.scorer("8B-fp8", 1), [], "cut short after 90 s"),
    ]
    table = vlm_table.table(lines)
    assert cells(table, "scorer") == [
        "5.00 / 6.00",
        "6.50 / 7.50",
        "800 (64)",
        "800 (64)",
        "10",
        "5.5",
        "6 ms: no; 700/s: yes",
        "8.0 / 4.0",
        "done",
    ]
    assert cells(table, "vLLM, tuned") == ["", "52.00 / 53.00", "", "200 (512)", "", "120.0", "", "", "done"]
    assert cells(table, "scorer", "8B-fp8") == [*[""] * 8, "cut short after 90 s"]
    assert cells(table, "limit")[:3] == ["3.00", "", "1000"]


def test_the_largest_distance_from_the_library_is_told() -> None:
    rows = [{"equality": "4B", "bf16 off by": off, "library bf16 off by": 0.02} for off in (0.01, 0.04)]
    line = Line(vlm_table.aside("equality", "equal", "4B", 1), rows, "")
    assert cells(vlm_table.table([line]), "equality")[-1] == "bf16 off by 0.04; library bf16 off by 0.02"


@pytest.mark.parametrize(
    ("then", "ended"), [("", ""), ("time.sleep(60)", "cut short after 5 s"), ("sys.exit(3)", "failed (exit 3), see")]
)
def test_what_a_row_had_measured_is_kept_however_it_ends(then: str, ended: str, tmp_path: Path) -> None:
    script = tmp_path / "row.py"
    writes = "pathlib.Path(sys.argv[1], 'r.json').write_text(json.dumps([{'a': 1}]))"
    script.write_text(f"import json, pathlib, sys, time\n{writes}\n{then}")
    row = Row("some", "4B", f"{script} {{out}}", 5)
    assert vlm_table.run(row, tmp_path, 5, sys.executable).startswith(ended)
    assert vlm_table.measured(tmp_path / row.folder) == [{"a": 1}]


def test_a_row_for_which_no_time_is_left_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vlm_table, "run", lambda *_: "")
    assert vlm_table.main(["--out", str(tmp_path), "--minutes", "0"]) == 1
    found = json.loads((tmp_path / "vlm_table.json").read_text())
    assert {row["ended"] for row in found} == {"not run: no time left"}
    assert [row["model"] for row in found][:1] == ["4B"]


@pytest.mark.slow
def test_a_signed_request_over_a_socket_is_answered_by_both_tiers(tmp_path: Path) -> None:
    assert vlm_end_to_end.main(["--out", str(tmp_path), "--size", "tiny", "--seconds", "0", "--callers", "1", "3"]) == 0
    rows = json.loads((tmp_path / "vlm_end_to_end.json").read_text())
    assert [(row["answers"], row["both_tiers"]) for row in rows] == [(1, 1), (3, 3)]
