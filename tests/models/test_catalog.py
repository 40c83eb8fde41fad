"""Every name of the plan is accounted for, every model is told truthfully, and a wrong entry does not load."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest

from miner.commands import models as command
from miner.settings import UsageError
from models import catalog
from models.base import Model, ModelUnavailable
from models.catalog import CatalogError
from models.depth import ObjectSize
from models.fleet import Fleet

ROOT = Path(__file__).resolve().parents[2]
MINIMAL = '[some-model]\ntitle = "Some"\nlevel = 1\ntask = "t"\nlibrary = "numpy"\nlicence = "MIT"\nnote = "n"\n'

NAMES = """
Florence-2-Large · DINOv3-ViT-H+/16 · ADPretrain adapters · MVTec AD 2 tokens · RoadToken embedding · LaCo
· SAM 3 PE fusion · YOLO-Master-N (ES-MoE) · YOLO26-X · YOLOv13-X · RT-DETRv3-R50 · D-FINE-X · Grounding DINO 1.6 Pro
· SAM 3 detector · ADFNeT (night) · DINOv3 heads · auxiliary validator · Weather classifier · Anomaly-OV · AnomalyCLIP
· Depth Anything 3-Large · 3D grounding · object-size validator · SAM 3-Large · ReinADNet · CoTracker 3 · Qwen3-VL-4B
· Molmo 2-4B · Molmo 2-8B · Phi-4-Multimodal · Qwen3-VL-8B-Thinking · Qwen3-VL-32B · Llama 4 Maverick · Llama 4 Scout
· Qwen3-VL-30B-A3B-Thinking · Ovis2-34B · MoE-LLaVA · K2-GAD healing · Qwen3-VL-72B + Eagle-3 · InternVL3.5-78B
· process-reward ensemble · Qwen3-VL-235B · 26-model consensus · HCV voting · EverMemOS+ diffusion · active learning
· memory-adaptive · AttentionPredictor · EVICPRESS manager · Speculators · GAD-aware routing · bidirectional loop
· SAM 3 agent
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "catalog.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("key", ["embedded", "closer-look"])
def test_the_size_of_the_network_in_the_package_is_that_of_its_file(key: str) -> None:
    gb = Path(catalog.__file__).with_name("embedded").joinpath("roadwork.onnx").stat().st_size / 1e9
    assert catalog.find(key).memory_gb == {"int8": pytest.approx(gb, rel=0.02)}


def test_every_name_of_the_plan_has_its_truth() -> None:
    named = [name.strip() for name in NAMES.replace("\n", " ").split("·")]
    assert [row.name for row in catalog.plan().row] == named


def test_the_plans_levels_add_up_to_what_its_text_says_they_do() -> None:
    sums = [sum(row.gb or 0 for row in catalog.plan().row if row.level == level) for level in range(7)]
    assert sums == pytest.approx([19.2, 31.5, 22.3, 24.4, 25.8, 39.1, 16.0])
    assert [sum(card.gb.values()) for card in catalog.plan().card] == pytest.approx([80.0, 80.0])


def test_what_does_not_run_here_says_what_to_take_instead() -> None:
    for entry in catalog.entries().values():
        assert entry.adapter or entry.note, entry.key


def test_an_engine_and_its_scorer_load_the_same_class_from_the_same_repository() -> None:
    known = catalog.entries()
    both = [(known[key.removesuffix("-scorer")], entry) for key, entry in known.items() if entry.scorer]
    assert len(both) == 8
    for engine, scorer in both:
        assert (engine.repository, engine.class_name) == (scorer.repository, scorer.class_name)


@pytest.mark.parametrize("key", [key for key, entry in catalog.entries().items() if entry.isolated and entry.adapter])
def test_every_adapter_is_there_and_is_made_without_work_or_torch(key: str) -> None:
    model = catalog.make(catalog.find(key))
    assert model.spec.key == key
    assert model.spec.repository == catalog.find(key).repository
    model.close()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (MINIMAL + "trsut = 1.0\n", r"\[some-model\]: trsut: unknown name; known: key, title"),
        (MINIMAL + 'revision = "main"\n', r"revision: .*got 'main'"),
        (MINIMAL.replace('library = "numpy"', 'library = "jax"'), r"library: .*got 'jax'"),
        (MINIMAL.replace("level = 1", "level = 7"), r"level: .*got 7"),
        (MINIMAL.replace('note = "n"\n', ""), "note must say why"),
        (MINIMAL + "enabled = true\n", "enabled, but there is no adapter"),
        (MINIMAL.replace("some-model", "Some_Model"), "key: .*got 'Some_Model'"),
    ],
)
def test_a_wrong_entry_is_refused_and_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(CatalogError, match=says):
        catalog.entries(written(tmp_path, text))


def test_the_same_entry_without_the_fault_is_accepted(tmp_path: Path) -> None:
    assert catalog.entries(written(tmp_path, MINIMAL))["some-model"].title == "Some"


def test_the_catalog_of_ones_own_that_the_docs_show_is_one(tmp_path: Path) -> None:
    shown = (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8")
    (tmp_path / "mine.toml").write_text(shown.partition("```toml\n")[2].partition("```")[0])
    (entry,) = catalog.entries(tmp_path / "mine.toml").values()
    assert entry.focal > 0
    assert isinstance(catalog.make(entry), ObjectSize)


def test_a_row_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text('card = []\n[[row]]\nname = "X"\nlevel = 1\ntruth = "exists"\nmodel = "no-such"\n')
    with pytest.raises(CatalogError, match=r"X: expected a key of catalog\.toml, got 'no-such'"):
        catalog.plan(path)


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelUnavailable, match=r"no model 'yolo27'.*dinov3-h-plus"):
        Fleet().build(["yolo27"])


def test_a_model_that_does_not_run_here_says_why() -> None:
    with pytest.raises(ModelUnavailable, match="da3-metric-l does not run here: Its package"):
        catalog.make(catalog.find("da3-metric-l"))


def test_a_profile_with_such_a_model_is_built_and_says_why_when_it_is_loaded() -> None:
    model = Fleet().build(["da3-metric-l"])["da3-metric-l"]
    assert isinstance(model, Model)
    for verb in (lambda: model.load("cpu"), model.warm_up, lambda: model.assess([])):
        with pytest.raises(ModelUnavailable, match="da3-metric-l does not run here: Its package"):
            verb()
    model.close()


def test_building_two_models_of_the_card_gives_them_one_worker_that_is_not_started() -> None:
    worker = import_module("models.worker")
    models = Fleet().build(["dfine-x", "dinov3-h-plus"])
    assert list(models) == ["dfine-x", "dinov3-h-plus"]
    first, second = models.values()
    assert isinstance(first, worker.Remote)
    assert isinstance(second, worker.Remote)
    assert first.worker is second.worker
    assert not first.worker.alive
    again = Fleet().build(["dfine-x"])["dfine-x"]
    assert isinstance(again, worker.Remote)
    assert again.worker is first.worker, "a replacement must not open a second process on the card"


def test_the_calibration_of_an_entry_is_platts() -> None:
    entry = catalog.find("dfine-x").model_copy(update={"scale": 0.5, "offset": -1.0})
    assert entry.calibrated(4.0) == 1.0


def test_the_page_is_the_one_the_catalog_makes() -> None:
    page = (ROOT / "docs" / "models.md").read_text()
    assert page == command.markdown(), "run: ./run_miner.sh models --markdown > docs/models.md"


def keys(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert command.main([*arguments, "--json"]) == 0
    return [entry["key"] for entry in json.loads(capsys.readouterr().out)]


def test_the_list_is_filtered(capsys: pytest.CaptureFixture[str]) -> None:
    everything = keys([], capsys)
    assert everything == list(catalog.entries())
    assert set(keys(["--licence", "agpl"], capsys)) == {
        "yolo26-x",
        "yolo11-x",
        "yolov13-x",
        "yolo-master-n",
        "yoloe-26-x",
    }
    assert command.main(["--licence", "none such"]) == 0
    assert capsys.readouterr().out == "No model is all of that; without flags all are listed.\n"
    assert "llama-4-maverick" not in keys(["--fits", "80"], capsys)
    assert "llama-4-maverick" in keys(["--fits", "220"], capsys)
    assert "sam3" in keys(["--level", "1"], capsys)  # the plan's SAM 3 detector
    assert "da3-metric-l" not in keys(["--runnable"], capsys)


def test_show_takes_a_key_or_a_name_of_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("c-radio-h", "SAM 3 PE fusion"):
        assert command.main(["show", *name.split(), "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown["key"] == "c-radio-h"
        assert shown["plan"][0]["name"] == "SAM 3 PE fusion"
    assert command.main(["show", "LaCo"]) == 0
    assert "already merges" in capsys.readouterr().out


def test_a_wrong_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"no model 'sam4'; known: .*sam3"):
        command.main(["show", "sam4"])
    with pytest.raises(UsageError, match="expected nothing, or: show NAME; got 'list'"):
        command.main(["list"])


def test_an_entry_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        catalog.find("sam3").trust = 2.0  # type: ignore[misc]
