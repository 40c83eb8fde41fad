"""The local dashboard: what the miner decides, as it decides it. One page on the health port, read-only, offline.

`Recent` is an observer of the service: a bounded ring of answers with small pictures, in memory only. `Dashboard`
serves them: `/` (the page), `/dashboard/state.json?since=N` and `/dashboard/pictures/N.jpg`. It shows pictures and
callers, so it is served on loopback, and beyond loopback only to who knows the token.
"""

from __future__ import annotations

import asyncio
import hmac
import io
import json
import math
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from cascade.verdict import Verdict
from miner.gpu import Card, NoCards
from miner.gpu import cards as driver_cards
from miner.health import Readiness
from miner.local_page import loopback, page_response
from miner.metagraph import Snapshot
from miner.service import Answered
from miner.telemetry import Metrics, ModelHealth, values
from models import metrics as measures
from models.base import Frame

SHOWN = 100  # answers kept with their picture
MEASURED = 1000  # answers kept as figures: latency, tier shares, reliability
THUMBNAIL = 320  # pixels of the longer side
LONGEST_EVIDENCE = 2000  # characters of one opinion's evidence
SHORTEST_TOKEN = 16
COOKIE = "dashboard"


@dataclass(frozen=True, slots=True)
class Kept:
    """One answer with its picture, made small, and its number in order of arrival from 1."""

    number: int
    at: float
    answered: Answered
    pixels: NDArray[np.uint8] | None


@dataclass(frozen=True, slots=True)
class Figures:
    """One answer without its picture."""

    probability: float
    label: int
    seconds: float
    last_tier: str


class Recent:
    """The newest answers: `SHOWN` with pictures (31 MB at most), `MEASURED` as figures."""

    def __init__(self, shown: int = SHOWN, measured: int = MEASURED) -> None:
        self.answers: deque[Kept] = deque(maxlen=shown)
        self.figures: deque[Figures] = deque(maxlen=measured)
        self.count = 0

    def add(self, answered: Answered) -> None:
        """Keep one request as it leaves (an observer of the service)."""
        self.count += 1
        pixels = small(answered.frame) if answered.frame else None
        tiers = answered.verdict.tiers if answered.verdict else ()
        told = replace(answered, image_base64="", frame=None)  # they are megabytes: the ring must not hold them
        self.answers.append(Kept(self.count, time.time(), told, pixels))
        self.figures.append(
            Figures(answered.probability, answered.label, answered.seconds, tiers[-1] if tiers else "nobody")
        )

    def picture(self, number: int) -> NDArray[np.uint8] | None:
        """The small picture of one answer, None when it is forgotten or never was."""
        return next((kept.pixels for kept in self.answers if kept.number == number), None)


def small(frame: Frame) -> NDArray[np.uint8]:
    """Every n-th pixel, so that the longer side has at most `THUMBNAIL`: no filter, but free of cost to the loop."""
    step = math.ceil(max(frame.size) / THUMBNAIL)
    return frame.pixels[::step, ::step].copy()


class Dashboard:
    """What `/` shows. host: the health port's address. token: who knows it may look; required beyond loopback. review:
    whether the review page is beside it."""

    def __init__(
        self,
        recent: Recent,
        metrics: Metrics,
        readiness: Callable[[], Readiness],
        models: Callable[[], Mapping[str, ModelHealth]],
        snapshot: Callable[[], Snapshot],
        host: str,
        token: str = "",
        cards: Callable[[], Sequence[Card]] = driver_cards,
        *,
        review: bool = False,
    ) -> None:
        self._recent, self._metrics, self._readiness = recent, metrics, readiness
        self._models, self._snapshot, self._cards = models, snapshot, cards
        self._loopback, self._token, self._review = loopback(host), token, review
        if token and len(token) < SHORTEST_TOKEN:
            raise ValueError(f"dashboard token: expected at least {SHORTEST_TOKEN} characters, got {len(token)}")

    def routes(self) -> list[Route]:
        """For `health_app`. Beyond loopback without a token there is only a page that says so."""
        if not (self._loopback or self._token):
            return [Route("/", _closed)]
        return [
            Route("/", self.guarded(self._page)),
            Route("/dashboard/state.json", self.guarded(self._state)),
            Route("/dashboard/pictures/{number:int}.jpg", self.guarded(self._picture)),
        ]

    def guarded(self, handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """`handler` for those only who may see the dashboard."""

        async def checked(request: Request) -> Response:
            if not self._token:
                # A page of the internet can point its own name at 127.0.0.1; the Host header then betrays it.
                return await handler(request) if loopback(request.url.hostname or "") else _refused(421)
            if self._knows(request.query_params.get("token", "")):
                # Off the address bar and out of the history at once.
                answer: Response = RedirectResponse(request.url.path, status_code=303)
                answer.set_cookie(COOKIE, self._token, httponly=True, samesite="strict")
                return answer
            bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
            known = self._knows(request.cookies.get(COOKIE, "")) or self._knows(bearer)
            return await handler(request) if known else _refused(401)

        return checked

    def _knows(self, offered: str) -> bool:
        return hmac.compare_digest(offered.encode(), self._token.encode())

    async def _page(self, _: Request) -> Response:
        return page_response("dashboard.html")

    async def _state(self, request: Request) -> Response:
        try:
            since = int(request.query_params.get("since", "0"))
        except ValueError:
            return JSONResponse({"error": "since: expected a number"}, status_code=400)
        return JSONResponse(await self.state(since), headers={"Cache-Control": "no-store"})

    async def _picture(self, request: Request) -> Response:
        pixels = self._recent.picture(request.path_params["number"])
        if pixels is None:
            return _refused(404)
        body = await asyncio.to_thread(_jpeg, pixels)
        return Response(body, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    async def state(self, since: int) -> dict[str, Any]:
        """Everything the page shows; of the answers only those after number `since`."""
        figures = list(self._recent.figures)
        known = [one for one in figures if one.label in (0, 1)]
        return {
            "now": time.time(),
            "count": self._recent.count,
            "review": self._review,
            "miner": asdict(self._readiness()),
            "chain": _chain(self._snapshot()),
            "gpus": [asdict(card) for card in await asyncio.to_thread(self._found_cards)],
            "models": {
                key: {"breaker": state.breaker, "queued": state.queued, "restarts": state.restarts}
                for key, state in self._models().items()
            },
            "admissions": sum(values(self._metrics.admissions).values()),
            "refusals": {labels[0]: n for labels, n in values(self._metrics.refusals).items()},
            "standing": self._standing(),
            "latency": _latency([one.seconds for one in figures]),
            "tiers": Counter(one.last_tier for one in figures),
            "probabilities": np.histogram([one.probability for one in figures], 10, (0, 1))[0].tolist(),
            "reliability": measures.columns([one.label for one in known], [one.probability for one in known]),
            "answers": [_told(kept) for kept in self._recent.answers if kept.number > since],
        }

    def _found_cards(self) -> Sequence[Card]:
        try:
            return self._cards()
        except NoCards:
            return []

    def _standing(self) -> dict[str, dict[str, float]]:
        kept = self._metrics
        gauges = {"mcc": kept.mcc, "accuracy": kept.accuracy, "reward": kept.reward, "score": kept.score}
        standing: dict[str, dict[str, float]] = {}
        for name, gauge in gauges.items():
            for (validator,), value in values(gauge).items():
                standing.setdefault(validator, {})[name] = value
        return standing


def _chain(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "netuid": snapshot.netuid,
        "block": snapshot.block,
        "taken_at": snapshot.taken_at,
        "neurons": len(snapshot.neurons),
        "validators": sum(neuron.validator_permit for neuron in snapshot.neurons.values()),
    }


def _latency(seconds: Sequence[float]) -> dict[str, float] | None:
    """Percentiles in milliseconds."""
    if not seconds:
        return None
    p50, p95, p99 = np.percentile(seconds, [50, 95, 99]) * 1000
    return {"p50": float(p50), "p95": float(p95), "p99": float(p99), "n": len(seconds)}


def _told(kept: Kept) -> dict[str, Any]:
    answered = kept.answered
    return {
        "number": kept.number,
        "at": kept.at,
        "caller": answered.caller,
        "label": answered.label,
        "probability": answered.probability,
        "source": answered.source.value,
        "milliseconds": answered.seconds * 1000,
        "fault": answered.fault,
        "picture": kept.pixels is not None,
        "verdict": _verdict(answered.verdict) if answered.verdict else None,
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "interval": verdict.interval,
        "tiers": verdict.tiers,
        "stop": verdict.stop.value,
        "degraded": verdict.degraded,
        "milliseconds": verdict.milliseconds,
        "opinions": [
            {
                "model": opinion.model,
                "logit": opinion.logit,
                "milliseconds": opinion.milliseconds,
                "evidence": _short(opinion.evidence),
            }
            for opinion in verdict.opinions
        ],
        "failures": [asdict(failure) for failure in verdict.failures],
    }


def _short(evidence: Mapping[str, Any]) -> str:
    return json.dumps(dict(evidence), default=str, ensure_ascii=False)[:LONGEST_EVIDENCE] if evidence else ""


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "JPEG", quality=80)
    return sink.getvalue()


def _refused(status: int) -> Response:
    said = {401: "open /?token=... once", 404: "forgotten", 421: "ask for localhost"}
    return JSONResponse({"error": said[status]}, status_code=status)


async def _closed(_: Request) -> Response:
    said = "The dashboard shows pictures: it is served on loopback, or with MINER_DASHBOARD_TOKEN set.\n"
    return Response(said, status_code=403, media_type="text/plain")
