"""The shipped network: what it answers, how it refuses bad files, how long it takes."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.base import BadWeights, Frame, Model, ModelCrashed, ModelUnavailable
from models.embedded.model import HERE, Calibration, Embedded
from models.embedded.view import LEAST, SIDE, SLACK, STEP, fitted, resize

SIZES = ((224, 224), (640, 360), (360, 640), (512, 384), (1280, 720), (37, 51))


def scene(seed: int, size: tuple[int, int]) -> Frame:
    """Sky, road and a few coloured boxes: a picture with structure, drawn from the seed."""
    rng = np.random.default_rng(seed)
    width, height = size
    pixels = np.full((height, width, 3), (150, 180, 210), np.uint8)
    pixels[height // 2 :] = (90, 90, 95)
    for _ in range(6):
        x, y = int(rng.integers(width - 8)), int(rng.integers(height - 8))
        pixels[y : y + height // 6, x : x + width // 8] = rng.integers(0, 256, 3)
    return Frame.of(pixels)


@pytest.fixture(scope="module")
def model() -> Embedded:
    embedded = Embedded()
    embedded.load("cpu")
    embedded.warm_up()
    return embedded


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped files that a test may damage."""
    for name in ("roadwork.onnx", "calibration.json", "model_card.json"):
        shutil.copy(HERE / name, tmp_path / name)
    return tmp_path


def test_keeps_the_contract_of_a_model(model: Embedded) -> None:
    assert isinstance(model, Model)
    assert model.spec.key == "embedded"


def test_constructing_does_no_work(tmp_path: Path) -> None:
    Embedded(tmp_path / "nothing-here")


def test_a_batch_gives_what_single_pictures_give(model: Embedded) -> None:
    frames = [scene(n, size) for n, size in enumerate(SIZES * 2)]
    together = [o.logit for o in model.assess(frames)]
    alone = [model.assess([f])[0].logit for f in frames]
    assert together == pytest.approx(alone, abs=1e-3)
    assert len(set(np.round(alone, 3))) > 3, "pictures that differ should not all get one score"


@given(order=st.permutations(range(len(SIZES))))
@settings(max_examples=5, deadline=None)  # the network runs twice per example
def test_opinions_come_in_the_order_of_the_frames(model: Embedded, order: list[int]) -> None:
    frames = [scene(n, size) for n, size in enumerate(SIZES)]
    expected = [o.logit for o in model.assess(frames)]
    found = [o.logit for o in model.assess([frames[n] for n in order])]
    assert found == pytest.approx([expected[n] for n in order], abs=1e-3)


@pytest.mark.parametrize("size", [(224, 224), (256, 160)])
def test_a_small_picture_and_its_mirror_image_are_answered_alike(model: Embedded, size: tuple[int, int]) -> None:
    pixels = scene(7, size).pixels
    one, other = (model.assess([Frame.of(np.ascontiguousarray(each))])[0] for each in (pixels, pixels[:, ::-1]))
    assert one.logit == pytest.approx(other.logit, abs=1e-5)


def test_more_pictures_than_one_batch_holds(model: Embedded) -> None:
    frames = [scene(n, (64, 64)) for n in range(19)]
    assert len(model.assess(frames)) == 19
    assert model.assess([]) == []


def test_evidence_says_what_the_network_saw(model: Embedded) -> None:
    opinion = model.assess([scene(0, (1280, 720))])[0]
    assert json.loads(json.dumps(dict(opinion.evidence)))["input"] == [448, 256]
    assert opinion.milliseconds > 0


def test_an_embedding_comes_with_the_opinion_and_costs_no_second_pass(
    model: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    session = model._session

    class Counting:
        def run(self, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            passes.append(len(feed["pixels"]))
            return session.run(names, feed)

    monkeypatch.setattr(model, "_session", Counting())
    frame, other = scene(101, (640, 360)), scene(102, (640, 360))
    assert model.known(frame.sha256) is None
    model.assess([frame])
    embeddings = model.embed([frame, other])
    assert passes == [1, 1], "the first picture was embedded by its opinion, the second by itself"
    assert embeddings.shape == (2, 1280)
    assert embeddings.dtype == np.float32
    assert (embeddings >= 0).all()
    assert (embeddings[0] != embeddings[1]).any()
    assert np.array_equal(model.known(frame.sha256), embeddings[0])
    model.assess([frame])
    assert passes == [1, 1, 1], "an opinion is always computed anew"


@pytest.mark.parametrize(("size", "expected"), [((1280, 720), -0.351), ((640, 480), -0.728), ((224, 224), -0.866)])
def test_the_shipped_weights_answer_as_they_did_when_they_were_made(
    model: Embedded, size: tuple[int, int], expected: float
) -> None:
    """Golden values; processors round 8-bit products differently."""
    assert model.assess([scene(3, size)])[0].evidence["raw_logit"] == pytest.approx(expected, abs=0.2)


def test_not_loaded_or_closed_is_unavailable() -> None:
    embedded = Embedded()
    with pytest.raises(ModelUnavailable, match="load"):
        embedded.assess([scene(0, (64, 64))])
    embedded.load("cpu")
    embedded.close()
    embedded.close()
    with pytest.raises(ModelUnavailable):
        embedded.assess([scene(0, (64, 64))])


def test_another_device_is_refused_by_name() -> None:
    with pytest.raises(ModelUnavailable, match="cuda:0"):
        Embedded().load("cuda:0")


def test_a_fault_inside_the_runtime_is_typed(model: Embedded, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def run(self, *_: object) -> None:
            raise RuntimeError("broken on purpose")

    monkeypatch.setattr(model, "_session", Broken())
    with pytest.raises(ModelCrashed, match="broken on purpose"):
        model.assess([scene(0, (64, 64))])


def test_other_weights_than_the_card_names_are_refused(folder: Path) -> None:
    content = bytearray((folder / "roadwork.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "roadwork.onnx").write_bytes(content)
    with pytest.raises(BadWeights, match=r"expects sha256 .*git checkout"):
        Embedded(folder).load("cpu")


def test_truncated_weights_are_refused(folder: Path) -> None:
    (folder / "roadwork.onnx").write_bytes((folder / "roadwork.onnx").read_bytes()[:1000])
    with pytest.raises(BadWeights, match=r"models\.training\.embedded"):
        Embedded(folder).load("cpu")


def test_a_file_that_is_no_network_is_refused_even_when_the_card_names_it(folder: Path) -> None:
    import hashlib

    (folder / "roadwork.onnx").write_bytes(b"not a network")
    card = {"sha256": hashlib.sha256(b"not a network").hexdigest()}
    (folder / "model_card.json").write_text(json.dumps(card))
    with pytest.raises(BadWeights, match="onnxruntime refused"):
        Embedded(folder).load("cpu")


@pytest.mark.parametrize("name", ["roadwork.onnx", "calibration.json", "model_card.json"])
def test_a_missing_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BadWeights, match=r"restore"):
        Embedded(folder).load("cpu")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        *(f'{{"wire": {{"slope": {a}, "shift": {b}}}}}' for a, b in (("0", "0"), ("1", "NaN"), ('"x"', "1"))),
    ],
)
def test_a_bad_calibration_is_refused(folder: Path, content: str) -> None:
    (folder / "calibration.json").write_text(content)
    with pytest.raises(BadWeights, match=r"slope|calibration"):
        Embedded(folder).load("cpu")


@given(slope=st.floats(0.01, 20), shift=st.floats(-10, 10), low=st.floats(-30, 30), more=st.floats(0.001, 10))
def test_calibration_is_monotone_and_decides_at_its_shift(slope: float, shift: float, low: float, more: float) -> None:
    calibration = Calibration(slope, shift)
    assert calibration.log_odds(low + more) > calibration.log_odds(low)
    assert calibration.log_odds(shift) == 0


def test_the_shipped_calibration_is_sane() -> None:
    for kind in ("wire", "native"):
        calibration = Calibration.read(HERE / "calibration.json", kind)
        assert 0.1 < calibration.slope < 10
        assert abs(calibration.shift) < 5


@given(width=st.integers(8, 4096), height=st.integers(8, 4096))
def test_the_network_is_given_about_the_same_work_for_any_picture(width: int, height: int) -> None:
    wide, tall = fitted(width, height)
    assert wide % STEP == tall % STEP == 0
    assert wide * tall <= SLACK * SIDE * SIDE
    if 0.4 < width / height < 2.5:
        assert wide * tall > 0.6 * min(SIDE * SIDE, max(width * height, LEAST * LEAST))
        assert math.isclose(wide / tall, width / height, rel_tol=0.2)


def test_resizing_to_the_same_size_changes_nothing() -> None:
    pixels = scene(0, (64, 32)).pixels
    assert resize(pixels, (64, 32)) is pixels


def test_the_card_matches_the_file_and_names_no_measuring_only_source() -> None:
    card = json.loads((HERE / "model_card.json").read_text())
    trained = {entry["source"] for entry in card["trained_on"]}
    assert trained.isdisjoint({"kitti-road", "nuscenes-mini-y", "gsv-croatia", "gsv-saopaulo"})
    assert all(entry["licence"] for entry in card["trained_on"])
    assert (HERE / "roadwork.onnx").stat().st_size == card["bytes"] <= 25_000_000


def test_latency_on_one_core(model: Embedded, capsys: pytest.CaptureFixture[str]) -> None:
    """CPU time of this thread, so that a busy machine does not decide; the goal on a quiet core is 25 ms."""
    for size in ((224, 224), (1280, 720)):
        frame, spent = scene(0, size), []
        for _ in range(12):
            began = time.thread_time()
            model.assess([frame])
            spent.append((time.thread_time() - began) * 1e3)
        with capsys.disabled():
            print(f"embedded, {size[0]} x {size[1]}: {np.median(spent):.1f} ms of one core")
        assert np.median(spent) < 100
