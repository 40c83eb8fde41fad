"""`train` from pictures to a folder that serves, on drawn streets and tiny networks."""

from __future__ import annotations

import copy
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from accelerate import Accelerator
from finetune_helpers import ROOT, SOURCES, drawn_street, environment, pixels, run, street_folder
from PIL import Image, ImageDraw
from rich.console import Console
from safetensors.torch import load_file

from miner.commands import train as command
from models import catalog, metrics
from models.base import BadWeights, Frame
from models.data.labelled import Labelled
from models.embedded.model import Calibration
from models.foundation import HEAD, Foundation
from models.trained import OnCard, Trained
from models.training import album
from models.training.finetune import classify, composer, data, loop, network, package, report, score
from models.training.finetune.__main__ import main
from models.training.finetune.batches import CONTROL, PASTED, REAL, Batches, Shown, check, decoded
from models.training.finetune.settings import Classify, parse

torch.set_num_threads(1)
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),  # torch's exporter, of its own names
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.utils.tensorboard"),
]


@pytest.fixture(scope="session")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return street_folder(tmp_path_factory.mktemp("streets"))


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write("ViTForImageClassification", tmp_path_factory.mktemp("tiny-vit"))


def settings(streets: Path, out: Path, *more: str) -> Classify:
    quick = ["--steps", "30", "--batch", "16", "--workers", "0", "--learning-rate", "3e-3", "--device", "cpu"]
    return parse(Classify, ["--data", str(streets), "--out", str(out), *quick, *more])


@pytest.fixture(scope="session")
def trained(streets: Path, vit: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A run of the whole command: LoRA on a tiny ViT."""
    out = tmp_path_factory.mktemp("trained")
    return out, classify.run(settings(streets, out, "--backbone", str(vit), "--tune", "lora"))


# The data.


def test_a_picture_that_occurs_twice_is_kept_once_and_one_with_both_labels_is_refused(
    streets: Path, tmp_path: Path
) -> None:
    twice = tmp_path / "more" / "elsewhere"
    for name, label in (("avenue", "clear"), ("bridge", "clear")):
        (twice / label).mkdir(parents=True, exist_ok=True)
        (twice / label / f"{name}.jpg").write_bytes((streets / name / label / "0.jpg").read_bytes())
    both = data.read(settings(streets, tmp_path, "--data", f"{tmp_path / 'more'}:2"))
    assert len(both.pictures) == 40
    (twice / "roadwork").mkdir()
    (twice / "clear" / "avenue.jpg").rename(twice / "roadwork" / "avenue.jpg")
    with pytest.raises(ValueError, match="with both labels"):
        data.read(settings(streets, tmp_path, "--data", f"{tmp_path / 'more'}:2"))


def test_sources_are_split_whole_and_named_ones_go_where_they_were_named(streets: Path, tmp_path: Path) -> None:
    found = data.read(settings(streets, tmp_path))
    parts = data.split(found, settings(streets, tmp_path))
    assert sorted(s for sources in parts.values() for s in sources) == sorted(SOURCES)
    assert {part: len(sources) for part, sources in parts.items()} == {"train": 3, "calibrate": 1, "test": 1}
    chosen = settings(streets, tmp_path, "--test", "drive", "--calibrate", "avenue")
    parts = data.split(found, chosen)
    assert (parts["test"], parts["calibrate"]) == (["drive"], ["avenue"])
    with pytest.raises(ValueError, match="no source nowhere; known: avenue"):
        data.split(found, settings(streets, tmp_path, "--test", "nowhere"))


def test_too_few_sources_are_refused_with_what_to_do(streets: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"never split; .*test has none.*--source-column"):
        data.split(data.read(settings(streets / "avenue", tmp_path)), settings(streets, tmp_path))


def test_near_copies_in_two_parts_are_refused(streets: Path, tmp_path: Path) -> None:
    shutil.copytree(streets, tmp_path / "streets")
    rows = ["path,group", "drive/clear/0.jpg,same", "avenue/clear/0.jpg,same"]
    (tmp_path / "streets" / "manifest.csv").write_text("\n".join(rows))
    flags = ["--test", "drive", "--calibrate", "bridge"]
    asked = settings(tmp_path / "streets", tmp_path, *flags)
    with pytest.raises(ValueError, match=r"group same has pictures in avenue \(train\) and drive \(test\); put both"):
        data.split(data.read(asked), asked)
    together = settings(tmp_path / "streets", tmp_path, *flags, "--test", "avenue")
    assert set(data.split(data.read(together), together)["test"]) == {"avenue", "drive"}


def test_one_label_alone_is_refused_by_its_name(streets: Path, tmp_path: Path) -> None:
    for source in SOURCES[:3]:
        shutil.copytree(streets / source / "clear", tmp_path / source / "clear")
    asked = settings(tmp_path, tmp_path)
    with pytest.raises(ValueError, match="expected pictures of both labels, got 12 and none of them roadwork"):
        data.split(data.read(asked), asked)


def test_weights_double_chances_and_labels_stay_even(streets: Path, tmp_path: Path) -> None:
    found = data.read(settings(streets, tmp_path))
    rows = found.rows(["avenue", "bridge"])
    heavy = replace(found, weights=np.where([p.source == "avenue" for p in found.pictures], 2.0, 1.0))
    chances = data.chances(heavy, rows)
    of = {s: chances[found.rows([s])].sum() for s in SOURCES}
    assert of["avenue"] == pytest.approx(2 * of["bridge"])
    assert of["crossing"] == 0
    assert chances[[p.label == 1 for p in found.pictures]].sum() == pytest.approx(0.5)


@pytest.mark.parametrize("spec", ["hub:0", "streets:-1", "streets:1e999"])
def test_weights_that_are_none_are_refused(spec: str) -> None:
    with pytest.raises(ValueError, match="expected a weight above 0"):
        data.weighted(spec)


def test_a_name_without_a_weight_stays_whole() -> None:
    assert data.weighted("hub") == ("hub", 1.0)
    assert data.weighted("my/streets:0.5") == ("my/streets", 0.5)
    assert data.weighted("odd:name") == ("odd:name", 1.0)


def parquet(path: Path, rows: list[dict]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def test_parquet_rows_that_contradict_themselves_are_dropped_and_places_become_sources(
    streets: Path, tmp_path: Path
) -> None:
    pictures = [path.read_bytes() for path in sorted((streets / "avenue").rglob("*.jpg"))]
    rows = [
        {
            "image": {"bytes": picture, "path": "x"},
            "label": n % 2,
            "scene_description": "cones" if said else "",
            "city": city,
        }
        for n, (picture, said, city) in enumerate(
            zip(
                pictures,
                [0, 1, 0, 0, 1, 1, 0, 1],
                ["Porto", "Porto", "Graz", "Graz", *["Łódź / west"] * 4],
                strict=True,
            )
        )
    ]  # rows 3 and 4: a label without words, words without a label
    parquet(tmp_path / "set" / "data" / "train.parquet", rows)
    flags = ["--data", str(tmp_path / "set"), "--source-column", "city", "--out", str(tmp_path / "run")]
    found = data.read(parse(Classify, flags))
    assert len(found.pictures) == 6
    assert {p.source for p in found.pictures} == {"Porto", "Graz", "Łódź-west"}
    assert {p.path.read_bytes() for p in found.pictures} == set(pictures[:3] + pictures[5:])
    assert data.read(parse(Classify, flags)).digest == found.digest, "the second time they are there"
    elsewhere = ["--out", str(tmp_path / "again"), "--source-column", "town"]
    with pytest.raises(ValueError, match=r"--source-column town: .* no such column, but city, image, label"):
        data.read(parse(Classify, [*flags, *elsewhere]))


def test_parquet_is_written_anew_for_another_column_and_for_another_set_of_the_same_name(
    streets: Path, tmp_path: Path
) -> None:
    """The refusal of a first try says to name a column; the second try, into the same folder, must hear of it."""
    pictures = [path.read_bytes() for path in sorted((streets / "avenue").rglob("*.jpg"))]
    for owner, some in (("one", pictures[:4]), ("two", pictures[4:])):
        rows = [{"image": {"bytes": p, "path": "x"}, "label": n % 2, "city": f"c{n}"} for n, p in enumerate(some)]
        parquet(tmp_path / owner / "set" / "all.parquet", rows)
    flags = ["--data", str(tmp_path / "one" / "set"), "--out", str(tmp_path / "run")]
    assert {p.source for p in data.read(parse(Classify, flags)).pictures} == {"set"}
    flags += ["--source-column", "city"]
    assert {p.source for p in data.read(parse(Classify, flags)).pictures} == {"c0", "c1", "c2", "c3"}
    flags += ["--data", str(tmp_path / "two" / "set")]
    assert {p.path.read_bytes() for p in data.read(parse(Classify, flags)).pictures} == set(pictures)
    assert len(data.read(parse(Classify, [*flags, "--most-rows", "1"])).pictures) == 2


def test_parquet_without_a_label_is_refused_with_what_is_there(streets: Path, tmp_path: Path) -> None:
    picture = (streets / "avenue" / "clear" / "0.jpg").read_bytes()
    parquet(tmp_path / "set" / "all.parquet", [{"image": {"bytes": picture, "path": "x"}, "kind": 1}])
    with pytest.raises(
        ValueError, match=r"--data .*set: expected the columns image and label, got \['image', 'kind'\]"
    ):
        data.read(parse(Classify, ["--data", str(tmp_path / "set"), "--out", str(tmp_path / "run")]))
    assert not list((tmp_path / "run").rglob("*.jpg"))


def test_of_a_journals_export_only_the_pictures_are_read(streets: Path, tmp_path: Path) -> None:
    picture = (streets / "avenue" / "clear" / "0.jpg").read_bytes()
    rows = [{"image": {"bytes": picture, "path": "a.jpg"}, "label": 0, "label_source": "human"}]
    parquet(tmp_path / "export" / "pictures" / "labelled.parquet", rows)
    parquet(tmp_path / "export" / "requests" / "all.parquet", [{"sha256": "00", "label": 1}])
    found = data.read(parse(Classify, ["--data", str(tmp_path / "export"), "--out", str(tmp_path / "run")]))
    assert [(p.source, p.label) for p in found.pictures] == [("export", 0)]


def shown(streets: Path, out: Path, **more: float) -> Shown:
    found = data.read(settings(streets, out))
    targets = np.array([[p.label, 0.9 if p.label else 0.1] for p in found.pictures], np.float32)
    chances = data.chances(found, found.rows(SOURCES[:3]))
    return Shown(found.pictures, chances, targets, **{"batch": 6, "edge": 128, "seed": 5, **more})  # type: ignore[arg-type]


def test_every_step_is_a_function_of_its_number_and_ranks_share_it(streets: Path, tmp_path: Path) -> None:
    of = shown(streets, tmp_path, pasted=0.5)
    whole = Batches(of)[7]
    assert whole["frames"].shape[1:] == (90, 128, 3)
    assert np.array_equal(whole["frames"], Batches(of)[7]["frames"])
    assert not np.array_equal(whole["frames"], Batches(of)[8]["frames"])
    for rank in (0, 1):
        part = Batches(of, rank, 2)[7]
        assert np.array_equal(part["frames"][:3], whole["frames"][rank:6:2])
        assert np.array_equal(part["kind"], whole["kind"][rank::2])
        assert np.array_equal(part["targets"], whole["targets"][rank::2], equal_nan=True)


def test_things_are_pasted_into_clear_pictures_that_train_and_pieces_come_from_their_source(
    streets: Path, tmp_path: Path
) -> None:
    of = shown(streets, tmp_path, batch=400, pasted=0.5)
    batch = Batches(of)[0]
    labels, kind = batch["targets"][:, 0], batch["kind"]
    pictures = {decoded(p.path, 128).tobytes(): p for p in of.pictures}
    seen = [pictures[frame.tobytes()] for frame in batch["frames"]]
    assert {p.source for p in seen} == set(SOURCES[:3])
    assert [p.label for p in seen[:400]] == [int(y) if k != PASTED else 0 for y, k in zip(labels, kind, strict=True)]
    share = {y: float((kind[labels == y] != REAL).mean()) for y in (0, 1)}
    assert share == pytest.approx({0: 0.375, 1: 0.5}, abs=0.08)
    assert set(kind[labels == 0]) == {REAL, CONTROL}
    assert np.isnan(batch["targets"][:, 1]).tolist() == (kind != REAL).tolist(), "nobody said anything of these"
    for place in np.flatnonzero(kind == CONTROL):
        donor = seen[batch["donor"][place]]
        assert (donor.source, donor.label) == (seen[place].source, 0)


@pytest.fixture(scope="module")
def with_cones(streets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The streets, and close-ups of a cone from a source that trains and from one that is measured."""
    root = tmp_path_factory.mktemp("with-cones") / "streets"
    shutil.copytree(streets, root)
    close_up = Image.new("RGB", (200, 200), "white")
    ImageDraw.Draw(close_up).polygon([(100, 20), (160, 180), (40, 180)], fill=(255, 90, 0))
    for source in ("avenue", "drive"):
        (root / source / "objects").mkdir()
        close_up.save(root / source / "objects" / "cone.png")
    return root


def test_no_thing_of_a_source_that_judges_is_pasted(with_cones: Path, tmp_path: Path) -> None:
    asked = settings(with_cones, tmp_path, "--test", "drive", "--calibrate", "bridge")
    found = data.read(asked)
    known = found.digest
    assert set(found.objects) == {"avenue", "drive"}
    targets = np.array([[p.label] for p in found.pictures], np.float32)
    _, made = composer.course(found, data.split(found, asked), targets, 64, asked, loop.accelerator(asked))
    assert set(made.sprites.sources) == {"", "avenue"}
    assert made.suppliers == 1
    (with_cones / "avenue" / "objects" / "cone.png").touch()
    assert data.read(asked).digest == known
    (with_cones / "drive" / "objects" / "cone.png").unlink()
    assert data.read(asked).digest != known


@pytest.mark.parametrize("side", [64, 72, 256])
def test_views_are_squares_of_the_networks_size_and_labels_say_what_is_seen(
    streets: Path, tmp_path: Path, side: int
) -> None:
    of = shown(streets, tmp_path, batch=6, pasted=0.5)
    sprites = album.sprites({}, (), 0, "cpu", drawn=2)
    made = composer.Composer(sprites, side, 1, "cpu")
    for number in (0, 1):  # as validators send them, and natively
        batch = {k: torch.from_numpy(v) for k, v in Batches(of)[number].items()}
        views = made(number, batch)
        assert views["pixels"].shape == (6, side, side, 3)
        assert views["pixels"].dtype == torch.uint8
        assert torch.equal(views["pixels"], made(number, batch)["pixels"])
        other = composer.Composer(sprites, side, 1, "cpu", rank=1)(number, batch)
        assert not torch.equal(views["pixels"], other["pixels"])
        real = batch["kind"] != PASTED
        assert torch.equal(views["targets"][real, 0], batch["targets"][real, 0])
        assert batch["targets"][~real, 0].all()


def test_what_was_pasted_out_of_sight_is_not_road_work(streets: Path, tmp_path: Path) -> None:
    of = shown(streets, tmp_path, batch=16, pasted=0.9)
    made = composer.Composer(album.sprites({}, (), 0, "cpu", drawn=2), 32, 1, "cpu")
    labels = []
    for number in (1, 3, 5):  # so small that much of what is pasted is too small to count
        batch = {k: torch.from_numpy(v) for k, v in Batches(of)[number].items()}
        labels += made(number, batch)["targets"][batch["kind"] == PASTED, 0].tolist()
    assert set(labels) == {0.0, 1.0}


def test_a_picture_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "torn.jpg"
    path.write_bytes(drawn_street(1, roadwork=False)[:900])
    with pytest.raises(ValueError, match=r"torn\.jpg: expected a whole JPEG or PNG; remove or mend it"):
        decoded(path, 128)
    torn = Labelled(path, 0, "somewhere", "somewhere")
    with pytest.raises(ValueError, match=r"(?s)2 of 2 pictures cannot be read:.*torn\.jpg"):
        check([torn, torn])


# Settings.


def test_a_settings_file_is_read_flags_win_and_unknown_names_are_errors(streets: Path, tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text(f'data = ["{streets}"]\nout = "{tmp_path}"\nsteps = 7\nbatch = 4\n')
    found = parse(Classify, ["--settings", str(file), "--steps", "9"])
    assert (found.steps, found.batch, found.data) == (9, 4, (str(streets),))
    file.write_text('stepps = 7\ndata = ["x"]\nout = "y"\n')
    with pytest.raises(ValueError, match="stepps: unknown name; known: data, out"):
        parse(Classify, ["--settings", str(file)])
    with pytest.raises(ValueError, match="batch 5 cannot be split into 2"):
        parse(Classify, ["--data", "x", "--out", "y", "--batch", "5", "--accumulate", "2"])
    with pytest.raises(ValueError, match=r"steps: .*greater than or equal to 1, got '0'"):
        parse(Classify, ["--data", "x", "--out", "y", "--steps", "0"])


def test_the_environment_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPS", "3")
    monkeypatch.setenv("NAME", "somebody")
    found = parse(Classify, ["--data", "x", "--out", "y"])
    assert (found.steps, found.name) == (1000, "own")


@pytest.mark.parametrize("kind", [[], ["distil"], ["vlm"]])
def test_the_help_names_values_as_its_reader_would(
    kind: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert command.main([*kind, "--help"]) == 0
    said = capsys.readouterr().out
    for flag in ("--data DIR[:WEIGHT]", "--test SOURCE", "--calibrate SOURCE", "--out DIR", "--settings FILE"):
        assert flag in said
    assert not any(word in said for word in ("tuple[", "Path", "default: ()", "default: None", "default: )"))
    assert max(map(len, said.splitlines())) <= 80


# Backbones.

FAMILIES = ("ViTForImageClassification", "DINOv3ViTModel", "SiglipVisionModel", "RadioModel")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_of_the_catalog_trains_and_is_exported_as_it_is(name: str, tmp_path: Path) -> None:
    made = network.pretrained(str(tiny.write(name, tmp_path / "checkpoint")))
    network.choose_what_learns(made, "lora", rank=2, checkpointing=True)
    torch.nn.init.normal_(made.head[1].weight)
    shown = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    made.train()(shown).sum().backward()
    learned = {n for n, p in made.named_parameters() if p.grad is not None}
    assert any("lora_" in n for n in learned)
    assert all("lora_" in n or n.startswith("head.") for n in learned)
    with torch.no_grad():
        for n, p in made.named_parameters():
            if "lora_B" in n:
                p.normal_(std=0.3)
        before = made.eval()(shown)
        assert torch.allclose(network.merge(made)(shown), before, atol=1e-4)
    assert package.write_onnx(made, tmp_path / "model.onnx") <= package.TOLERANCE
    again = network.build(made.described)
    again.load_state_dict(made.state_dict())
    assert torch.allclose(again.eval()(shown), made(shown), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "tune"),
    [("lite", "head"), ("lite", "full"), *((name, tune) for name in FAMILIES for tune in ("head", "lora", "full"))],
)
def test_whatever_learns_has_a_part_in_the_loss(name: str, tune: str, tmp_path: Path) -> None:
    """Several processes wait for the gradient of every weight that learns, and end with an error if there is none."""
    made = network.pretrained("efficientnet-lite0" if name == "lite" else str(tiny.write(name, tmp_path)), 32)
    network.choose_what_learns(made, tune, rank=2, checkpointing=False)
    made.train()(torch.zeros(2, 32, 32, 3, dtype=torch.uint8)).sum().backward()
    assert {n for n, p in made.named_parameters() if p.grad is not None} == set(loop.learning(made))
    assert any(n.startswith("encoder.") for n in loop.learning(made)) is (tune != "head")


def test_the_seed_decides_how_matrices_start(vit: Path, tmp_path: Path) -> None:
    def started(seed: str) -> torch.Tensor:
        loop.accelerator(settings(tmp_path, tmp_path, "--seed", seed))
        made = network.pretrained(str(vit))
        network.choose_what_learns(made, "lora", rank=2, checkpointing=False)
        return torch.cat([p.detach().flatten() for name, p in made.named_parameters() if "lora_A" in name])

    assert torch.equal(started("1"), started("1"))
    assert not torch.equal(started("1"), started("2"))


def test_efficientnet_lite_is_its_own_network_without_the_classifier() -> None:
    from models.training.backbone import pretrained as whole

    made, original = network.pretrained("efficientnet-lite0", 64), whole().eval()
    torch.nn.init.normal_(original.classifier.weight)
    shown = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        expected = original(shown.permute(0, 3, 1, 2).float())
        assert torch.allclose(original.classifier(made.features(shown))[:, 0], expected, atol=1e-4)
    with pytest.raises(ValueError, match="LoRA needs linear layers"):
        network.choose_what_learns(made, "lora", 4, checkpointing=False)
    with pytest.raises(ValueError, match="cannot compute activations twice"):
        network.choose_what_learns(made, "full", 4, checkpointing=True)


def test_timm_networks_go_by_their_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **more: create(name, pretrained=False, **more))
    made = network.pretrained("timm/test_convnext", 64)
    assert made.described.mean == tuple(made.encoder.pretrained_cfg["mean"])
    network.choose_what_learns(made, "full", 4, checkpointing=True)
    assert network.build(made.described)(torch.zeros(2, 64, 64, 3, dtype=torch.uint8)).shape == (2,)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("efficientnet-lite9", "expected efficientnet-lite with one of"),
        ("resnet", "expected efficientnet-lite0, timm/"),
        ("timm/resnet5o", r"a name that timm.list_models\(\) has, with weights; Unknown model \(resnet5o\)"),
    ],
)
def test_backbones_that_are_none_are_refused_with_the_known_ones(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        network.pretrained(name)


def test_a_text_side_and_a_wrong_side_are_refused(vit: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has a text side too"):
        network.pretrained(str(tiny.write("SiglipModel", tmp_path)))
    with pytest.raises(ValueError, match="choose another --side"):
        network.pretrained(str(vit), 48)


# The whole way.


def test_a_run_ends_with_figures_of_sources_it_never_saw(trained: tuple[Path, dict]) -> None:
    out, found = trained
    assert json.loads((out / "results.json").read_text()) == found
    assert set(found["measured"]) == set(score.KINDS)
    row = found["measured"]["native"]["all"]
    assert row["n"] == 8
    assert row["auc"]["value"] > 0.9
    assert found["difference_to_torch"] <= package.TOLERANCE
    parts = {s["source"]: s["part"] for s in found["sources"]}
    assert sorted(parts) == sorted(SOURCES)
    assert set(found["measured"]["native"]["sources"]) == {s for s, part in parts.items() if part == "test"}
    assert "95 % intervals in brackets, drawn by single pictures" in (out / "model" / "README.md").read_text()


def test_the_board_and_the_diagram_are_written(trained: tuple[Path, dict]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out, _ = trained
    with Image.open(out / "model" / "reliability.png") as picture:
        assert picture.size == (600, 600)
    board = EventAccumulator(str(out / "tensorboard")).Reload()
    losses = [event.value for event in board.Scalars("loss")]
    assert len(losses) == 30
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert [event.step for event in board.Scalars("held_out/auc")] == [30]


def test_the_folder_serves_by_its_own_profile(
    trained: tuple[Path, dict], streets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from miner.cli import main

    monkeypatch.setattr(catalog, "_own", {})
    shown = [streets / "avenue" / label / "0.jpg" for label in ("roadwork", "clear")]
    assert main(["predict", "--profile", str(trained[0] / "model" / "profile.toml"), *map(str, shown)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["opinions"][0]["model"] for line in lines] == ["own", "own"]
    assert lines[0]["probability"] > 0.5 > lines[1]["probability"]


def test_onnx_and_torch_answer_alike(
    trained: tuple[Path, dict], streets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "_own", {})
    catalog.add(trained[0] / "model" / "catalog.toml")
    frames = [Frame.of(pixels(path)) for path in sorted((streets / "drive").rglob("*.jpg"))]
    answers = []
    for adapter in (Trained, OnCard):
        model = adapter(catalog.find("own").model_copy(update={"library": "transformers"}))
        model.load("cpu")
        model.warm_up()
        answers.append([opinion.logit for opinion in model.assess(frames)])
        model.close()
    assert answers[0] == pytest.approx(answers[1], abs=1e-3)


@pytest.mark.parametrize("key", ["dinov3-s", "siglip2-head", "c-radio-h"])
def test_a_head_answers_beside_its_encoder_as_the_trained_network_does_calibrated(key: str, tmp_path: Path) -> None:
    entry = catalog.find(key)
    checkpoint = tiny.write(entry.class_name, tmp_path / "checkpoint")
    made = network.pretrained(str(checkpoint)).eval()
    made.described = replace(made.described, start=entry.repository)
    for parameter in made.head.parameters():
        torch.nn.init.normal_(parameter)
    calibration = Calibration(1.7, 0.4)
    package.write_head(made, calibration, tmp_path)
    served = catalog.make(entry)
    assert isinstance(served, Foundation)
    served._directory, served.heads_file = checkpoint, tmp_path / HEAD
    served.load("cpu")
    pictures = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)  # of its size: none is resized
    with torch.inference_mode():
        expected = [calibration.log_odds(z) for z in made(torch.from_numpy(pictures)).tolist()]
    assert [opinion.logit for opinion in served.assess([Frame.of(p) for p in pictures])] == pytest.approx(
        expected, abs=1e-3
    )


def test_a_frozen_encoder_of_the_catalog_leaves_a_head_and_the_report_says_where_it_goes(
    streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MINER_STATE_DIR", str(tmp_path / "state"))
    checkpoint = tiny.write("DINOv3ViTModel", tmp_path / "checkpoint")
    monkeypatch.setattr(network.weights, "locate", lambda entry: checkpoint)
    flags = ["--backbone", "dinov3-s", "--side", "32", "--tune", "head", "--name", "small"]
    card = classify.run(settings(streets, tmp_path / "run", *flags))
    head = tmp_path / "run" / "model" / HEAD
    assert HEAD in json.loads((head.parent / "model_card.json").read_text())["files"]
    assert card["settings"]["backbone"] == "dinov3-s"
    there = tmp_path / "state" / "heads" / "dinov3-s.safetensors"
    assert f"  install -D -m 644 {head} {there}" in capsys.readouterr().out.splitlines()


def test_a_calibration_that_does_harm_is_said(trained: tuple[Path, dict]) -> None:
    card = copy.deepcopy(trained[1])
    for rows in card["measured"].values():
        rows["before"]["brier"]["value"] = 0.0
        rows["all"]["brier"]["value"] = 0.2
    console = Console(width=80, record=True, file=io.StringIO())
    report.show(console, card, trained[0])
    said = " ".join(console.export_text().split())
    assert "made these sources worse (Brier score 0.000 before, 0.200 after)" in said
    for rows in card["measured"].values():
        rows["before"]["brier"]["value"] = 0.3
    report.show(console, card, trained[0])
    assert "warning" not in console.export_text()


def test_changed_weights_are_refused(trained: tuple[Path, dict], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in (trained[0] / "model").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    with (folder / "model.onnx").open("r+b") as file:
        file.seek(1000)
        file.write(b"changed")
    entry = catalog.entries(folder / "catalog.toml")["own"].model_copy(update={"folder": str(folder)})
    with pytest.raises(BadWeights, match=r"model\.onnx: model_card\.json expects sha256"):
        Trained(entry).load("cpu")


def test_a_key_of_the_projects_catalog_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "catalog.toml").write_text(catalog.CATALOG.read_text().split("[sign-reading]")[0])
    with pytest.raises(catalog.CatalogError, match="embedded: the project's catalog has this key"):
        catalog.add(tmp_path / "catalog.toml")


def test_safetensors_hold_the_merged_network_alone(trained: tuple[Path, dict]) -> None:
    names = set(load_file(trained[0] / "model" / "model.safetensors"))
    assert not any("lora" in name for name in names)
    assert {name.split(".")[0] for name in names} == {"encoder", "head"}


def test_another_run_in_the_same_folder_is_refused(trained: tuple[Path, dict], streets: Path, vit: Path) -> None:
    other = settings(streets, trained[0], "--backbone", str(vit), "--tune", "lora", "--seed", "1")
    with pytest.raises(ValueError, match=r"is of another run \(seed 72 -> 1\)\. Choose another --out"):
        classify.run(other)


def test_other_pictures_in_the_same_folder_are_refused(trained: tuple[Path, dict], vit: Path, tmp_path: Path) -> None:
    fewer = settings(street_folder(tmp_path / "fewer", each=2), trained[0], "--backbone", str(vit), "--tune", "lora")
    with pytest.raises(ValueError, match=r"is of another run \(pictures \w+ -> \w+\)"):
        classify.run(fewer)


def test_the_report_fits_a_terminal_of_80_columns(trained: tuple[Path, dict]) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    report.show(console, trained[1], trained[0])
    said = console.export_text()
    lines = said.splitlines()
    assert max(len(line.rstrip()) for line in lines if str(trained[0]) not in line) <= 80
    assert "…" not in said
    for kind, rows in trained[1]["measured"].items():
        row = next(line for line in lines if line.strip().startswith(kind))
        assert metrics.told(rows["all"]["mcc"]) in row
    (source,) = trained[1]["measured"]["native"]["sources"]
    assert any(line.strip().startswith(source) and "accuracy" in line for line in lines)
    profile = trained[0] / "model" / "profile.toml"
    assert f"  ./run_miner.sh predict --profile {profile} PICTURE.jpg" in lines, "on one line, to be copied"


def test_a_full_disk_is_said_and_the_last_checkpoint_stays(tmp_path: Path) -> None:
    """The system lets no file grow beyond a few bytes, as a full disk would."""
    kept = tmp_path / loop.NAME
    kept.write_bytes(b"the last one")
    model = torch.nn.Linear(400, 400)
    optimizer = torch.optim.AdamW(model.parameters())
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, most[1]))
    try:
        with pytest.raises(OSError, match=r"cannot be written .* GB are free there\. Make room and start again"):
            loop._save(kept, model, optimizer, loop.State(1, {}), {}, Accelerator(cpu=True))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
    assert kept.read_bytes() == b"the last one"
    assert sorted(path.name for path in tmp_path.iterdir()) == [loop.NAME]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nand more"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: 2 GiB"),
    ],
)
def test_a_full_memory_is_said_with_what_helps(tmp_path: Path, error: RuntimeError) -> None:
    def loss(outputs: torch.Tensor, batch: dict) -> torch.Tensor:
        raise error

    asked = settings(tmp_path, tmp_path)
    batches = [{"input": np.zeros((2, 4), np.float32), "targets": np.zeros((2, 1), np.float32)}] * asked.steps
    with pytest.raises(ValueError, match=r"memory is full; try --checkpointing, --accumulate 2 .*allocate.* 2 GiB"):
        loop.fit(torch.nn.Linear(4, 1), batches, loss, asked, Accelerator(cpu=True), identity={})


def test_a_loader_that_dies_is_said_with_what_helps(tmp_path: Path) -> None:
    """As where the shared memory of a container is full."""

    class Dying:
        def __getitem__(self, number: int) -> dict:
            os.kill(os.getpid(), signal.SIGBUS)
            return {}

    asked = settings(tmp_path, tmp_path, "--workers", "1")
    with pytest.raises(OSError, match=r"DataLoader worker .*Fewer --workers .*--shm-size 1g"):
        loop.fit(torch.nn.Linear(4, 1), Dying(), lambda *_: None, asked, Accelerator(cpu=True), identity={})


def test_a_loss_that_is_no_number_stops_the_run(streets: Path, vit: Path, tmp_path: Path) -> None:
    wild = settings(
        streets, tmp_path, "--backbone", str(vit), "--tune", "full", "--learning-rate", "1e30", "--pasted", "0"
    )
    with pytest.raises(FloatingPointError, match="lower learning-rate"):
        classify.run(wild)


def test_a_network_that_learned_nothing_is_not_calibrated(streets: Path, tmp_path: Path) -> None:
    found = data.read(settings(streets, tmp_path))
    wrong = {"native": np.array([-float(p.label) for p in found.pictures])}
    with pytest.raises(ValueError, match=r"AUC is 0\.000; train for more steps"):
        score.calibrate(found.pictures, wrong, seed=0)


# Processes.


KILLED = """
import os, signal, sys
from models.training.finetune import loop
from models.training.finetune.__main__ import main
update, steps = loop._update, []
def dies(*arguments):
    total = update(*arguments)
    steps.append(total)
    if len(steps) == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return total
loop._update = dies
sys.exit(main(sys.argv[1:]))
"""


def test_killed_and_started_again_it_ends_where_an_uninterrupted_run_ends(
    streets: Path, vit: Path, tmp_path: Path
) -> None:
    """kill -9 in the middle of the ninth step; the rest gives the same weights, bit for bit."""
    flags = ["--data", str(streets), "--backbone", str(vit), "--tune", "full", "--steps", "40", "--batch", "8"]
    flags += ["--workers", "0", "--device", "cpu", "--learning-rate", "3e-3", "--checkpoint-minutes", "0"]
    cut, calm = tmp_path / "cut", tmp_path / "calm"
    died = subprocess.run([sys.executable, "-c", KILLED, *flags, "--out", cut], cwd=ROOT, env=environment())
    assert died.returncode == -signal.SIGKILL
    assert torch.load(cut / loop.NAME, weights_only=True)["step"] == 8
    assert not (cut / "results.json").exists()
    again = [classify.run(parse(Classify, [*flags, "--out", str(out)])) for out in (cut, calm)]
    assert again[0]["measured"] == again[1]["measured"]
    weights = [load_file(out / "model" / "model.safetensors") for out in (cut, calm)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def test_trained_in_16_bits_it_is_exported_and_serves_in_32(streets: Path, vit: Path, tmp_path: Path) -> None:
    """As on a card: what casts to 16 bits while it learns must not be part of what is exported."""
    flags = ["--data", streets, "--backbone", vit, "--tune", "full", "--steps", "12", "--batch", "8", "--workers", "0"]
    flags += ["--learning-rate", "1e-2", "--pasted", "0", "--device", "cpu", "--precision", "bf16"]
    done = run(*flags, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "results.json").read_text())["difference_to_torch"] <= package.TOLERANCE


def test_compiled_and_trained_in_16_bits_it_is_exported_and_serves_in_32(
    streets: Path, vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above with --compile, which wraps the network once more. By a backend that asks for no C++ compiler."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    flags = ["--backbone", str(vit), "--tune", "full", "--steps", "12", "--learning-rate", "1e-2", "--pasted", "0"]
    card = classify.run(settings(streets, tmp_path, *flags, "--precision", "bf16", "--compile"))
    assert card["difference_to_torch"] <= package.TOLERANCE
    assert card["measured"]["native"]["all"]["auc"]["value"] > 0.9


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    """The same batches, shared by two processes: gradients are averaged over all of them."""
    script = Path(__file__).with_name("linear_run.py")
    for processes in (1, 2):
        words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), str(script)]
        out = tmp_path / str(processes)
        subprocess.run([sys.executable, *words, str(out)], cwd=ROOT, env=environment(), check=True, timeout=600)
    one, two = (torch.load(tmp_path / n / loop.NAME, weights_only=True)["average"] for n in ("1", "2"))
    assert one["weight"].abs().min() > 0.01
    assert torch.allclose(one["weight"], two["weight"], atol=1e-6)


@pytest.mark.slow
def test_two_processes_run_the_whole_command(streets: Path, tmp_path: Path) -> None:
    """With all that learns of a network that has more: a dense head, of which nothing is asked here."""
    flags = ["--data", streets, "--backbone", "efficientnet-lite0", "--side", "32", "--tune", "full", "--steps", "6"]
    flags += ["--batch", "8", "--workers", "0", "--device", "cpu", "--processes", "2"]
    done = run(*flags, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "results.json").read_text())["measured"]["native"]["all"]["n"] == 8


def test_the_board_has_every_step_once_whenever_a_run_is_started_again(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    asked = settings(tmp_path, tmp_path, "--steps", "3")
    batches = [{"input": np.ones((2, 4), np.float32), "targets": np.ones((2, 1), np.float32)}] * asked.steps

    def stopped_before_anything_was_kept(number: int, batch: dict) -> dict:
        if number == 2:
            raise KeyboardInterrupt
        return batch

    def loss(outputs: torch.Tensor, batch: dict) -> torch.Tensor:
        return (outputs - batch["targets"]).square().mean()

    def fit(**more: object) -> None:
        loop.fit(torch.nn.Linear(4, 1), batches, loss, asked, Accelerator(cpu=True), identity={}, **more)

    with pytest.raises(KeyboardInterrupt):
        fit(show=stopped_before_anything_was_kept)
    fit()
    fit()  # it had ended
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("loss")] == [1, 2, 3]


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / loop.NAME).write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"checkpoint\.pt is no whole checkpoint .*; remove it to start anew"):
        loop.fit(
            torch.nn.Linear(4, 1), [], lambda *_: None, settings(tmp_path, tmp_path), Accelerator(cpu=True), identity={}
        )


def test_without_arguments_it_says_what_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    assert main([]) == 2
    assert "data" in caplog.text
    assert "out" in caplog.text


def test_what_is_wrong_is_said_in_one_line_and_ends_with_2(tmp_path: Path) -> None:
    done = run("--data", tmp_path / "nowhere", "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "expected a folder, hub, or OWNER/NAME" in " ".join(done.stderr.split())
