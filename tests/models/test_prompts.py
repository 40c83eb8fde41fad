"""How a VLM is asked: the data is checked, the chat has its order, and answers become log-odds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from models import catalog
from models.base import Frame, ModelCrashed, NotFinite
from models.vlm.asking import BLANK, Answer, VisualQuestion, crop, log_odds
from models.vlm.prompts import Chat, Prompt, PromptError, prompt_of, prompts

GOOD = """
[default]
questions = ["Road work?"]
closer = "Is this {things} road work?"
yes = ["Yes"]
no = ["No"]
"""


class Words:
    """A tokenizer of whole words: a leading blank is a token of its own, as is each letter of what it does not know."""

    known = ("Yes", "yes", "No", "no")

    def encode(self, text: str, *, add_special_tokens: bool) -> Sequence[int]:
        assert not add_special_tokens
        return [self.known.index(text)] if text in self.known else [ord(letter) + 100 for letter in text]


class Said(VisualQuestion):
    """Answers with the mean brightness above grey, plus a leaning towards yes, and counts what it is asked."""

    leaning = 0.7

    def load(self, device: str) -> None:
        self.asked: list[tuple[tuple[int, int], str]] = []

    def answers(self, frames: Sequence[Frame], chats: Sequence[Chat]) -> Sequence[Sequence[Answer]]:
        self.asked += [(frame.size, chat[-1]["content"][-1]["text"]) for frame in frames for chat in chats]
        return [
            [Answer(float(frame.pixels.mean()) - 127 + self.leaning + index) for index, _ in enumerate(chats)]
            for frame in frames
        ]

    def close(self) -> None:
        pass


def said(**changes: object) -> Said:
    model = Said(catalog.find("qwen3-vl-4b"))
    model.prompt = model.prompt.model_copy(update=changes)
    model._leaning = tuple(0.0 for _ in model.prompt.questions)
    model.load("cpu")
    return model


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "prompts.toml"
    path.write_text(text)
    return path


def test_every_prompt_that_ships_is_sound_and_belongs_to_a_model() -> None:
    assert set(prompts()) - {"default"} <= set(catalog.entries())
    assert prompt_of("qwen3-vl-8b-thinking").questions != prompt_of("qwen3-vl-8b").questions
    assert prompt_of("qwen3-vl-8b-thinking").yes == prompt_of("no-such-model").yes


def test_the_text_that_requests_share_comes_before_the_picture() -> None:
    prompt = prompt_of("qwen3-vl-4b").model_copy(update={"questions": ("One?", "Two?")})
    one, two = prompt.chats
    assert [message["role"] for message in one] == ["system", "user"]
    assert [part["type"] for part in one[-1]["content"]] == ["text", "image", "text"]
    assert one[-1]["content"][:2] == two[-1]["content"][:2]
    assert (one[-1]["content"][2]["text"], two[-1]["content"][2]["text"]) == ("One?", "Two?")


def test_examples_are_turns_of_their_own_before_the_picture(tmp_path: Path) -> None:
    text = GOOD + 'examples = [{ picture = "Cones in a row.", answer = "Yes" }]\n'
    (chat,) = prompt_of("x", written(tmp_path, text)).chats
    assert [message["role"] for message in chat] == ["user", "assistant", "user"]
    assert [part["text"] for part in chat[0]["content"]] == ["Cones in a row.", "Road work?"]
    assert [part["type"] for part in chat[2]["content"]] == ["image", "text"]


def test_the_second_question_names_what_the_detector_reports_once() -> None:
    text = prompt_of("qwen3-vl-4b").closer_chat(["cone", "barrier", "cone"])[-1]["content"][-1]["text"]
    assert "cone, barrier." in text
    assert "{" not in text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD.replace("[default]", "[other]"), r"expected a table \[default\], got other"),
        (GOOD + "sytem = 'x'\n", r"\[default\]: sytem: unknown name; known: system, instruction"),
        (GOOD.replace('["Road work?"]', "[]"), "questions: .*at least 1 item"),
        (GOOD.replace("{things}", "that"), r"closer: expected \{things\}"),
        (GOOD.replace('["No"]', '["No", "Yes"]'), r"got \['Yes'\] under both"),
        (GOOD + '[my-model]\nyes = "Yes"\n', r"\[my-model\]: yes: .*got 'Yes'"),
    ],
)
def test_wrong_data_is_refused_and_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(PromptError, match=says):
        prompt_of("my-model", written(tmp_path, text))


def test_a_thought_is_begun_once_and_always_ends_before_the_answer() -> None:
    thought = prompt_of("qwen3-vl-8b-thinking").thought
    assert thought is not None
    assert thought.opened("assistant\n") == thought.opened("assistant\n<think>\n") == "assistant\n<think>\n"
    assert thought.closed("Cones.</think>\n\nYes") == "Cones.</think>\n\n"
    assert thought.closed("Cones and") == f"Cones and{thought.conclusion}</think>\n\n"


def test_spellings_of_one_token_count_once() -> None:
    prompt = Prompt.model_validate(
        {"questions": ["?"], "closer": "{things}", "yes": ["Yes", "yes", " yes"], "no": ["No"]}
    )
    assert prompt.answer_tokens(Words()) == ([0, 1], [2])
    with pytest.raises(PromptError, match=r"one token each.*got yes \[0, 1\], no \[\]"):
        prompt.model_copy(update={"no": ("nope",)}).answer_tokens(Words())


def test_log_odds_add_the_spellings_of_each_side() -> None:
    assert log_odds([math.log(0.3), math.log(0.1)], [math.log(0.1)]) == pytest.approx(math.log(4))
    assert log_odds([-1000.0], [-1001.0]) == pytest.approx(1.0)
    with pytest.raises(ModelCrashed, match="no spelling"):
        log_odds([], [-1.0])


def test_forms_of_the_question_are_averaged_and_shown() -> None:
    model = said(questions=("One?", "Two?", "Three?"))
    (opinion,) = model.assess([BLANK])
    assert opinion.logit == pytest.approx(1.7)
    assert opinion.evidence["forms"] == [0.7, 1.7, 2.7]
    assert model.assess([]) == []


def test_what_is_said_of_a_blank_picture_is_taken_off_where_the_prompt_asks_for_it() -> None:
    brighter = Frame.of(BLANK.pixels + np.uint8(2))
    for subtract, expected in ((False, 2.7), (True, 2.0)):
        model = said(subtract_blank=subtract)
        model.warm_up()
        assert model.assess([brighter])[0].logit == pytest.approx(expected)


def test_the_second_question_shows_the_best_parts_and_one_is_enough() -> None:
    pixels = np.full((600, 800, 3), 127, np.uint8)
    pixels[400:500, 600:700] = 255
    boxes = [
        {"box": [10.0, 10.0, 20.0, 20.0], "label": "cone", "score": 0.9},
        {"box": [600.0, 400.0, 700.0, 500.0], "label": "barrier", "score": 0.5},
        *({"box": [0.0, 0.0, 5.0, 5.0], "label": "dog", "score": 0.1} for _ in range(5)),
    ]
    model = said()
    opinion = model.assess_crop(Frame.of(pixels), boxes)
    assert [size for size, _ in model.asked] == [(112, 112), (200, 200), (112, 112)]
    assert opinion.logit == pytest.approx(128 / 4 + 0.7)
    assert opinion.evidence["size"] == (200, 200)
    assert "cone, barrier, dog" in str(opinion.evidence["second_question"])


def test_a_crop_lies_inside_the_picture() -> None:
    frame = Frame.of(np.zeros((100, 300, 3), np.uint8))
    assert crop(frame, (290, 90, 300, 100)).size == (112, 100)
    assert crop(frame, (0, 0, 300, 100)).size == (300, 100)


def test_an_answer_that_is_no_number_is_no_opinion() -> None:
    model = said()
    model.leaning = math.nan
    with pytest.raises(NotFinite):
        model.assess([BLANK])
