"""Every runnable model of the catalog: loads a checkpoint of its class, answers per picture, fails by type.

Checkpoints are tiny and random (`tiny.py`), loaded through the code that loads real ones. `test_equal.py` holds the
numbers against the libraries' own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers

from models import catalog, foundation
from models.base import BadWeights, Frame, Model, ModelCrashed, ModelUnavailable, OutOfMemory, Unrecoverable
from models.catalog import Entry
from models.torch_model import TorchModel
from models.vlm.scorer import Scorer
from models.yoloe import Yoloe

RUNNABLE = [
    key
    for key, entry in catalog.entries().items()
    if entry.library in catalog.IN_WORKER and entry.adapter and entry.repository
]


def checkpoint(entry: Entry, checkpoints: Path) -> Path:
    directory = checkpoints / f"{entry.class_name}-{entry.file}"
    if not directory.exists():
        tiny.write(entry.class_name, directory)
        for path in directory.glob("yolo26x.pt"):
            path.rename(directory / entry.file)
    return directory


def made(key: str, checkpoints: Path) -> Any:
    """The adapter on its tiny checkpoint, not loaded. Encoders get a random head."""
    entry = catalog.find(key)
    model = catalog.make(entry)
    assert isinstance(model, TorchModel | Scorer)
    model._directory = checkpoint(entry, checkpoints)
    if isinstance(model, foundation.Foundation):
        model.heads_file = head(entry, checkpoints)
    if isinstance(model, Yoloe):
        model.words_file = model._directory / "words.npz"
    return model


def head(entry: Entry, checkpoints: Path, names: tuple[str, ...] = ("roadwork", "night")) -> Path:
    path = checkpoints / f"{entry.key}-{'-'.join(names)}.safetensors"
    width = 32 if entry.class_name == "RadioModel" else 16
    rng = np.random.default_rng(3)
    weight, bias = rng.normal(size=(len(names), width)), rng.normal(size=len(names))
    foundation.Heads(names, weight.astype(np.float32), bias.astype(np.float32), entry.repository).save(path)
    return path


@pytest.fixture(params=RUNNABLE)
def model(request: pytest.FixtureRequest, checkpoints: Path) -> TorchModel:
    return made(request.param, checkpoints)


def test_there_is_a_checkpoint_for_every_class_in_the_catalog() -> None:
    assert {catalog.find(key).class_name for key in RUNNABLE} == set(tiny.WRITERS)


def test_no_model_that_runs_here_needs_the_code_of_its_repository() -> None:
    """Such code is never fetched, and without it only a class of the library's own can be configured."""
    libraries = ("transformers", "vllm")
    named = {e.class_name for e in catalog.entries().values() if e.adapter and e.repository and e.library in libraries}
    since_5_20 = {"Molmo2ForConditionalGeneration"}
    assert {name for name in named if not hasattr(transformers, name)} <= since_5_20
    assert len(named) > 20


def test_it_answers_each_picture_alone_and_for_itself(model: TorchModel, frames: list[Frame]) -> None:
    assert isinstance(model, Model)
    model.load("cpu")
    model.warm_up()
    together = model.assess(frames)
    assert [opinion.model for opinion in together] == [model.spec.key] * 3
    for frame, opinion in zip(frames, together, strict=True):
        (alone,) = model.assess([frame])
        assert opinion.logit == pytest.approx(alone.logit, abs=1e-3), "neighbours in the batch changed the answer"
        json.dumps(dict(opinion.evidence))
    if model.entry.task != "depth":  # depth alone holds no opinion
        assert len({round(opinion.logit, 4) for opinion in together}) == 3, "a constant is no opinion"
    assert model.assess([]) == []
    model.close()
    model.close()
    with pytest.raises(ModelUnavailable, match="not loaded"):
        model.assess(frames)


@pytest.mark.parametrize("key", ["natix-roadwork", "dfine-x", "sam3"])
def test_the_catalogs_calibration_is_applied(key: str, checkpoints: Path, frames: list[Frame]) -> None:
    plain = made(key, checkpoints)
    plain.load("cpu")
    scaled = made(key, checkpoints)
    scaled.entry = plain.entry.model_copy(update={"scale": 0.5, "offset": 1.0})
    scaled.load("cpu")
    raw, calibrated = plain.assess(frames)[0].logit, scaled.assess(frames)[0].logit
    assert calibrated == pytest.approx(0.5 * raw + 1.0, abs=1e-4)


def test_weights_of_another_model_are_refused(checkpoints: Path) -> None:
    model = made("rt-detrv2-r50", checkpoints)
    model._directory = checkpoint(catalog.find("natix-roadwork"), checkpoints)
    with pytest.raises(BadWeights, match=r"rt-detrv2-r50: .*(fetch it again|another model's)"):
        model.load("cpu")


def test_a_checkpoint_with_a_part_missing_is_refused_instead_of_answering_at_random(
    checkpoints: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    source = checkpoint(catalog.find("natix-roadwork"), checkpoints)
    for path in source.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    lost = next(name for name in tensors if name.startswith("classifier"))
    save_file(
        {name: value for name, value in tensors.items() if name != lost},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    model = made("natix-roadwork", checkpoints)
    model._directory = tmp_path
    with pytest.raises(BadWeights, match=rf"no weights for 1 parts .*{lost}.*check repository"):
        model.load("cpu")


def test_a_truncated_file_is_refused_with_a_remedy(checkpoints: Path, tmp_path: Path) -> None:
    source = checkpoint(catalog.find("natix-roadwork"), checkpoints)
    for path in source.iterdir():
        content = path.read_bytes()
        (tmp_path / path.name).write_bytes(content[: len(content) // 2] if path.suffix == ".safetensors" else content)
    model = made("natix-roadwork", checkpoints)
    model._directory = tmp_path
    with pytest.raises(BadWeights, match=r"does not load as ViTForImageClassification .*run_miner\.sh fetch natix"):
        model.load("cpu")


def test_pickled_weights_are_not_loaded(checkpoints: Path, tmp_path: Path) -> None:
    source = checkpoint(catalog.find("natix-roadwork"), checkpoints)
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    (tmp_path / "preprocessor_config.json").write_bytes((source / "preprocessor_config.json").read_bytes())
    torch.save({"classifier.bias": torch.zeros(2)}, tmp_path / "pytorch_model.bin")
    model = made("natix-roadwork", checkpoints)
    model._directory = tmp_path
    with pytest.raises(BadWeights, match="does not load"):
        model.load("cpu")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), OutOfMemory),
        (RuntimeError("shapes cannot be multiplied"), ModelCrashed),
        (torch.AcceleratorError("CUDA error: invalid configuration argument"), ModelCrashed),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), Unrecoverable),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), Unrecoverable),
    ],
)
def test_what_the_library_raises_is_typed(
    error: Exception, kind: type[Exception], checkpoints: Path, frames: list[Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made("natix-roadwork", checkpoints)
    model.load("cpu")

    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(model.model, "forward", fail)
    with pytest.raises(kind, match="natix-roadwork") as raised:
        model.assess(frames)
    assert type(raised.value) is kind
    monkeypatch.setattr(model, "_load", fail)
    with pytest.raises(BadWeights if kind is ModelCrashed else kind, match="natix-roadwork"):
        model.load("cpu")


def test_an_old_library_is_named_with_the_command_that_mends_it(checkpoints: Path) -> None:
    model = made("natix-roadwork", checkpoints)
    model.entry = model.entry.model_copy(update={"minimum": "99.1"})
    with pytest.raises(
        ModelUnavailable, match=r"needs transformers >= 99\.1, found .*-m pip install 'transformers>=99\.1'"
    ):
        model.load("cpu")


# ---- encoders and their heads ----------------------------------------------------------------------------------------


def test_a_picture_that_was_seen_tries_the_encoder_all_the_same(
    checkpoints: Path, frames: list[Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The canary is always the same picture: it must tell of the network, not of what is remembered."""
    model = made("dinov3-s", checkpoints)
    model.load("cpu")
    model.assess(frames)

    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("gone")

    monkeypatch.setattr(model.model, "forward", fail)
    with pytest.raises(ModelCrashed, match="gone"):
        model.assess(frames)


def test_an_encoder_without_a_head_or_with_anothers_is_refused(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MINER_STATE_DIR", str(tmp_path))
    model = made("dinov3-s", checkpoints)
    model.heads_file = None
    with pytest.raises(
        BadWeights, match=r"no head in .*heads/dinov3-s\.safetensors.*train --backbone dinov3-s --tune head"
    ):
        model.load("cpu")
    model.heads_file = head(catalog.find("siglip2-head"), checkpoints)
    with pytest.raises(BadWeights, match="trained on features of 'google/siglip2"):
        model.load("cpu")
    model.heads_file = tmp_path / "broken.safetensors"
    model.heads_file.write_bytes(b"no")
    with pytest.raises(BadWeights, match="is no head"):
        model.load("cpu")
