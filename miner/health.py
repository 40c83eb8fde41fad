"""The operator's port: `/livez`, `/readyz` and `/metrics`, on loopback unless told otherwise.

`/livez` says that the event loop turns. `/readyz` says that a canary picture went through every required tier: a ping
would not do, since an engine can hang while its version page still answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


@dataclass(frozen=True, slots=True)
class Address:
    """Where something listens. port 0: not bound yet."""

    ip: str
    port: int


@dataclass(frozen=True, slots=True)
class Readiness:
    """What `/readyz` tells. reason: why not ready, empty when ready. uid: None while not registered.

    tiers: per tier {"name", "required", "ready", "reason"}.
    """

    ready: bool
    hotkey: str
    uid: int | None
    network: str
    axon: Address
    tiers: tuple[dict[str, object], ...] = field(default_factory=tuple)
    reason: str = ""


def health_app(readiness: Callable[[], Readiness], exposition: Callable[[], bytes]) -> Starlette:
    """The ASGI application of the health port."""

    async def livez(_: Request) -> Response:
        return JSONResponse({"alive": True})

    async def readyz(_: Request) -> Response:
        now = readiness()
        return JSONResponse(asdict(now), status_code=200 if now.ready else 503)

    async def metrics(_: Request) -> Response:
        return Response(exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return Starlette(routes=[Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", metrics)])
