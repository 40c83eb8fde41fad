"""The subnet operator's own register, beside the chain's: a signed time is posted, and the outcome polled.

Removed upstream in 2026; older validators still want it. The signature covers the time only, so it proves that the
caller holds the hotkey and nothing else.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

if TYPE_CHECKING:
    from bittensor_wallet import Keypair

DONE = {"succeeded", "success"}
FAILED = {"failed", "error"}
TIMEOUT = 30.0


class RegistrationError(Exception):
    """The application server did not register the miner. The message says what it answered."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the registration stands after polling. done: finished well. said: the server's own words."""

    done: bool
    said: str


def payload(hotkey: Keypair, uid: int, model_repo: str, now: float) -> dict[str, str]:
    """What is posted: the unix time, and the hotkey's signature of it (hexadecimal, without 0x)."""
    message = str(int(now))
    return {
        "uid": str(uid),
        "message": message,
        "natix_public_key": hotkey.ss58_address,
        "natix_signature": hotkey.sign(message.encode()).hex(),
        "type": "miner",
        "model_repo": model_repo,
    }


def checked(server: str) -> str:
    """The server's address without a slash at the end. Raises RegistrationError for one that is not safe to post to."""
    parts = urlsplit(server)
    local = parts.hostname in {"127.0.0.1", "localhost", "::1"}
    if not (parts.hostname and (parts.scheme == "https" or (parts.scheme == "http" and local))):
        raise RegistrationError(f"expected an https:// address of the application server, got {server!r}")
    return server.rstrip("/")


def submit(server: str, body: dict[str, str]) -> str:
    """Post the registration. Returns what the server said. Raises RegistrationError."""
    request = Request(f"{checked(server)}/participants/register", json.dumps(body).encode(), method="POST")
    request.add_header("Content-Type", "application/json")
    return str(_asked(request).get("detail", "accepted"))


def poll(
    server: str,
    uid: int,
    seconds: float = 180.0,
    every: float = 3.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Outcome:
    """Ask until the registration is finished, or `seconds` have passed. Raises RegistrationError when it failed."""
    give_up = clock() + seconds
    while True:
        told = _asked(Request(f"{checked(server)}/participants/registration-status/{uid}"))
        status = str(told.get("status", ""))
        if status in DONE:
            return Outcome(True, status)
        if status in FAILED:
            raise RegistrationError(f"the server refused: {told.get('error_message') or status}")
        if clock() >= give_up:
            return Outcome(False, status or "no status yet")
        sleep(every)


def _asked(request: Request) -> dict[str, Any]:
    with _explained(request.full_url), urlopen(request, timeout=TIMEOUT) as answer:
        told = json.load(answer)
    if not isinstance(told, dict):
        raise RegistrationError(f"{request.full_url}: expected a JSON object, got {type(told).__name__}")
    return told


@contextmanager
def _explained(url: str) -> Iterator[None]:
    try:
        yield
    except HTTPError as error:
        said = error.read(500).decode(errors="replace")
        raise RegistrationError(f"{url} answers {error.code}: {said or error.reason}") from None
    except OSError as error:
        raise RegistrationError(f"{url} does not answer: {error}") from None
    except ValueError as error:
        raise RegistrationError(f"{url}: expected JSON: {error}") from None
