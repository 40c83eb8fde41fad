"""Training of the embedded network: needs the extra `train` (torch), and draws its own pictures."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from benchmarks import street_embeddings, sweep_embedded
from models.base import Frame
from models.data.labelled import Labelled, read_folder
from models.embedded.model import Embedded
from models.training import embedded, evaluate, export, paste, views
from models.training.album import album, sprites
from models.training.backbone import pretrained
from models.training.compose import KINDS, Dice, Order, compose
from models.training.fit import Member, Pool, Trainer, drawing
from models.training.wear import jpeg, worn

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


def quick(*changes: str) -> dict[str, object]:
    return embedded.settings_of(None, "cpu", changes, quick=True)


def composed(root: Path, kind: str, shape: tuple[int, int], seed: int = 0, count: int = 8) -> compose:
    """Views of one kind, of the clear pictures (or of all, for real ones)."""
    found = [p for p in read_folder(root) if kind == "real" or p.label == 0]
    bank = sprites(embedded.close_ups(root), [], 1, "cpu", 2)
    rows = torch.arange(count) % len(found)
    labels = torch.tensor([float(found[n].label or kind == "pasted") for n in rows])
    order = Order(rows, rows, torch.full((count,), KINDS.index(kind)), labels, torch.ones(count, len(bank.sources)))
    dice = Dice(seed, "cpu")
    return compose(album(found, "cpu"), bank, order, shape, wire=shape[0] == shape[1], dice=dice, close=0.25)


def test_lower_and_upper_parts_are_the_whole() -> None:
    """Run apart at any cut; and the features do not depend on the cut."""
    network = pretrained().eval()
    for part in (network.classifier, network.dense):
        torch.nn.init.normal_(part.weight, std=0.05)
    network.gain.data.fill_(0.5)
    pixels = torch.rand(2, 3, 64, 96) * 255
    with torch.inference_mode():
        whole = network(pixels)
        for cut in (0, 5, network.middle):
            logits, places, features = network.upper(network.lower(pixels, cut), cut)
            assert torch.allclose(logits, whole, atol=1e-4)
            assert places.shape == (2, 4, 6)
            assert features.shape == (2, 1280)


@pytest.mark.slow
def test_export_equals_torch_at_every_checked_shape_and_in_8_bits_nearly(tmp_path: Path) -> None:
    network = pretrained()
    torch.nn.init.normal_(network.classifier.weight, std=0.05)
    assert export.write_onnx(network, tmp_path / "network.onnx") <= export.TOLERANCE


def test_no_measuring_only_picture_is_read(pictures: Path) -> None:
    read = embedded.read(read_folder(pictures), quick())
    assert {p.source for p in read.pictures} == {"camvid", "gtsdb", "tracon"}


@pytest.mark.parametrize("kind", ["real", "pasted", "control"])
def test_equal_seeds_compose_equal_views_and_others_differ(pictures: Path, kind: str) -> None:
    first, same, other = (composed(pictures, kind, (64, 96), seed).pixels for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.allclose(first, other, atol=1)


def test_only_pasted_views_have_a_mask_and_a_mask_makes_the_label(pictures: Path) -> None:
    pasted = composed(pictures, "pasted", (64, 96), count=24)
    assert (pasted.mask.sum((1, 2, 3)) > 0).any()
    assert torch.equal(pasted.label == 1, pasted.mask.sum((1, 2, 3)) >= 14)
    for kind in ("real", "control"):
        assert composed(pictures, kind, (64, 64)).mask.sum() == 0


def test_pasted_colours_stay_in_range(pictures: Path) -> None:
    pasted = composed(pictures, "pasted", (64, 96), count=24)
    assert pasted.pixels.min() >= 0
    assert pasted.pixels.max() <= 255.5


@pytest.mark.parametrize("kind", views.EVALUATED)
def test_every_evaluated_kind_fits_the_network(pictures: Path, kind: str) -> None:
    pixels = views.render(views.evaluation_views(read_folder(pictures), kind, 1)[0])
    assert pixels.dtype == np.uint8
    assert pixels.shape[0] % 32 == pixels.shape[1] % 32 == 0


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_jpeg_on_the_device_is_pillows(quality: int) -> None:
    """Tables and transform are the standard's; what differs is how chroma is brought back to size."""
    picture = street(3, roadwork=True).resize((160, 96), Image.Resampling.BILINEAR)
    ours = jpeg(torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float(), torch.tensor([float(quality)]))
    theirs = views.compress(np.asarray(picture), quality)
    found = ours[0].permute(1, 2, 0).clamp(0, 255).numpy()
    assert np.abs(found - theirs).mean() < 2
    assert np.abs(found - theirs).mean() < 0.6 * np.abs(found - np.asarray(picture)).mean() + 0.5


def test_wear_keeps_range_shape_and_whole_numbers() -> None:
    pixels = torch.rand(10, 3, 64, 96) * 255
    after = worn(pixels, Dice(0, "cpu"))
    assert after.shape == pixels.shape
    assert after.min() >= 0
    assert after.max() <= 255
    assert torch.equal(after, after.round())
    assert all(not torch.allclose(a, b, atol=2) for a, b in zip(after, pixels, strict=True))


def test_cut_out_takes_the_object_and_leaves_the_white() -> None:
    close_up = np.full((120, 120, 3), 255, np.uint8)
    close_up[30:100, 40:80] = (240, 90, 20)
    sprite = paste.cut_out(close_up)
    assert sprite is not None
    assert sprite.size == pytest.approx((40, 70), abs=4)
    assert paste.cut_out(np.full((120, 120, 3), 90, np.uint8)) is None


def test_half_of_the_draws_are_road_work(pictures: Path) -> None:
    plan = drawing([p for p in read_folder(pictures) if p.source != "kitti-road"], quick())
    assert plan.chances.sum() == pytest.approx(1)
    assert plan.chances[plan.labels == 1].sum() == pytest.approx(0.5)


@given(seed=st.integers(0, 1000), held_out=st.sampled_from(["camvid", "gtsdb", "tracon"]))
def test_a_batch_never_has_a_held_out_pixel_and_both_labels_alike(seed: int, held_out: str) -> None:
    rng = np.random.default_rng(seed)
    sources = np.repeat(["camvid", "gtsdb", "tracon"], 8)
    wished = np.tile([0, 1], 12).astype(np.float32)
    suppliers = np.where(wished == 1, rng.choice(["", "tracon", "gtsdb"], 24), "")
    suppliers[[1, 9, 17]] = ""
    empty = torch.zeros(24)
    pool = Pool(empty, empty, empty, empty, {}, sources, suppliers, np.where(wished == 1, 2, 0), wished)
    how = {"batch": 8, "pasted_share": 0.5}
    rows = pool.taken(Member("one", {held_out}, how, 0), rng)
    assert len(rows) == 8
    assert wished[rows].sum() == 4
    assert held_out not in {*sources[rows], *suppliers[rows]}


def test_going_on_from_weights_starts_there_and_gives_the_mean_of_both() -> None:
    start = {name: torch.rand_like(value) for name, value in pretrained().state_dict().items()}
    trainer = Trainer(Member("one", set(), quick()["fit"], 0), quick(), None, start)  # type: ignore[arg-type]
    assert all(torch.equal(value, start[name]) for name, value in trainer.network.state_dict().items())
    with torch.no_grad():
        trainer.average.classifier.bias += 2.0  # as if it had learnt
    mean = trainer.finished().state_dict()
    assert torch.allclose(mean.pop("classifier.bias"), start["classifier.bias"] + 1.0)
    assert all(torch.allclose(value, start[name]) for name, value in mean.items())


def test_an_anchor_keeps_features_near_those_of_imagenet() -> None:
    pixels = torch.randint(0, 255, (4, 3, 64, 64), dtype=torch.uint8)
    label, places, known = torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.zeros(4, 4, 4), torch.ones(4)
    start = pretrained().eval()
    with torch.no_grad():
        anchors = start.upper(start.lower(pixels.float(), 0), 0)[2]

    def moved(anchor: float) -> float:
        how = {**quick()["fit"], "anchor": anchor}
        trainer = Trainer(Member("one", set(), how, 0), quick(), None, None)
        trainer.schedule(0.2, 8)
        for _ in range(8):
            trainer.step(pixels, label, places, known, anchors)
        network = trainer.network.eval()
        with torch.no_grad():
            features = network.upper(network.lower(pixels.float(), 0), 0)[2]
        return (features - anchors).square().mean().item()

    assert moved(3.0) < 0.5 * moved(0.0)


@pytest.mark.slow
def test_a_sweep_scores_variants_and_the_means_of_their_weights(pictures: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(pictures), "--out", str(tmp_path), "--quick", "--views", "native"]
    networks = ["dense/dashcam", "anchor/dashcam", "dense/final", "anchor/final"]
    assert sweep_embedded.main([*arguments, "--networks", *networks, "--means", "dense+anchor"]) == 0
    scored = {name: np.load(tmp_path / f"{name}.npz")["native"] for name in ("dense", "anchor", "dense+anchor")}
    assert all(np.isfinite(logits).all() for logits in scored.values())
    for fold in ("dashcam", "final"):
        dense, anchor, mean = (embedded.kept(tmp_path / f"{name}-{fold}.pt") for name in scored)
        for key, value in mean.items():  # kept in half precision
            torch.testing.assert_close(value, (dense[key] + anchor[key]) / 2, rtol=2e-3, atol=2e-3)
        assert not torch.equal(dense["head.weight"], anchor["head.weight"])
    assert "| dense+anchor |" in (tmp_path / "sweep.md").read_text()


def test_weights_of_two_trainings_become_their_mean_fold_by_fold(pictures: Path, folds: Path, tmp_path: Path) -> None:
    trainings = [tmp_path / name for name in ("first", "second")]
    for n, folder in enumerate(trainings):
        folder.mkdir()
        for name in ("one", "two", "final"):
            network = pretrained()
            torch.nn.init.constant_(network.classifier.bias, 2.0 * n)
            embedded.keep(f"run/{name}", network, folder)
    found = embedded.means(trainings, tomllib.loads(folds.read_text()), read_folder(pictures), variant=0)
    assert found.keys() == {"one", "two", "final"}
    for network in found.values():
        assert network.classifier.bias.item() == 1.0
        assert torch.equal(network.head.weight, pretrained().head.weight.half().float())


def test_weights_of_no_training_and_of_two_are_refused(pictures: Path, folds: Path, tmp_path: Path) -> None:
    assert embedded.main(["--data", str(pictures), "--folds", str(folds), "--weights", str(tmp_path)]) == 2
    for name in ("pasted-one.pt", "dense-one.pt"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"expected one file \*-one\.pt, found 2"):
        embedded.file_of("one", tmp_path)


def test_a_fold_that_leaves_one_label_is_refused() -> None:
    empty, names = torch.zeros(2), np.array(["camvid", "gtsdb"])
    pool = Pool(empty, empty, empty, empty, {}, names, np.array(["", ""]), np.array([0, 0]), np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="none of label 1"):
        pool.taken(Member("one", {"gtsdb"}, {"batch": 8, "pasted_share": 0.5}, 0), np.random.default_rng(0))


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


def test_gains_are_paired_and_none_over_oneself() -> None:
    rng = np.random.default_rng(0)
    labels, sources = np.tile([0, 1], 150), np.repeat(["one", "two", "three"], 100)
    logits = labels * 4.0 - 2 + rng.standard_normal(300)
    scores = evaluate.Scores(labels, sources, sources, {"native": logits})
    others = {"itself": logits.tolist(), "weaker": (logits + 4 * rng.standard_normal(300)).tolist()}
    table = evaluate.gains(scores, others, {"first": ["one"]}, draws=40)
    itself, weaker = (line.split(" | ") for line in table.splitlines() if "| pooled |" in line)
    assert all(cell.strip(" |").endswith("+0.000 (+0.000..+0.000)") for cell in itself[2:])
    assert all("(+0." in cell for cell in weaker[2:]), "the lower end of every gain is above nought"


def test_every_source_belongs_to_one_fold() -> None:
    found = [Labelled(Path("a.jpg"), 1, "somewhere", "somewhere")]
    with pytest.raises(ValueError, match="in none: \\['somewhere'\\]"):
        evaluate.check_folds(found, {"one": ["elsewhere"]})


def test_unknown_settings_are_refused_by_name(pictures: Path, folds: Path) -> None:
    for wrong in ("fit.stepps=3", "fitt.steps=3"):
        assert embedded.main(["--data", str(pictures), "--folds", str(folds), "--set", wrong]) == 2
    assert embedded.main(["--data", str(pictures), "--folds", str(folds), "--recipes", "plane"]) == 2


def test_a_recipe_changes_what_it_names_and_the_command_line_has_the_last_word() -> None:
    dense, plain = (embedded.settings_of(None, "cpu", recipe=name) for name in ("dense", "plain"))
    assert (dense["fit"]["dense_loss"], plain["fit"]["dense_loss"]) == (0.3, 0.0)
    assert dense["fit"]["batch"] == plain["fit"]["batch"]
    assert embedded.settings_of(None, "cpu", ["fit.steps=7"], recipe="plain")["fit"]["steps"] == 7


def test_a_recipe_leaves_kinds_of_rendered_things_out(tmp_path: Path) -> None:
    for name in ("work-cone-70-0.png", "work-excavator-300-0.png", "harmless-bus-310-0.png"):
        (tmp_path / name).touch()
    assert [path.name for path in embedded.sprites_of(tmp_path, ["excavator", "bus"])] == ["work-cone-70-0.png"]


@pytest.mark.slow
def test_a_whole_run_trains_evaluates_exports_and_repeats(pictures: Path, folds: Path, tmp_path: Path) -> None:
    def run(name: str) -> dict[str, object]:
        out = tmp_path / name
        arguments = [
            "--data",
            str(pictures),
            "--folds",
            str(folds),
            "--work",
            str(out),
        ]
        arguments += ["--views", "level0", "native", "--quick"]
        assert embedded.main(arguments) == 0
        return json.loads((out / "figures.json").read_text())

    first, second = run("first"), run("second")
    assert first["kinds"] == second["kinds"], "the same seed gives the same figures"
    assert first["kinds"]["native"]["pooled"]["n"] == 40
    shipped = Embedded(tmp_path / "first/embedded")
    shipped.load("cpu")
    opinions = shipped.assess([Frame.of(np.asarray(street(7, roadwork))) for roadwork in (True, False)])
    assert opinions[0].logit > opinions[1].logit
    card = json.loads((tmp_path / "first/embedded/model_card.json").read_text())
    assert "kitti-road" in card["never_trained_on"]
    assert card["mean_of"] == embedded.recipes_of(None)
    kept = [embedded.kept(tmp_path / "first" / name / f"{name}-final.pt") for name in card["mean_of"]]
    assert not torch.equal(kept[0]["head.weight"], kept[1]["head.weight"])
    assert "Lite0" in card["description"]


def test_the_file_of_street_embeddings_holds_road_work_at_every_level_and_no_picture(
    pictures: Path, tmp_path: Path
) -> None:
    street_embeddings.main(pictures, tmp_path / "streets.npz")
    with np.load(tmp_path / "streets.npz") as held:
        columns = {name: held[name] for name in held}
    assert set(columns) == {"embeddings", "labels", "sources", "pictures", "levels"}
    assert columns["embeddings"].shape == (4 * (5 * 4 + 5), 1280)
    assert np.linalg.norm(columns["embeddings"].astype(float), axis=1).min() > 0
    assert sorted(columns["levels"][columns["labels"] == 1]) == sorted([*street_embeddings.LEVELS] * 20)
