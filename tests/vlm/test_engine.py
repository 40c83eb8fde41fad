"""One running vLLM: its scores are transformers', a thought ends in time, and leaving one frees its place."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from reference import Reference
from vlm_helpers import THOUGHT, cores_of, picture, small_engine

from models import catalog
from models.base import ModelUnavailable, Unrecoverable
from models.vlm.engine import Engine
from models.vlm.prompts import prompt_of
from models.vlm.scorer import Scorer

FRAMES = [picture(0), picture(1, (256, 320)), picture(2, (224, 224)), picture(3, (600, 700))]


@pytest.fixture(scope="module")
def engine(thinking_checkpoint: Path) -> Iterator[Engine]:
    """One start for the file. It can think from the start; the tests that do not want to say so."""
    engine = small_engine(thinking_checkpoint)
    with pytest.raises(ModelUnavailable, match="not loaded"):
        engine.assess(FRAMES)
    engine.prompt = engine.prompt.model_copy(update={"thought": THOUGHT})
    engine.load("cpu")
    yield engine
    engine.close()


@pytest.fixture
def plain(engine: Engine) -> Iterator[Engine]:
    engine.prompt = prompt_of("qwen3-vl-4b")
    yield engine
    engine.prompt = prompt_of("qwen3-vl-4b").model_copy(update={"thought": THOUGHT})


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> Reference:
    return Reference(checkpoint)


def log_odds(reference: Reference, engine: Engine, index: int, said: str = "") -> float:
    return reference.log_odds(FRAMES[index], engine.prompt, engine.prompt.chats[0], engine.settings.max_pixels, said)


def test_scores_are_those_of_transformers_whatever_the_batch(plain: Engine, reference: Reference) -> None:
    together = plain.assess(FRAMES)
    for index, opinion in enumerate(together):
        expected = log_odds(reference, plain, index)
        assert opinion.logit == pytest.approx(expected, abs=1e-3)
        assert plain.assess([FRAMES[index]])[0].logit == pytest.approx(expected, abs=1e-3)
    assert len({round(opinion.logit, 2) for opinion in together}) == len(FRAMES), "the pictures make no difference"


def test_the_static_scorer_says_the_same_of_the_same_weights(plain: Engine, checkpoint: Path) -> None:
    scorer = Scorer(catalog.find("qwen3-vl-4b-scorer"), checkpoint)
    scorer.load("cpu")
    plain.prompt = scorer.prompt
    frames = [picture(seed) for seed in range(3)]
    theirs = [opinion.logit for opinion in scorer.assess(frames)]
    assert [opinion.logit for opinion in plain.assess(frames)] == pytest.approx(theirs, abs=1e-3)
    scorer.close()


def test_a_thought_keeps_to_its_budget_and_the_answer_is_drawn_from_it(engine: Engine, reference: Reference) -> None:
    (opinion,) = engine.assess(FRAMES[:1])
    assert len(set(opinion.evidence["reasoning"])) == THOUGHT.samples, "the samples are the same"
    forced = len(reference.processor.tokenizer.encode(THOUGHT.conclusion + THOUGHT.end))
    for tokens in opinion.evidence["tokens"]:
        assert forced < tokens <= THOUGHT.tokens + forced
    assert opinion.evidence["cut_short"] == [True, True], "random weights end no thought by themselves"
    direct = log_odds(reference, engine, 0, THOUGHT.start + THOUGHT.end + THOUGHT.then)
    assert opinion.evidence["direct"] == pytest.approx(direct, abs=2e-3)
    assert direct not in opinion.evidence["samples"], "the thought changes nothing"
    assert opinion.logit == pytest.approx(sum(opinion.evidence["samples"]) / THOUGHT.samples, abs=1e-3)


def test_the_time_of_a_thought_is_kept_and_leaving_it_frees_its_place(engine: Engine) -> None:
    """Four requests fill this engine: were the abandoned thoughts still there, nobody else would be served."""
    endless = THOUGHT.model_copy(update={"tokens": 1500, "seconds": 0.5, "samples": 4})
    engine.prompt = engine.prompt.model_copy(update={"thought": endless})
    begun = time.monotonic()
    (opinion,) = engine.assess(FRAMES[:1])
    took = time.monotonic() - begun
    engine.prompt = prompt_of("qwen3-vl-4b")
    assert opinion.evidence["cut_short"] == [True] * 4
    assert took >= endless.seconds
    assert max(opinion.evidence["tokens"]) < endless.tokens, "it was the tokens that ran out"
    assert engine._llm.get_num_unfinished_requests() == 0
    assert len(engine.assess(FRAMES[:4])) == 4
    engine.prompt = prompt_of("qwen3-vl-4b").model_copy(update={"thought": THOUGHT})


def test_the_second_question_looks_at_the_crop(plain: Engine) -> None:
    boxes = [{"box": [300.0, 300.0, 420.0, 420.0], "label": "cone", "score": 0.9}]
    opinion = plain.assess_crop(FRAMES[3], boxes)
    assert opinion.evidence["size"] == (240, 240)
    assert opinion.logit != plain.assess([FRAMES[3]])[0].logit


def test_a_dead_engine_says_that_its_process_is_lost(plain: Engine) -> None:
    """The last test of the file: nothing answers after it."""
    for pid in cores_of(os.getpgid(0)):
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(Unrecoverable, match="Engine"):
        plain.assess(FRAMES)
