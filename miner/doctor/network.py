"""The axon port: free, reachable from outside, and announced as it is."""

from __future__ import annotations

import socket
from typing import TypeVar
from urllib.error import HTTPError

from pydantic import BaseModel, ConfigDict, IPvAnyAddress, ValidationError

from miner.doctor.finding import Said, fail, ok, unknown, warn
from miner.doctor.world import PATIENCE, World, listen


class SeenFrom(BaseModel):
    """What an echoip server says at `/json`, of which only the address counts here."""

    model_config = ConfigDict(strict=True)

    ip: IPvAnyAddress


class TriedPort(SeenFrom):
    """What it says at `/port/N`, once it has tried to connect to that port of the caller."""

    reachable: bool


Echo = TypeVar("Echo", bound=SeenFrom)


class NotEchoip(Exception):
    """The reflector answered, but not as echoip does. The message says what was expected and what came."""


def port(world: World) -> Said:
    settings = world.settings
    miner = world.running()
    if miner and miner.get("axon", {}).get("port") == settings.axon_port:
        return ok(f"{settings.axon_port} is held by the running miner")
    try:
        listen(settings.axon_host or "", settings.axon_port).close()
    except OSError as error:
        return fail(
            f"{settings.axon_port}: {error.strerror}", f"ss -ltnp 'sport = :{settings.axon_port}' shows the owner"
        )
    return ok(f"{settings.axon_port} is free")


def reachable(world: World) -> Said:
    """Asks an echoip server to connect back; listens for that moment when no miner does."""
    settings = world.settings
    if not world.reflector:
        return unknown("nobody outside was asked", "--reflector https://ifconfig.co lets that site try the port")
    announced = settings.external_port or settings.axon_port
    try:
        listener = listen(settings.axon_host or "", settings.axon_port)
    except OSError:
        listener = None  # the miner itself is listening
    try:
        seen = _reflected(world, f"port/{announced}", TriedPort)
    finally:
        if listener:
            listener.close()
    figure = f"{seen.ip}:{announced} " + ("answers from outside" if seen.reachable else "cannot be reached")
    remedy = "open the port in the firewall and the host's port map; set --external-port when the outer one differs"
    return ok(figure) if seen.reachable else fail(figure, remedy)


def announced(world: World) -> Said:
    mine, settings = world.me(), world.settings
    if mine is None:
        return unknown("not registered, so nothing is announced")
    if not mine.port:
        return warn("nothing announced yet", "serve announces it at its first start")
    figure = f"{mine.ip}:{mine.port}"
    expected_port = settings.external_port or settings.axon_port
    expected_ip = settings.external_ip or (str(_reflected(world, "json", SeenFrom).ip) if world.reflector else mine.ip)
    if (mine.ip, mine.port) != (expected_ip, expected_port):
        remedy = "start serve again with --external-ip and --external-port as they are, or mend these settings"
        return fail(f"{figure} announced, {expected_ip}:{expected_port} expected", remedy)
    try:
        socket.create_connection((mine.ip, mine.port), PATIENCE).close()
    except OSError as error:
        remedy = "start the miner; behind NAT a machine may not reach itself: --reflector asks from outside"
        return warn(f"{figure} does not answer from here: {error}", remedy)
    return ok(f"{figure} answers")


def _reflected(world: World, path: str, expected: type[Echo]) -> Echo:
    """What the echoip server says. Raises NotEchoip, or OSError when there is no answer."""
    url = f"{world.reflector.rstrip('/')}/{path}"
    try:
        said = world.fetch(url, {"Accept": "application/json"})
        return expected.model_validate_json(said)
    except HTTPError as error:
        came = f"status {error.code} {error.reason}"
    except ValidationError:
        came = repr(said[:80].decode(errors="replace")) + ("..." if len(said) > 80 else "")
    fields = " and ".join(f'"{name}"' for name in expected.model_fields)
    raise NotEchoip(f"{url}: expected JSON with {fields}, got {came}")
