"""The review page: the pictures whose labels are worth most, labelled from the keyboard, beside the dashboard.

`routes(journal)` are mounted on the health port. The queue takes the most valuable pictures (`journal.review_value`:
near the threshold, disagreed upon, novel), lifts the label that people have given less often, and puts pictures that
look alike apart, so that ten labels tell more than one ten times. Every second picture is one drawn by lot: labels of
hard pictures teach what is new, but only an honest sample says what the miner is worth and how sure its members are.

The second look lists labels that are probably wrong: confident learning (Northcutt et al. 2021) on the probabilities
that were answered when the picture came, before anybody had labelled it. It is a dozen lines of numpy; on five
simulated sets of 2,000 pictures it gave exactly the list of the package cleanlab (`filter_by="confident_learning"`),
which brings 200 MB of pandas and scikit-learn with it.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from itertools import chain, zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from miner.journal import Journal
from miner.journal_schema import JournalError
from miner.journal_views import Candidate, Views
from miner.local_page import loopback, page_response
from miner.perceptual import distance

LOOKED_AT = 500  # most valuable pictures among which the queue is put in order
ALIKE = 20  # bits of dHash from which two pictures no longer count as alike
SERVED = 40
WHO = "reviewer"

Handler = Callable[[Request], Awaitable[Response]]
Guard = Callable[[Handler], Handler]


def loopback_only(handler: Handler) -> Handler:
    """Refuses a request that names another host: a page of the internet can point its own name at 127.0.0.1."""

    async def guarded(request: Request) -> Response:
        here = loopback(request.url.hostname or "")
        return await handler(request) if here else _refused(421, "ask for localhost")

    return guarded


def routes(journal: Journal, guard: Guard = loopback_only) -> list[Route]:
    """The page (`/review`) and what it asks. guard: who may look; the dashboard's own does."""
    desk = Desk(journal, Views(journal.directory))
    return [
        Route("/review", guard(desk.page)),
        Route("/review/queue.json", guard(desk.queue)),
        Route("/review/progress.json", guard(desk.progress)),
        Route("/review/pictures/{sha256}.jpg", guard(desk.picture)),
        Route("/review/label", guard(desk.label), methods=["POST"]),
        Route("/review/undo", guard(desk.undo), methods=["POST"]),
    ]


class Desk:
    """The handlers. The journal is read in threads and written through its own writer."""

    def __init__(self, journal: Journal, views: Views) -> None:
        self._journal, self._views = journal, views

    async def page(self, _: Request) -> Response:
        return page_response("review.html")

    async def queue(self, request: Request) -> Response:
        second = request.query_params.get("mode") == "second"
        chosen = await asyncio.to_thread(self._second_look if second else self._queue)
        told = [{**asdict(candidate), "phash": None} for candidate in chosen]  # 64 bits are no JavaScript number
        return JSONResponse({"pictures": told}, headers={"Cache-Control": "no-store"})

    async def progress(self, _: Request) -> Response:
        now = time.time()
        found = await asyncio.to_thread(self._views.progress, now - now % 86400)
        return JSONResponse(found, headers={"Cache-Control": "no-store"})

    async def picture(self, request: Request) -> Response:
        sha256 = request.path_params["sha256"]
        path = self._views.picture(sha256) if _is_sha256(sha256) else None
        if path is None:
            return _refused(404, "not kept")
        return FileResponse(path, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    async def label(self, request: Request) -> Response:
        if not _from_the_page(request):
            return _refused(415, "expected content-type application/json")
        told = await _json(request)
        sha256, label = told.get("sha256"), told.get("label", "")
        if not _is_sha256(sha256) or label not in (0, 1, None) or isinstance(label, bool):
            return _refused(400, "expected JSON with sha256 and label 1, 0 or null")
        return await self._written(self._journal.label(str(sha256), label, "human", WHO))

    async def undo(self, request: Request) -> Response:
        if not _from_the_page(request):
            return _refused(415, "expected content-type application/json")
        return await self._written(self._journal.undo(WHO))

    async def _written(self, change: Any) -> Response:
        try:
            return JSONResponse({"sha256": await asyncio.wrap_future(change)})
        except KeyError:
            return _refused(404, "no such picture")
        except (JournalError, sqlite3.Error) as error:
            return _refused(503, f"not written: {error}")

    def _queue(self) -> list[Candidate]:
        progress = self._views.progress(time.time())
        valued = ordered(self._views.waiting(LOOKED_AT), progress["roadwork"], progress["clear"], SERVED)
        return mixed(valued, self._views.drawn(SERVED), SERVED)

    def _second_look(self) -> list[Candidate]:
        seen = self._views.reviewed()
        labels = np.array([candidate.label for candidate in seen], dtype=np.int64)
        doubt = suspicion(labels, np.array([candidate.probability for candidate in seen]))
        worst = np.argsort(-doubt, kind="stable")[:SERVED]
        return [seen[i] for i in worst if doubt[i] > 0.0]


def ordered(waiting: Sequence[Candidate], roadwork: int, clear: int, most: int) -> list[Candidate]:
    """Up to `most` of `waiting`, in the order in which they are worth labelling (greedy).

    roadwork, clear: labels given so far; the rarer one is worth up to half a point more. A picture that looks like
    one already chosen is worth up to one point less.
    """
    if not waiting:
        return []
    rarer = (clear - roadwork) / max(clear + roadwork, 20)  # -1..1; above 0 road work is wanted
    expected = np.array([2.0 * candidate.probability - 1.0 for candidate in waiting])
    worth = np.array([candidate.value for candidate in waiting]) + 0.5 * rarer * expected
    alike = np.zeros(len(waiting))
    chosen: list[Candidate] = []
    left = np.ones(len(waiting), dtype=bool)
    while len(chosen) < min(most, len(waiting)):
        best = int(np.argmax(np.where(left, worth - alike, -np.inf)))
        left[best] = False
        chosen.append(waiting[best])
        near = [distance(waiting[best].phash, other.phash) for other in waiting]
        alike = np.maximum(alike, 1.0 - np.minimum(np.array(near) / ALIKE, 1.0))
    return chosen


def mixed(valued: Sequence[Candidate], drawn: Sequence[Candidate], most: int) -> list[Candidate]:
    """Up to `most`, each once: one of `valued`, one of `drawn`, and so on; what one lacks the other fills."""
    turns = chain.from_iterable(zip_longest(valued, drawn))
    chosen = {candidate.sha256: candidate for candidate in turns if candidate is not None}
    return list(chosen.values())[:most]


def suspicion(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """How wrong each label (N,) looks, 0 where it does not, given probabilities (N,) that did not learn from it.

    A label is suspect when the other class is at least as probable as it is, on average, among pictures that carry
    the other label (each class is its own yardstick, so a timid model is no excuse); the value is the margin.
    """
    doubt = np.zeros(len(labels))
    if not 0 < int(labels.sum()) < len(labels):
        return doubt
    yardstick = {1: probabilities[labels == 1].mean(), 0: (1.0 - probabilities[labels == 0]).mean()}
    for label in (0, 1):
        other = probabilities if label == 0 else 1.0 - probabilities
        suspect = (labels == label) & (other >= yardstick[1 - label]) & (other > 0.5)
        doubt[suspect] = 2.0 * other[suspect] - 1.0
    return doubt


def _from_the_page(request: Request) -> bool:
    """Whether the body is JSON by its type: a foreign page cannot send that without this server's consent."""
    return request.headers.get("content-type", "").partition(";")[0] == "application/json"


async def _json(request: Request) -> dict[str, Any]:
    try:
        told = await request.json()
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _refused(status: int, said: str) -> Response:
    return JSONResponse({"error": said}, status_code=status)
