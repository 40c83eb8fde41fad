"""Training of the embedded network: needs the extra `train` (torch), and draws its own pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from models.base import Frame
from models.data.labelled import Labelled, read_folder
from models.embedded.model import Embedded
from models.training import embedded, evaluate, export, paste, views
from models.training.backbone import pretrained
from models.training.fit import chances

# torch's exporter uses a name of its own that it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning")


def street(seed: int, roadwork: bool) -> Image.Image:
    """Sky and road; with road work, a few orange cones on it."""
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", (320, 180), tuple(int(c) for c in rng.integers(120, 220, 3)))
    draw = ImageDraw.Draw(picture)
    draw.polygon([(0, 180), (150, 90), (170, 90), (320, 180)], fill=(85, 85, 90))
    for _ in range(4):
        x, y = int(rng.integers(20, 280)), int(rng.integers(110, 150))
        if roadwork:
            draw.polygon([(x, y), (x - 12, y + 28), (x + 12, y + 28)], fill=(240, 100, 20))
        else:
            draw.rectangle((x, y, x + 24, y + 14), fill=tuple(int(c) for c in rng.integers(0, 256, 3)))
    return picture


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("streets")
    for s, source in enumerate(("camvid", "gtsdb", "tracon", "kitti-road")):
        for label in ("roadwork", "clear"):
            (root / source / label).mkdir(parents=True)
            for n in range(5):
                street(100 * s + n, label == "roadwork").save(root / source / label / f"{n}.jpg")
    (root / "tracon" / "objects").mkdir()
    close_up = Image.new("RGB", (120, 120), "white")
    ImageDraw.Draw(close_up).polygon([(60, 10), (20, 110), (100, 110)], fill=(240, 90, 20))
    close_up.save(root / "tracon" / "objects" / "cone.jpg", quality=95)
    return root


@pytest.fixture
def folds(tmp_path: Path) -> Path:
    file = tmp_path / "folds.toml"
    file.write_text('one = ["camvid", "kitti-road"]\ntwo = ["gtsdb", "tracon"]\n')
    return file


def plan(root: Path) -> list[views.View]:
    values = embedded._settings(embedded._parser().parse_args(["--data", str(root)]))
    usable = [p for p in read_folder(root) if p.source not in values["measuring_only"]]
    return views.training_views(usable, embedded.close_ups(root), values)


def test_folding_batch_normalisation_keeps_the_network(pictures: Path) -> None:
    """The lower and the upper part, run apart at any cut, are the whole."""
    network = pretrained().eval()
    torch.nn.init.normal_(network.classifier.weight)
    pixels = torch.rand(2, 3, 64, 96) * 255
    with torch.inference_mode():
        whole = network(pixels)
        for cut in (0, 5, 8, 11, 16):
            assert torch.allclose(network.upper(network.lower(pixels, cut), cut), whole, atol=1e-4)


@pytest.mark.slow
def test_export_equals_torch_at_every_checked_shape(tmp_path: Path) -> None:
    network = pretrained()
    torch.nn.init.normal_(network.classifier.weight, std=0.05)
    assert export.write_onnx(network, tmp_path / "network.onnx") <= export.TOLERANCE


def test_no_measuring_only_picture_is_in_the_plan(pictures: Path) -> None:
    assert {s for v in plan(pictures) for s in v.sources} == {"camvid", "gtsdb", "tracon"}


def test_equal_seeds_render_equal_pixels_and_other_views_differ(pictures: Path) -> None:
    every = plan(pictures)
    for kind in ("real", "pasted", "control"):
        a, b = [v for v in every if v.kind == kind][:2]
        assert np.array_equal(views.render(a), views.render(a))
        assert not np.array_equal(views.render(a), views.render(b))
        assert views.render(a).shape == (a.side, a.side, 3)


@pytest.mark.parametrize("kind", views.EVALUATED)
def test_every_evaluated_kind_fits_the_network(pictures: Path, kind: str) -> None:
    values = embedded._settings(embedded._parser().parse_args(["--data", str(pictures)]))
    view = views.evaluation_views(read_folder(pictures), [kind], values)[0]
    pixels = views.render(view)
    assert pixels.dtype == np.uint8
    assert pixels.shape[0] % 32 == pixels.shape[1] % 32 == 0


def test_pasting_changes_the_frame_and_leaves_the_original_alone(pictures: Path) -> None:
    frame = np.asarray(street(1, roadwork=False))
    before = frame.copy()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        assert not np.array_equal(paste.positive(frame, [], rng), before), f"seed {seed} pasted nothing"
        assert paste.control(frame, frame[::-1].copy(), rng).shape == frame.shape
    assert np.array_equal(frame, before)


def test_cut_out_takes_the_object_and_leaves_the_white() -> None:
    close_up = np.full((120, 120, 3), 255, np.uint8)
    close_up[30:100, 40:80] = (240, 90, 20)
    sprite = paste.cut_out(close_up)
    assert sprite is not None
    assert sprite.size == pytest.approx((40, 70), abs=4)
    assert paste.cut_out(np.full((120, 120, 3), 90, np.uint8)) is None


def test_a_held_out_source_is_never_drawn_and_labels_are_even(pictures: Path) -> None:
    every = plan(pictures)
    how = embedded._settings(embedded._parser().parse_args(["--data", str(pictures)]))["fit"]
    weights = chances(every, ["gtsdb"], how)
    assert weights.sum() == pytest.approx(1)
    assert weights[[("gtsdb" in v.sources) for v in every]].sum() == 0
    assert weights[[v.label == 1 for v in every]].sum() == pytest.approx(0.5)


@given(shift=st.floats(-3, 3), scale=st.floats(0.2, 5))
@settings(max_examples=15, deadline=None)
def test_calibration_puts_the_best_threshold_at_one_half(shift: float, scale: float) -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(1500) < 0.5).astype(np.int64)
    logits = (labels * 2 - 1 + rng.standard_normal(1500)) * scale + shift
    calibration = evaluate.calibrate(labels, logits, np.full(1500, "one"))
    p = evaluate.probability(calibration.slope * (logits - calibration.shift))
    at_half = evaluate.metrics.mcc(labels, p)
    best = max(evaluate.metrics.mcc(labels, p, t) for t in np.linspace(0.05, 0.95, 91))
    assert at_half > best - 0.03
    assert evaluate.metrics.ece(labels, p) < 0.06


def test_every_source_belongs_to_one_fold() -> None:
    found = [Labelled(Path("a.jpg"), 1, "somewhere", "somewhere")]
    with pytest.raises(ValueError, match="in none: \\['somewhere'\\]"):
        evaluate.check_folds(found, {"one": ["elsewhere"]})


def test_unknown_settings_are_refused_by_name(pictures: Path, folds: Path) -> None:
    assert embedded.main(["--data", str(pictures), "--folds", str(folds), "--set", "fit.stepps=3"]) == 2


@pytest.mark.slow
def test_a_whole_run_trains_evaluates_exports_and_repeats(pictures: Path, folds: Path, tmp_path: Path) -> None:
    def run(name: str) -> dict[str, object]:
        out = tmp_path / name
        arguments = [
            "--data",
            str(pictures),
            "--folds",
            str(folds),
            "--out",
            str(out),
            "--work",
            str(tmp_path / "work"),
        ]
        change = ["--set", "fit.steps=12", "--set", "fit.batch=16", "--set", "side=96"]
        arguments += ["--views", "level0", "native", "--quick", "--name", name, *change]
        assert embedded.main(arguments) == 0
        return json.loads((tmp_path / "work" / f"{name}.json").read_text())

    first, second = run("first"), run("second")
    assert first["kinds"] == second["kinds"], "the same seed gives the same figures"
    assert first["kinds"]["native"]["pooled"]["n"] == 40
    shipped = Embedded(tmp_path / "first")
    shipped.load("cpu")
    opinions = shipped.assess([Frame.of(np.asarray(street(7, roadwork))) for roadwork in (True, False)])
    assert opinions[0].logit > opinions[1].logit
    card = json.loads((tmp_path / "first" / "model_card.json").read_text())
    assert "kitti-road" in card["never_trained_on"]
