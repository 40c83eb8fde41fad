"""The table of models at real size: what a run that is cut or repeated keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import gpu_models
from models import catalog, planner


def table(*rows: dict[str, Any], device: str = "Card 80") -> dict[str, Any]:
    return {**gpu_models.table(device, rows), "date": "2026-12-01"}


def row(key: str, gb: float) -> dict[str, Any]:
    return {"key": key, "precision": "bf16", "reserved_gb": gb}


def test_a_second_run_of_the_day_adds_to_the_table_and_a_failure_takes_nothing_away(tmp_path: Path) -> None:
    gpu_models.save(table(row("sam3", 5.0), row("dfine-x", 2.0)), tmp_path)
    again = table({"key": "sam3", "error": "took longer"}, row("dfine-x", 1.5), {"key": "owlv2-l", "error": "no"})
    gpu_models.save(again, tmp_path)
    (path,) = tmp_path.glob("*.json")
    assert path.name == "gpu-models-card-80-2026-12-01.json"
    rows = json.loads(path.read_text())["models"]
    assert rows == [row("sam3", 5.0), row("dfine-x", 1.5), {"key": "owlv2-l", "error": "no"}]
    assert planner.measured(tmp_path) == {("sam3", "bf16"): 5.0, ("dfine-x", "bf16"): 1.5}
    assert "| dfine-x | bf16 | 1.5 |" in path.with_suffix(".md").read_text()
    assert gpu_models.known([path], "Card 80") == {"sam3", "dfine-x"}
    assert gpu_models.known([path], "another card") == set()


def test_a_row_that_takes_too_long_is_ended_and_said() -> None:
    found = gpu_models.in_its_own_process("sam3", ["--device", "cpu", "--tiny"], 0.2)
    assert found == {"key": "sam3", "error": "took longer than 0 s"}


def test_memory_is_told_at_the_batch_that_profiles_ask() -> None:
    assert gpu_models.served("sam3") == 4
    assert gpu_models.served("dfine-x") == 16
    assert gpu_models.served("yolo11-x") == 16  # in no profile


def test_rows_are_models_of_the_catalog_and_are_begun_by_value() -> None:
    assert set(gpu_models.ROWS) - set(gpu_models.TOGETHER) == set(gpu_models.REAL) <= set(catalog.entries())
    assert {key for keys in gpu_models.TOGETHER.values() for key in keys} <= set(gpu_models.REAL)
    assert gpu_models.ROWS[0] == "sam3"
