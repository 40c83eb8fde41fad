"""What the study of the cascade reads: opinions of the network that ships, as it would have been asked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks import embedded_traces
from models.embedded.model import HERE

LARGE, SMALL = (512, 320), (180, 200)


def opinions(*sizes: tuple[int, int]) -> dict[str, Any]:
    """One picture of each size, by a network whose log-odds are its logits."""
    views = {"native": -1.0, "flip": 3.0, "left": 1.0, "right": 4.0, "level0": 0.5}
    return {
        "path": [f"street/clear/{i}.jpg" for i in range(len(sizes))],
        "sha256": [str(i) for i in range(len(sizes))],
        "group": ["street"] * len(sizes),
        "label": [0] * len(sizes),
        "width": [width for width, _ in sizes],
        "height": [height for _, height in sizes],
        "logits": {view: [logit] * len(sizes) for view, logit in views.items()},
        "calibrations": {kind: {"slope": 1.0, "shift": 0.0} for kind in ("wire", "native")},
    }


def heard(kind: str, size: tuple[int, int]) -> dict[str, float]:
    signs = {"street/clear/0.jpg": {"logit": 2.0, "cpu_ms": 300.0}}
    (record,) = embedded_traces.records(opinions(size), signs, (kind,))
    return {opinion.model: opinion.logit for opinion in record.verdict.opinions}


@pytest.fixture(autouse=True)
def _no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_traces, "cost", lambda *_: 20.0)


def test_the_opinions_are_of_the_network_that_ships() -> None:
    """After a new network, run the study anew (docs/results/cascade-2026-11-24.md) and name its opinions."""
    ships = json.loads((HERE / "calibration.json").read_text(encoding="utf-8"))
    assert embedded_traces.read(embedded_traces.OPINIONS)["calibrations"] == {k: ships[k] for k in ("wire", "native")}


def test_a_large_picture_is_asked_of_everybody() -> None:
    assert heard("native", LARGE) == {"embedded": -1.0, "closer-look": 4.0, "sign-reading": 2.0}


def test_a_small_picture_is_looked_at_twice_and_asked_of_nobody_else() -> None:
    assert heard("native", SMALL) == {"embedded": 1.0}  # the mean of it and its mirror image


def test_a_picture_of_the_wire_is_kept_with_both_looks() -> None:
    assert heard("level0", LARGE) == {"embedded": 0.5}
