"""What a VLM is asked, as data: `prompts.toml`, checked when it is read.

`prompt_of(key)` is a model's prompt. Its chats are lists of messages in the form that chat templates and
OpenAI-compatible servers share; the picture is a part {"type": "image"} whose content the caller puts in its place:

    system       who answers
    user, assistant ...   examples, each a picture in words and its answer (optional)
    user         instruction, the picture, the question (or the question, the picture)

Everything before the picture is the same for every request.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.checked import checked

PROMPTS = Path(__file__).with_name("prompts.toml")
DEFAULT = "default"

Chat = list[dict[str, Any]]  # messages: {"role": ..., "content": [parts]}
IMAGE = {"type": "image"}  # where the picture goes


class PromptError(ValueError):
    """The prompts' data is wrong. The message names the file, the table, the key and what was expected."""


class Tokenizer(Protocol):
    """What is needed of a model's tokenizer."""

    def encode(self, text: str, *, add_special_tokens: bool) -> Sequence[int]: ...


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Example(_Part):
    """One solved case. picture: in words, since the project holds no pictures; answer: as the model should say it."""

    picture: str = Field(min_length=1)
    answer: str = Field(min_length=1)


class Thought(_Part):
    """How a reasoning model thinks before it answers.

    tokens, seconds: what a thought may take, whichever is used up first; the answer is then drawn from what there is.
    samples: thoughts per question, whose log-odds are averaged. temperature, top_p: how they are drawn.
    start, end: the model's marks around a thought. conclusion: what is put before `end` when a thought is cut short.
    then: what stands between `end` and the answer.
    """

    tokens: int = Field(gt=0)
    seconds: float = Field(gt=0)
    samples: int = Field(default=1, ge=1)
    temperature: float = Field(default=0.6, gt=0)
    top_p: float = Field(default=0.95, gt=0, le=1)
    start: str = "<think>\n"
    end: str = "</think>"
    conclusion: str = "\n\nConsidering the limited time, I answer from what I have seen so far.\n"
    then: str = "\n\n"

    def opened(self, prompt: str) -> str:
        """The prompt with a thought begun; many chat templates have begun it already."""
        return prompt if prompt.rstrip().endswith(self.start.strip()) else prompt + self.start

    def closed(self, thought: str) -> str:
        """A thought, ended by the model or cut short, up to where the answer begins."""
        said, marked, _ = thought.partition(self.end)
        return (said if marked else said + self.conclusion) + self.end + self.then


class Prompt(_Part):
    """How one model is asked.

    system, instruction: shared by every request, before the picture; instruction may be empty.
    questions: forms of the one question; the log-odds of several are averaged.
    question_first: whether the question stands before the picture, so that nothing but the answer's beginning is
    computed for each request beside the picture. Else it stands after it.
    closer: the second question, about a part of the picture; {things} is replaced by what a detector reports there.
    yes, no: spellings of the two answers. Those that are one token of the model count; their probabilities are added.
    thought: how the model thinks before it answers; without one it answers at once.
    subtract_blank: what the model says of a picture of nothing is its leaning, and is taken off every answer.
    """

    system: str = ""
    instruction: str = ""
    examples: tuple[Example, ...] = ()
    questions: tuple[str, ...] = Field(min_length=1)
    question_first: bool = False
    closer: str
    yes: tuple[str, ...] = Field(min_length=1)
    no: tuple[str, ...] = Field(min_length=1)
    thought: Thought | None = None
    subtract_blank: bool = False

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if both := sorted(set(self.yes) & set(self.no)):
            raise ValueError(f"expected each spelling under yes or under no, got {both} under both")
        if "{things}" not in self.closer:
            raise ValueError("closer: expected {things} where the detector's words go")
        return self

    @property
    def chats(self) -> tuple[Chat, ...]:
        """One chat for each form of the question."""
        return tuple(self.chat(question) for question in self.questions)

    def closer_chat(self, things: Sequence[str]) -> Chat:
        """The second question. things: what a detector reports, best first."""
        return self.chat(self.closer.replace("{things}", ", ".join(dict.fromkeys(things)) or "something"))

    def chat(self, question: str) -> Chat:
        """The messages of one question."""
        messages: Chat = [_message("system", self.system)] if self.system else []
        for example in self.examples:
            messages += [_message("user", example.picture, question), _message("assistant", example.answer)]
        before = [_text(self.instruction.strip())] if self.instruction else []
        shown = [_text(f"\n{question}\n"), IMAGE] if self.question_first else [IMAGE, _text(question)]
        messages.append({"role": "user", "content": [*before, *shown]})
        return messages

    def answer_tokens(self, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
        """Ids of the one-token spellings of yes and of no. Raises PromptError if a side has none, or they overlap."""
        yes, no = (_single(tokenizer, spellings) for spellings in (self.yes, self.no))
        if not yes or not no or set(yes) & set(no):
            raise PromptError(
                f"expected spellings of yes and no that are one token each, and different; got yes {yes}, no {no}; "
                f"add this model's spellings to {PROMPTS.name}"
            )
        return yes, no


def question_of(chat: Chat) -> str:
    """What a chat asks in the end: its last text."""
    texts = [part["text"] for part in chat[-1]["content"] if part["type"] == "text"]
    return str(texts[-1]).strip()


@cache
def prompts(path: Path = PROMPTS) -> Mapping[str, Prompt]:
    """Every table of the file as a whole prompt, "default" among them. Raises PromptError."""
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    if DEFAULT not in tables:
        raise PromptError(f"{path.name}: expected a table [{DEFAULT}], got {', '.join(tables) or 'nothing'}")
    return {
        name: checked(Prompt, {**tables[DEFAULT], **table}, f"{path.name}: [{name}]", PromptError)
        for name, table in tables.items()
    }


def prompt_of(key: str, path: Path = PROMPTS) -> Prompt:
    """The prompt of the model with this key of the catalog. Raises PromptError."""
    known = prompts(path)
    return known.get(key, known[DEFAULT])


def _single(tokenizer: Tokenizer, spellings: Sequence[str]) -> list[int]:
    encoded = (list(tokenizer.encode(spelling, add_special_tokens=False)) for spelling in spellings)
    return list(dict.fromkeys(ids[0] for ids in encoded if len(ids) == 1))


def _message(role: str, *texts: str) -> dict[str, Any]:
    return {"role": role, "content": [_text(text) for text in texts]}


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}
