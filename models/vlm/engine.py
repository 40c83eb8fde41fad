"""vLLM as a model of the cascade: yes or no in one token, or after a thought.

An engine lives in a worker process of its own (`models.worker`), and runs vLLM's `AsyncLLM` on an event loop in a
thread there; what computes is a further process, started by vLLM. All of them are one process group, so that whoever
dies takes the others along and none keeps the card's memory.

    at once     max_tokens=1, the log-probabilities of the spellings of yes and of no, and nothing else
    thinking    a thought of limited length and time; when either is used up it is cut short, and the answer is drawn
                from what there is, again by one token. Leaving a thought frees its request.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from models import weights
from models.base import Frame, ModelCrashed, ModelError, ModelUnavailable, Unrecoverable
from models.catalog import Entry
from models.torch_model import require
from models.vlm.asking import Answer, VisualQuestion, log_odds
from models.vlm.loop import Loop, gathered
from models.vlm.pictures import shrunk
from models.vlm.prompts import Chat, PromptError, Thought
from models.vlm.settings import EngineSettings, settings_of

log = logging.getLogger(__name__)

SHOWN = 2000  # characters of a thought that are kept as evidence

# Read by vLLM when it is imported. Values that are set already stay.
ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",  # weights are a directory; nothing else may be fetched
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # this process has threads
}


class Engine(VisualQuestion):
    """One vLLM engine. Made without work; vLLM is imported by `load`.

    launches_kernels: False, since its process uses the card only through vLLM's own.
    """

    launches_kernels = False

    def __init__(self, entry: Entry, settings: EngineSettings | None = None, directory: Path | None = None) -> None:
        super().__init__(entry)
        self.settings = settings or settings_of(entry.key)
        self._directory = directory
        self._numbers = itertools.count()
        self._loop: Loop | None = None
        self._llm: Any = None

    def load(self, device: str) -> None:
        """Start vLLM on a device ("cpu", "cuda:1"; "cuda:0,1" for an engine on two cards).

        Raises BadWeights if the checkpoint is not there, ModelUnavailable if vLLM is not, or does not start with it.
        """
        require("vllm", self.entry.minimum)
        directory = self._directory or weights.locate(self.entry)
        os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in os.environ})
        if device.startswith("cuda:"):
            os.environ["CUDA_VISIBLE_DEVICES"] = visible(device, os.environ.get("CUDA_VISIBLE_DEVICES", ""))
        self._loop = Loop(f"engine {self.entry.key}")
        try:
            self._loop.run(self._start(directory, device))
        except ModelError:
            raise
        except Exception as error:  # vLLM raises whatever its parts do
            raise ModelUnavailable(
                f"{self.entry.key}: vLLM does not start with {directory} ({type(error).__name__}: {error}); "
                "the lines it logged before this one say why"
            ) from error

    def answers(self, frames: Sequence[Frame], chats: Sequence[Chat]) -> Sequence[Sequence[Answer]]:
        if self._loop is None or self._llm is None:
            raise ModelUnavailable(f"{self.entry.key}: not loaded; call load(device) first")
        return self._loop.run(self._answers(frames, chats))

    def close(self) -> None:
        if self._llm is not None:
            llm, self._llm = self._llm, None
            llm.shutdown()
        if self._loop:
            loop, self._loop = self._loop, None
            loop.close()

    # ---- on the event loop -------------------------------------------------------------------------------------------

    async def _start(self, directory: Path, device: str) -> None:
        from vllm import SamplingParams
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = self.settings.arguments(self.entry, directory, device)
        if self.prompt.thought:
            arguments["reasoning_config"] = _marks(self.prompt.thought)
        self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        try:
            self._yes, self._no = self.prompt.answer_tokens(self._llm.get_tokenizer())
        except PromptError as error:
            raise ModelUnavailable(f"{self.entry.key}: {error}") from error
        self._one_token = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            logprob_token_ids=[*self._yes, *self._no],
            output_kind=RequestOutputKind.FINAL_ONLY,
            detokenize=False,
        )

    async def _answers(self, frames: Sequence[Frame], chats: Sequence[Chat]) -> Sequence[Sequence[Answer]]:
        """All side by side: vLLM batches them."""
        pictures = [shrunk(frame, self.settings.max_pixels) for frame in frames]
        by = time.monotonic() + self.prompt.thought.seconds if self.prompt.thought else 0.0
        try:
            said = await gathered([self._answer(picture, chat, by) for picture in pictures for chat in chats])
        except ModelError:
            raise
        except Exception as error:
            raise self._typed(error) from error
        return [said[start : start + len(chats)] for start in range(0, len(said), len(chats))]

    async def _answer(self, picture: Any, chat: Chat, by: float) -> Answer:
        prompt = await self._rendered(picture, chat)
        thought = self.prompt.thought
        if not thought:
            return Answer(await self._score(prompt))
        prompt = {**prompt, "prompt": thought.opened(prompt["prompt"])}
        direct, samples = await asyncio.gather(
            self._score(prompt, thought.end + thought.then),
            asyncio.gather(*(self._think(prompt, thought, by) for _ in range(thought.samples))),
        )
        logits = [sample.logit for sample in samples]
        evidence = {
            name: [sample.evidence[name] for sample in samples] for name in ("reasoning", "tokens", "cut_short")
        }
        rounded = {"samples": [round(logit, 3) for logit in logits], "direct": round(direct, 3)}
        return Answer(sum(logits) / len(logits), evidence | rounded)

    async def _think(self, prompt: Mapping[str, Any], thought: Thought, by: float) -> Answer:
        """One thought and the answer after it. by: time.monotonic() at which the thought is cut short."""
        said, tokens = "", 0
        with suppress(TimeoutError):
            async with asyncio.timeout(by - time.monotonic()):
                async for output in self._llm.generate(dict(await self._ready(prompt)), _thinking(thought), self._id()):
                    said, tokens = output.outputs[0].text, len(output.outputs[0].token_ids)
        closed = thought.closed(said)
        logit = await self._score(prompt, closed)
        reasoning = closed.partition(thought.end)[0].strip()
        cut_short = reasoning.endswith(thought.conclusion.strip())
        return Answer(logit, {"reasoning": reasoning[-SHOWN:], "tokens": tokens, "cut_short": cut_short})

    async def _score(self, prompt: Mapping[str, Any], said: str = "") -> float:
        """Log-odds of yes as the next token. said: what the model is taken to have said so far."""
        request = await self._ready({**prompt, "prompt": prompt["prompt"] + said})
        async for output in self._llm.generate(request, self._one_token, self._id()):
            found = output.outputs[0].logprobs[0]
        return log_odds(*([found[token].logprob for token in side] for side in (self._yes, self._no)))

    async def _rendered(self, picture: Any, chat: Chat) -> Mapping[str, Any]:
        """The chat as the model's own template writes it, with the picture's data beside it."""
        from vllm.renderers.params import ChatParams

        # A template that begins a thought by itself would put the one token that is scored into it.
        thinks = self.prompt.thought is not None
        kwargs = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": thinks}
        messages = [{**message, "content": [_shown(part, picture) for part in message["content"]]} for message in chat]
        _, prompt = await self._llm.renderer.render_messages_async(messages, ChatParams(chat_template_kwargs=kwargs))
        return dict(prompt)

    async def _ready(self, prompt: Mapping[str, Any]) -> Any:
        """What the engine takes: tokens, and the picture as the model's processor makes it."""
        (ready,) = await self._llm.renderer.render_cmpl_async([dict(prompt)])
        return ready

    def _id(self) -> str:
        return f"{self.entry.key}-{next(self._numbers)}"

    def _typed(self, error: Exception) -> ModelError:
        kind = Unrecoverable if self._llm is None or self._llm.errored else ModelCrashed
        return kind(f"{self.entry.key}: {type(error).__name__}: {error}")


def _thinking(thought: Thought) -> Any:
    from vllm import SamplingParams

    room = len(thought.conclusion) + len(thought.end)  # tokens at most, since none is empty
    return SamplingParams(
        max_tokens=thought.tokens + room,
        thinking_token_budget=thought.tokens,
        temperature=thought.temperature,
        top_p=thought.top_p,
        stop=[thought.end],
        include_stop_str_in_output=True,
        skip_special_tokens=False,
    )


def _marks(thought: Thought) -> dict[str, str]:
    """How vLLM tells a thought, and how it ends one whose budget is used up."""
    return {"reasoning_start_str": thought.start.strip(), "reasoning_end_str": thought.conclusion + thought.end}


def _shown(part: Mapping[str, Any], picture: Any) -> Mapping[str, Any]:
    return {"type": "image_pil", "image_pil": picture} if part["type"] == "image" else part


def visible(device: str, already: str) -> str:
    """CUDA_VISIBLE_DEVICES for "cuda:1" or "cuda:0,1", out of those that are visible already ("" for all)."""
    known = already.split(",") if already else []
    chosen = [int(number) for number in device.removeprefix("cuda:").split(",")]
    return ",".join(known[number] if known else str(number) for number in chosen)
