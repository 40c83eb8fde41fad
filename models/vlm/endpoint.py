"""A VLM on another machine, behind any server that speaks OpenAI's chat completions (vLLM serve, SGLang).

One question is one request for one token with its log-probabilities. A server that offers vLLM's `/tokenize` and
`logprob_token_ids` gives those of the spellings of yes and no exactly; any other gives its 20 most likely tokens, and
a side that is not among them counts as the least likely of those. What fails on the way is tried again while there is
time; nobody waits longer than the settings say. Certificates are always checked, and the key is sent only where nobody
can read it on the way.
"""

from __future__ import annotations

import asyncio
import base64
import io
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, SecretStr, model_validator

from models.base import Frame, ModelCrashed, ModelError, ModelTimeout, ModelUnavailable
from models.catalog import Entry
from models.installing import pip_install_extra
from models.vlm.asking import Answer, VisualQuestion, log_odds
from models.vlm.loop import Loop, gathered
from models.vlm.pictures import shrunk
from models.vlm.prompts import Chat

MOST_LIKELY = 20  # tokens; the most that OpenAI's interface allows
AGAIN = {408, 425, 429, 500, 502, 503, 504}  # answers that say nothing about the request itself


class EndpointSettings(BaseModel):
    """Where a model is asked, and how patiently.

    url: up to and with "/v1". model: its name there; default: the repository of the catalog. key: sent as bearer token.
    seconds: for all questions of a batch, retries included. attempts: per question. at_once: questions in flight.
    ca_file: certificates to trust instead of the system's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: HttpUrl
    model: str = ""
    key: SecretStr | None = None
    seconds: float = Field(default=5.0, gt=0)
    attempts: int = Field(default=3, ge=1)
    at_once: int = Field(default=32, ge=1)
    max_pixels: int = Field(default=512 * 512, gt=0)
    ca_file: Path | None = None

    @model_validator(mode="after")
    def _keeps_its_secret(self) -> Self:
        if self.url.username or self.url.password or self.url.query:
            raise ValueError("url: expected no user, password or query in it; give the key by itself")
        if self.key and self.url.scheme == "http" and not _on_this_machine(self.url.host or ""):
            raise ValueError("url: a key goes over https only, except to this machine")
        return self

    @property
    def base(self) -> str:
        """The address without a slash at its end."""
        return str(self.url).rstrip("/")


class Endpoint(VisualQuestion):
    """One model of one server."""

    def __init__(self, entry: Entry, settings: EndpointSettings) -> None:
        super().__init__(entry)
        self.settings = settings
        self._loop: Loop | None = None
        self._client: Any = None
        self._name = settings.model or entry.repository
        self._ids: tuple[list[int], list[int]] | None = None  # of yes and no, where the server tells them

    def load(self, device: str) -> None:
        """Find the model on the server. device: not used. Raises ModelUnavailable."""
        if self.prompt.thought:
            raise ModelUnavailable(
                f"{self.entry.key} thinks before it answers, which an endpoint is not asked for; name another model"
            )
        try:
            import httpx
            import tenacity  # noqa: F401  needed by the first request
        except ImportError as error:
            raise ModelUnavailable(f"{self.entry.key}: needs {error.name}; {pip_install_extra('endpoint')}") from None
        self.close()
        key = self.settings.key
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key.get_secret_value()}"} if key else {},
            verify=ssl.create_default_context(cafile=self.settings.ca_file),
            timeout=self.settings.seconds,
            limits=httpx.Limits(max_connections=self.settings.at_once),
        )
        self._loop = Loop(f"endpoint {self.entry.key}")
        try:
            self._loop.run(self._find())
        except Exception as error:  # whatever is served at that address may not speak the interface
            self.close()
            said = str(error) if isinstance(error, ModelError) else f"{self._place}: {type(error).__name__}: {error}"
            raise ModelUnavailable(said) from None

    def answers(self, frames: Sequence[Frame], chats: Sequence[Chat]) -> Sequence[Sequence[Answer]]:
        if self._loop is None:
            raise ModelUnavailable(f"{self.entry.key}: not loaded; call load(device) first")
        return self._loop.run(self._answers(frames, chats))

    def close(self) -> None:
        if self._loop:
            loop, self._loop = self._loop, None
            loop.run(self._client.aclose())
            loop.close()

    async def _find(self) -> None:
        """That the model is served, and the ids of its answers if the server has a tokenizer to ask."""
        async with self._in_time():
            try:
                served = [each["id"] for each in (await self._get("/models"))["data"]]
            except (KeyError, TypeError):
                raise ModelUnavailable(f"{self._place}: tells no models; expected the url up to and with /v1") from None
            if self._name not in served:
                raise ModelUnavailable(
                    f"{self.entry.key}: {self.settings.base} serves {', '.join(served) or 'nothing'}, "
                    f"not {self._name}; set model to the name it has there"
                )
            sides = [await self._single_tokens(spellings) for spellings in (self.prompt.yes, self.prompt.no)]
        self._ids = (sides[0], sides[1]) if all(sides) else None

    async def _single_tokens(self, spellings: Sequence[str]) -> list[int]:
        """Ids of the spellings that are one token; none if the server cannot say."""
        import httpx

        address = self.settings.base.removesuffix("/v1") + "/tokenize"
        found: list[int] = []
        for spelling in spellings:
            body = {"model": self._name, "prompt": spelling, "add_special_tokens": False}
            answer = await self._client.post(address, json=body)
            try:
                tokens = answer.raise_for_status().json()["tokens"]
            except (httpx.HTTPStatusError, ValueError, KeyError, TypeError):  # some have a page for every address
                return []
            found += tokens if len(tokens) == 1 else []
        return list(dict.fromkeys(found))

    async def _answers(self, frames: Sequence[Frame], chats: Sequence[Chat]) -> Sequence[Sequence[Answer]]:
        pictures = [_data_url(frame, self.settings.max_pixels) for frame in frames]
        async with self._in_time():
            said = await gathered([self._answer(picture, chat) for picture in pictures for chat in chats])
        return [said[start : start + len(chats)] for start in range(0, len(said), len(chats))]

    async def _answer(self, picture: str, chat: Chat) -> Answer:
        body: dict[str, Any] = {
            "model": self._name,
            "messages": [{**message, "content": [_shown(p, picture) for p in message["content"]]} for message in chat],
            "max_tokens": 1,
            "temperature": 0.0,
            "logprobs": True,
        }
        if self._ids:
            body |= {"logprob_token_ids": [*self._ids[0], *self._ids[1]], "return_tokens_as_token_ids": True}
            body |= {"chat_template_kwargs": {"enable_thinking": False}}  # else the one token may be a thought's first
        else:
            body |= {"top_logprobs": MOST_LIKELY}
        answer = await self._post("/chat/completions", body)
        try:
            likely = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            found = {str(each["token"]): float(each["logprob"]) for each in likely}
        except (KeyError, IndexError, TypeError, ValueError):
            raise ModelCrashed(f"{self.entry.key}: {self.settings.base} answers without log-probabilities") from None
        return Answer(self._log_odds(found))

    def _log_odds(self, found: Mapping[str, float]) -> float:
        names = (
            [[f"token_id:{token}" for token in side] for side in self._ids]
            if self._ids
            else [self.prompt.yes, self.prompt.no]
        )
        yes, no = ([found[name] for name in side if name in found] for side in names)
        if not yes and not no:
            raise ModelCrashed(f"{self.entry.key}: answers neither yes nor no, but one of {', '.join(sorted(found))}")
        least = [min(found.values())]
        return log_odds(yes or least, no or least)

    async def _get(self, path: str) -> Any:
        return await self._asked("GET", path, None)

    async def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        return await self._asked("POST", path, body)

    async def _asked(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        """The server's JSON, asked for again after failures that pass. Raises ModelError."""
        import httpx
        from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

        retrying = AsyncRetrying(
            stop=stop_after_attempt(self.settings.attempts),
            wait=wait_random_exponential(multiplier=0.05, max=1.0),
            retry=retry_if_exception(_passes),
            reraise=True,
        )
        try:
            async for attempt in retrying:
                with attempt:
                    answer = await self._client.request(method, self.settings.base + path, json=body)
                    answer.raise_for_status()
                    return answer.json()
        except httpx.HTTPStatusError as error:
            said = error.response.text[:200]
            raise ModelUnavailable(f"{self._place}: {error.response.status_code} {said}") from None
        except httpx.TimeoutException:
            raise ModelTimeout(f"{self._place}: no answer within {self.settings.seconds:g} s") from None
        except httpx.HTTPError as error:
            raise ModelUnavailable(f"{self._place}: {type(error).__name__}: {error}") from None
        except ValueError:
            raise ModelCrashed(f"{self._place}: the answer is no JSON") from None

    @property
    def _place(self) -> str:
        return f"{self.entry.key} at {self.settings.base}"

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        """Raises ModelTimeout when the block takes longer than the settings allow."""
        try:
            async with asyncio.timeout(self.settings.seconds):
                yield
        except TimeoutError:
            raise ModelTimeout(f"{self._place}: no answer within {self.settings.seconds:g} s") from None


def _passes(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later."""
    import httpx

    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in AGAIN
    return isinstance(error, httpx.TransportError)


def _shown(part: Mapping[str, Any], picture: str) -> Mapping[str, Any]:
    return {"type": "image_url", "image_url": {"url": picture}} if part["type"] == "image" else part


def _data_url(frame: Frame, max_pixels: int) -> str:
    """The picture without loss."""
    png = io.BytesIO()
    shrunk(frame, max_pixels).save(png, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()


def _on_this_machine(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
