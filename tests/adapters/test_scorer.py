"""The static scorer says what the library says: same checkpoint, same pictures, same chats, on every grid."""

from __future__ import annotations

import json
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers as tf
from conftest import picture
from PIL import Image
from safetensors.torch import load_file, save_file
from test_adapters import checkpoint

from benchmarks import vlm_scorer
from models import catalog
from models.base import BadWeights, Frame, Model, ModelCrashed, ModelUnavailable
from models.pictures import resized
from models.vlm import checkpoint as checkpoints_module
from models.vlm import grids
from models.vlm.checkpoint import Checkpoint
from models.vlm.forward import FAMILIES, Forward, family_of
from models.vlm.grids import GRIDS, Grid
from models.vlm.prompts import prompt_of
from models.vlm.scorer import Float8Scorer, Scorer
from models.worker import Worker

KEY = "qwen3-vl-4b-scorer"
KEYS = ("qwen3-vl-4b-scorer", "qwen3-5-4b-scorer", "internvl3-5-8b-scorer")
TILE = Grid(4, 4)  # of the tiny InternVL
ALL_GRIDS = [(key, grid) for key in KEYS[:2] for level in GRIDS for grid in level] + [(KEYS[2], TILE)]
SIDES = {KEYS[0]: 32, KEYS[1]: 32, KEYS[2]: 28}  # pixels of a token
SIDE = SIDES[KEY]


@pytest.fixture
def directory(checkpoints: Path) -> Path:
    return checkpoint(catalog.find(KEY), checkpoints)


@cache
def library(directory: Path) -> tuple[Any, Any]:
    model = tf.AutoModelForImageTextToText.from_pretrained(directory).eval()
    return model, tf.AutoProcessor.from_pretrained(directory)


def expected(directory: Path, pixels: Any, chat: Any, **resize: Any) -> list[float]:
    """Log-odds by the library's processor and model, from pictures (H, W, 3)."""
    model, processor = library(directory)
    text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    yes, no = prompt_of(KEY).answer_tokens(processor.tokenizer)
    if isinstance(processor, tf.InternVLProcessor):
        resize["crop_to_patches"] = False  # one tile
    inputs = processor(
        text=[text] * len(pixels), images=[Image.fromarray(each) for each in pixels], return_tensors="pt", **resize
    )
    with torch.inference_mode():
        logits = model(**inputs, logits_to_keep=1).logits[:, -1].float()
    return (logits[:, yes].logsumexp(-1) - logits[:, no].logsumexp(-1)).tolist()


def loaded(directory: Path, kind: type[Scorer] = Scorer, key: str = KEY, **prompt: Any) -> Scorer:
    model = kind(catalog.find(key), directory)
    model.prompt = model.prompt.model_copy(update=prompt)
    model._leaning = tuple(0.0 for _ in model.prompt.questions)
    model.load("cpu")
    return model


def pictures_of(grid: Grid, count: int = 3, side: int = SIDE) -> list[Any]:
    return [picture(seed, (grid.rows * side, grid.columns * side)).pixels for seed in range(count)]


def test_the_catalogs_scorers_are_of_known_families_and_each_family_is_tested() -> None:
    scored = [entry for entry in catalog.entries().values() if entry.adapter.startswith("models.vlm.scorer")]
    assert {entry.class_name for entry in scored} == set(FAMILIES) == {catalog.find(key).class_name for key in KEYS}
    with pytest.raises(ValueError, match=r"expected one of Qwen3VL.*use the vLLM engine instead"):
        family_of("Molmo2ForConditionalGeneration")


@pytest.mark.parametrize(("key", "grid"), ALL_GRIDS, ids=str)
def test_every_grid_equals_the_library(key: str, grid: Grid, checkpoints: Path) -> None:
    directory = checkpoint(catalog.find(key), checkpoints)
    model = loaded(directory, key=key)
    pixels = pictures_of(grid, side=SIDES[key])
    answers = model.answers([Frame.of(each) for each in pixels], model.prompt.chats)
    assert {answer.evidence["grid"] for (answer,) in answers} == {str(grid)}
    reference = expected(directory, pixels, model.prompt.chats[0], do_resize=False)
    assert [answer.logit for (answer,) in answers] == pytest.approx(reference, abs=1e-4)
    assert np.ptp(reference) > 0.01, "pictures that make no difference prove nothing"


@pytest.mark.parametrize(
    ("key", "grid"), [*((key, level[0]) for key in KEYS[:2] for level in GRIDS), (KEYS[2], TILE)], ids=str
)
def test_sixteen_bits_stay_within_a_twentieth(key: str, grid: Grid, checkpoints: Path) -> None:
    """Of what the library says in 32 bits; its own 16 bits round as well, differently."""
    entry = catalog.find(key)
    directory = checkpoint(entry, checkpoints)
    scorer = loaded(directory, key=key)  # for its tokens
    config = tf.AutoConfig.from_pretrained(directory)
    processor = library(directory)[1]
    yes, no = scorer.prompt.answer_tokens(processor.tokenizer)
    before, after = scorer._split(scorer.prompt.chats[0])
    family, pixels = family_of(entry.class_name), pictures_of(grid, side=SIDES[key])
    mean, std = processor.image_processor.image_mean, processor.image_processor.image_std
    tensors = Checkpoint(directory, "cpu", torch.bfloat16, family.aliases)
    with torch.inference_mode():
        model = Forward(family, config, mean, std, tensors, suffix=after, yes=yes, no=no)
        memory = model.language.room(1, len(before))
        memory.write(0, model.prefill(before), len(before))
        ours = model.log_odds(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2), grid, memory)[:, 0]
    theirs = expected(directory, pixels, scorer.prompt.chats[0], do_resize=False)
    assert ours.tolist() == pytest.approx(theirs, abs=0.05)


@pytest.mark.parametrize("key", KEYS)
def test_a_validators_picture_goes_the_librarys_own_way(key: str, checkpoints: Path) -> None:
    """224 x 224 is enlarged to 256 x 256 by the library's processor too (or to a tile), so the way is comparable."""
    directory = checkpoint(catalog.find(key), checkpoints)
    model = loaded(directory, key=key)
    frames = [picture(seed, (224, 224)) for seed in range(3)]
    reference = expected(directory, [frame.pixels for frame in frames], model.prompt.chats[0])
    assert [opinion.logit for opinion in model.assess(frames)] == pytest.approx(reference, abs=0.02)


def test_the_last_layer_may_be_of_either_kind(tmp_path: Path) -> None:
    tiny.tiny_qwen3_5(tmp_path, tie=False, layers="fl")
    model = loaded(tmp_path, key=KEYS[1])
    pixels = pictures_of(GRIDS[0][0])
    reference = expected(tmp_path, pixels, model.prompt.chats[0], do_resize=False)
    said = [opinion.logit for opinion in model.assess([Frame.of(each) for each in pixels])]
    assert said == pytest.approx(reference, abs=1e-4)


def test_the_large_internvit_equals_the_library(tmp_path: Path) -> None:
    tiny.tiny_internvl(tmp_path, large=True)
    model = loaded(tmp_path, key="internvl3-5-38b-scorer")
    pixels = pictures_of(TILE, side=28)
    reference = expected(tmp_path, pixels, model.prompt.chats[0], do_resize=False)
    said = [opinion.logit for opinion in model.assess([Frame.of(each) for each in pixels])]
    assert said == pytest.approx(reference, abs=1e-4)


@pytest.mark.parametrize("key", KEYS)
def test_several_forms_share_one_batch_and_are_averaged(key: str, checkpoints: Path) -> None:
    directory, grid = checkpoint(catalog.find(key), checkpoints), GRIDS[0][0] if key != KEYS[2] else TILE
    questions = ("Is it road work?", "Would you say that road work is visible here? Yes or no.")
    model = loaded(directory, key=key, questions=questions)
    pixels = pictures_of(grid, side=SIDES[key])
    reference = np.array([expected(directory, pixels, chat, do_resize=False) for chat in model.prompt.chats])
    opinions = model.assess([Frame.of(each) for each in pixels])
    assert [opinion.logit for opinion in opinions] == pytest.approx(list(reference.mean(0)), abs=1e-4)
    assert opinions[0].evidence["forms"] == pytest.approx(list(reference[:, 0]), abs=2e-3)


@pytest.mark.parametrize("key", KEYS)
def test_a_second_question_is_asked_and_the_first_comes_back(key: str, checkpoints: Path) -> None:
    directory, grid = checkpoint(catalog.find(key), checkpoints), GRIDS[0][0] if key != KEYS[2] else TILE
    model = loaded(directory, key=key)
    frame = Frame.of(pictures_of(grid, side=SIDES[key])[0])
    first = model.assess([frame])[0].logit
    closer = model.assess_crop(frame, [{"box": (10, 10, 90, 90), "label": "cone", "score": 0.9}])
    assert "cone" in closer.evidence["second_question"]
    assert model.assess([frame])[0].logit == first
    chat = model.prompt.closer_chat(["barrel"])
    (reference,) = expected(directory, [frame.pixels], chat, do_resize=False)
    assert model.answers([frame], [chat])[0][0].logit == pytest.approx(reference, abs=1e-3)


def test_pictures_of_all_sizes_in_one_batch_come_back_in_order(directory: Path) -> None:
    model = loaded(directory)
    sizes = [(224, 224), (720, 1280), (90, 120), (224, 224), (480, 480), (720, 1280)]
    frames = [picture(seed, size) for seed, size in enumerate(sizes)]
    together = [opinion.logit for opinion in model.assess(frames)]
    alone = [model.assess([frame])[0].logit for frame in frames]
    assert together == pytest.approx(alone, abs=1e-4)
    assert len(set(np.round(together, 3))) > 3


def test_a_head_of_its_own_is_used(tmp_path: Path) -> None:
    tiny.tiny_qwen3_vl(tmp_path, tie=False)
    model = loaded(tmp_path)
    pixels = pictures_of(GRIDS[0][0])
    reference = expected(tmp_path, pixels, model.prompt.chats[0], do_resize=False)
    assert [o.logit for o in model.assess([Frame.of(each) for each in pixels])] == pytest.approx(reference, abs=1e-3)


@pytest.mark.parametrize("key", KEYS)
def test_eight_bits_are_near(key: str, checkpoints: Path) -> None:
    directory = checkpoint(catalog.find(key), checkpoints)
    frames = [Frame.of(pixels) for pixels in pictures_of(GRIDS[0][0], 6)]
    exact = [opinion.logit for opinion in loaded(directory, key=key).assess(frames)]
    rounded = [opinion.logit for opinion in loaded(directory, Float8Scorer, key=key).assess(frames)]
    assert rounded != exact
    assert float(np.abs(np.subtract(rounded, exact)).mean()) < 0.25


def test_official_float8_checkpoints_are_unpacked_block_by_block(tmp_path: Path) -> None:
    weight = torch.randn(130, 200)
    scales = torch.rand(2, 2) + 0.5
    wide = scales.repeat_interleave(128, 0)[:130].repeat_interleave(128, 1)[:, :200]
    values = (weight / wide).to(torch.float8_e4m3fn)
    save_file({"w": values, "w_scale_inv": scales}, tmp_path / "model.safetensors")
    found = Checkpoint(tmp_path, "cpu", torch.float32).tensor("w")
    torch.testing.assert_close(found, values.float() * wide)


def test_resizing_is_the_librarys(directory: Path) -> None:
    frames = [picture(1, (224, 224)), picture(2, (100, 300)), picture(3, (224, 224))]
    ours = resized(frames, 256, 256, torch.device("cpu"))
    processor = tf.AutoImageProcessor.from_pretrained(directory)
    for frame, pixels in ((frames[0], ours[0]), (frames[2], ours[2])):
        patches = processor(Image.fromarray(frame.pixels), return_tensors="pt")["pixel_values"]
        blocks = patches.view(8, 8, 2, 2, 3, 2, 16, 16)[:, :, :, :, :, 0].permute(4, 0, 2, 5, 1, 3, 6)
        torch.testing.assert_close((blocks.reshape(3, 256, 256) + 1) * 127.5, pixels.float(), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("size", "grid"),
    [((224, 224), "8x8"), ((320, 180), "6x11"), ((400, 300), "10x14"), ((1280, 720), "12x21"), ((640, 480), "14x18")],
)
def test_the_grid_is_the_smallest_that_holds_the_picture(size: tuple[int, int], grid: str) -> None:
    assert str(grids.choose(*size, SIDE)) == grid


def test_it_keeps_the_contract_and_its_errors_are_typed(directory: Path, tmp_path: Path) -> None:
    model = Scorer(catalog.find(KEY), directory)
    frame = picture(0, (224, 224))
    assert isinstance(model, Model)
    with pytest.raises(ModelUnavailable, match="not loaded"):
        model.assess([frame])
    model.load("cpu")
    model.warm_up()
    json.dumps(dict(model.assess([frame])[0].evidence))
    with pytest.raises(ModelCrashed, match="end alike"):
        model.answers([frame], [prompt_of(KEY).chat("Is it?")])  # the question after the picture
    with pytest.raises(ModelCrashed, match="expected 1 to 1 chats, got 2"):
        model.answers([frame], [*model.prompt.chats, *model.prompt.chats])
    with pytest.raises(ModelCrashed, match="room for"):
        model.answers([frame], [model.prompt.chat("Is it? " * 400)])
    model.close()
    model.close()
    with pytest.raises(ModelUnavailable, match="not loaded"):
        model.assess([frame])


@pytest.mark.parametrize("lost", ["model.visual.merger.norm.bias", "model.language_model.layers.1.mlp.up_proj.weight"])
def test_a_checkpoint_with_a_part_missing_is_refused(lost: str, directory: Path, tmp_path: Path) -> None:
    for path in directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[lost]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(BadWeights, match=rf"no weights '{lost}'.*fetch it again"):
        loaded(tmp_path)


def test_a_shard_that_is_missing_is_named(directory: Path, tmp_path: Path) -> None:
    for path in directory.iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (tmp_path / checkpoints_module.INDEX).write_text(json.dumps(index))
    with pytest.raises(BadWeights, match="lacks model-00001-of-00002"):
        loaded(tmp_path)


def test_another_models_checkpoint_is_refused(checkpoints: Path) -> None:
    with pytest.raises(BadWeights, match="expected Qwen3VLForConditionalGeneration"):
        loaded(checkpoint(catalog.find("natix-roadwork"), checkpoints))


def test_the_benchmarks_options_leave_the_models_alone() -> None:
    options = vlm_scorer.arguments(["--batches", "1,16", "4B", "8B-fp8", "--equal", "4B"])
    assert (options.batches, options.models, options.equal) == ((1, 16), ["4B", "8B-fp8"], "4B")


@pytest.mark.slow
def test_it_answers_from_a_process_of_its_own(directory: Path) -> None:
    worker = Worker({KEY: partial(Scorer, catalog.find(KEY), directory)}, name="scorer")
    try:
        worker.load(KEY, "cpu")
        worker.warm_up(KEY)
        frames = [picture(seed, (224, 224)) for seed in range(2)]
        expected_here = [opinion.logit for opinion in loaded(directory).assess(frames)]
        assert [opinion.logit for opinion in worker.assess(KEY, frames)] == pytest.approx(expected_here, abs=1e-4)
    finally:
        worker.stop()
