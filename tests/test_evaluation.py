"""Labelled pictures through a cascade: the figures, their intervals, and what the cascade gets to see."""

from __future__ import annotations

import hashlib
import json
from functools import partial

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from cascade.verdict import Source, Stop, Verdict
from miner.evaluation import evaluate, read
from miner.settings import UsageError
from models import metrics
from models.data.labelled import Labelled, read_folder


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    """The intervals have their own tests."""
    monkeypatch.setattr(metrics, "bootstrap", partial(metrics.bootstrap, n=30))


def verdict(probability, milliseconds=5.0):
    interval = (probability, probability)
    return Verdict(probability, interval, (), (), ("eye",), Stop.DECIDED, Source.CASCADE, False, milliseconds)


def folder(root, sources=2, each=6):
    """Road work is bright red, clear is dark blue; sources and sizes differ."""
    for s in range(sources):
        for i in range(each):
            for label, colour in (("roadwork", (200 + i, 20, 20)), ("clear", (10, 10, 90 + i))):
                path = root / f"city{s}" / label / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (64 + s, 48), colour).save(path)
    return read_folder(root)


async def sees_red(frame):
    return verdict(0.9 if frame.pixels[..., 0].mean() > 60 else 0.2)


async def test_figures_are_those_of_the_metrics_overall_and_per_source(tmp_path):
    pictures = folder(tmp_path)
    result = await evaluate(pictures, sees_red)
    labels = [p.label for p in pictures]
    said = [0.9 if label else 0.2 for label in labels]
    assert result.overall == {**metrics.summary(labels, said), "resampled": "pictures"}
    assert result.overall["mcc"]["value"] == 1.0
    assert set(result.sources) == {"city0", "city1"}
    assert result.sources["city1"]["n"] == 12
    assert [s.picture for s in result.scored] == pictures


async def test_whole_groups_are_resampled_where_there_are_enough(tmp_path):
    few, many = folder(tmp_path / "few", sources=4), folder(tmp_path / "many", sources=5)
    assert (await evaluate(few, sees_red)).overall["resampled"] == "pictures"
    assert (await evaluate(many, sees_red)).overall["resampled"] == "groups"


async def test_times_are_those_inside_the_cascade(tmp_path):
    times = iter(range(1, 25))

    async def slower_and_slower(frame):
        return verdict(0.4, float(next(times)))

    result = await evaluate(folder(tmp_path), slower_and_slower)
    assert result.milliseconds == {"p50": 12.5, "p95": 22.85, "p99": 23.77}


def test_native_pictures_reach_the_cascade_as_the_file_has_them(tmp_path):
    picture = folder(tmp_path, 1, 1)[0]
    frame = read(picture, None, [0, 0])
    assert frame.size == (64, 48)
    assert frame.sha256 == hashlib.sha256(picture.path.read_bytes()).hexdigest()


@pytest.mark.parametrize(("level", "size"), [(None, (48, 64)), (0, (224, 224))])
def test_a_camera_that_was_held_upright_is_turned_as_for_validators(tmp_path, level, size):
    """Left half red: turned by the EXIF orientation, the red is on top."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:, :32, 0] = 200
    orientation = Image.Exif()
    orientation[0x0112] = 6
    path = tmp_path / "phone" / "clear" / "upright.jpg"
    path.parent.mkdir(parents=True)
    Image.fromarray(pixels).save(path, exif=orientation)
    frame = read(Labelled(path, 0, "phone", "phone"), level, [0, 0])
    assert frame.size == size
    top, bottom = np.array_split(frame.pixels[..., 0], 2)
    assert top.mean() > 150 > 50 > bottom.mean()


def test_a_level_gives_the_validators_224_square_and_the_same_for_the_same_seed(tmp_path):
    picture = folder(tmp_path, 1, 1)[1]
    one, two, other = (read(picture, 3, seed) for seed in ([0, 1], [0, 1], [1, 1]))
    assert one.size == (224, 224)
    assert (one.pixels == two.pixels).all()
    assert one.sha256 == two.sha256 != other.sha256


async def test_the_result_is_plain_json_and_a_table_with_every_source(tmp_path):
    result = await evaluate(folder(tmp_path), sees_red, level=0)
    data = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert data["level"] == 0
    assert data["overall"]["accuracy"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    console = Console(width=80)
    with console.capture() as text:
        console.print(result.table())
    assert "city0" in text.get()
    assert "1.00..1.00" in text.get()  # whole, on a narrow terminal too
    assert "…" not in text.get()


async def test_a_source_with_one_label_has_no_mcc(tmp_path):
    pictures = [p for p in folder(tmp_path) if p.source == "city0" or p.label == 0]
    result = await evaluate(pictures, sees_red)
    assert result.sources["city1"]["mcc"]["value"] is None
    assert result.to_json()["level"] == "native"
    console = Console(width=160)
    with console.capture() as text:
        console.print(result.table())
    assert "-" in text.get()


async def test_progress_is_told_after_each_picture(tmp_path):
    seen = []
    pictures = folder(tmp_path, 1, 2)
    await evaluate(pictures, sees_red, on_scored=seen.append)
    assert [s.picture for s in seen] == pictures


async def test_no_pictures_and_broken_pictures_are_named(tmp_path):
    with pytest.raises(ValueError, match="at least one"):
        await evaluate([], sees_red)
    broken = tmp_path / "x" / "clear" / "broken.jpg"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"")
    with pytest.raises(UsageError, match=r"broken\.jpg"):
        await evaluate([Labelled(broken, 0, "x", "x")], sees_red)
