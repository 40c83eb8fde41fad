"""Clips: sampled at even distances, answered by their best stretch. Real H.264 and MPEG-4 files, written here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from miner.commands import predict
from miner.settings import UsageError
from models import clip
from models.base import ModelUnavailable
from models.clip import ClipError, Steady
from models.data.drawn import draw


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Two seconds at 10 pictures a second: a clear street, then one with road work."""
    path = tmp_path / "street.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 192, "yuv420p"
        for index in range(20):
            pixels = draw(1, index >= 10, (320, 192))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_pictures_lie_at_even_distances(film: Path) -> None:
    found = list(clip.sampled(film, 0.5))
    assert [round(at, 2) for at, _ in found] == [0.0, 0.5, 1.0, 1.5]
    assert {frame.size for _, frame in found} == {(320, 192)}
    before, after = found[0][1].pixels.astype(int), draw(1, False, (320, 192)).astype(int)
    assert np.abs(before - after).mean() < 12  # a codec's losses, not another picture


def test_a_stretch_outweighs_a_flash() -> None:
    times = [float(at) for at in range(8)]
    flash = Steady.of(times, [0.1, 0.1, 0.99, 0.1, 0.1, 0.1, 0.1, 0.1])
    passing = Steady.of(times, [0.1, 0.1, 0.8, 0.8, 0.8, 0.8, 0.1, 0.1])
    assert flash.probability < 0.5 < passing.probability
    assert passing.probability == pytest.approx(0.8)
    assert (passing.start, passing.end, passing.share) == (2.0, 5.0, 0.5)


def test_a_short_clip_is_one_stretch() -> None:
    assert Steady.of([0.0], [0.7]).probability == pytest.approx(0.7)
    assert Steady.of([0.0, 1.0], [1.0, 0.0]).probability == pytest.approx(0.5)
    with pytest.raises(ValueError, match="as many times"):
        Steady.of([], [])


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video" * 100)
    with pytest.raises(ClipError, match=r"broken.mp4: expected a video"):
        list(clip.sampled(broken, 1.0))


def test_without_pyav_it_says_how_to_get_it(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ModelUnavailable, match=r"-m pip install '.*\[clip\]'"):
        list(clip.sampled(film, 1.0))


def test_predict_answers_a_clip_in_one_line(film: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict.main([str(film), "--every", "0.5"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["path"] == str(film)
    assert [sample["at"] for sample in line["samples"]] == [0.0, 0.5, 1.0, 1.5]
    expected = Steady.of([sample["at"] for sample in line["samples"]], [s["probability"] for s in line["samples"]])
    assert line["probability"] == pytest.approx(expected.probability, abs=1e-6)
    assert line["samples"][3]["probability"] > line["samples"][0]["probability"]


def test_predict_refuses_a_broken_clip(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video" * 100)
    with pytest.raises(UsageError, match="expected a video"):
        predict.main([str(broken)])
