"""The operator's port: `/livez`, `/readyz`, `/metrics` and the dashboard, on loopback unless told otherwise.

`/livez` says that the event loop turns. `/readyz` says that a canary picture went through every required tier: a ping
would not do, since an engine can hang while its version page still answers.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

STOP_SECONDS = 1  # a request that has not ended by then is given up: it would keep the miner from stopping


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


def health_app(
    readiness: Callable[[], Readiness], exposition: Callable[[], bytes], pages: Sequence[BaseRoute] = ()
) -> Starlette:
    """The ASGI application of the health port. pages: more to serve there (the dashboard)."""

    async def livez(_: Request) -> Response:
        return JSONResponse({"alive": True})

    async def readyz(_: Request) -> Response:
        now = readiness()
        return JSONResponse(asdict(now), status_code=200 if now.ready else 503)

    async def metrics(_: Request) -> Response:
        text = await asyncio.to_thread(exposition)  # asks the driver of the cards, which may take its time
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    own = [Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", metrics)]
    return Starlette(routes=[*own, *pages])


class HealthServer:
    """Serves an ASGI application on the health port, inside the running event loop."""

    def __init__(self, app: Starlette, host: str, port: int) -> None:
        self._app, self._host, self._port = app, host, port
        self._server: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Listen; gives the port. Raises OSError when the address cannot be had."""
        listener = socket.create_server(
            (self._host, self._port), family=socket.AF_INET6 if ":" in self._host else socket.AF_INET
        )
        config = uvicorn.Config(
            self._app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=STOP_SECONDS
        )
        self._server = _NoSignals(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]))
        return int(listener.getsockname()[1])

    async def stop(self) -> None:
        """Stop listening, and give up what is not answered within a second."""
        if self._server and self._task:
            self._server.should_exit = True
            await self._task


class _NoSignals(uvicorn.Server):
    """uvicorn takes over SIGTERM and SIGINT; they belong to the miner."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
