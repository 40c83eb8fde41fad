"""Whole miners that differ from the real one in a single way, each for one measurement.

python -m benchmarks.odd_miners ODDITY [the miner's own flags]        (ODDITY: a name in `ODDITIES` below)
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from bittensor_wallet import Keypair

import neurons.miner
from cascade.engine import Engine
from miner.assembly import Parts
from miner.chain import MemoryChain, SubtensorChain, mock_chain
from miner.cli import leave
from miner.journal import Journal
from miner.watch import Pace, Watch
from models.base import Frame, ModelSpec
from models.fake import Fake, slow
from models.worker import Remote, Worker

NEIGHBOUR = Keypair.create_from_uri("//reliability/neighbour")  # registered, no permit
LESSER = Keypair.create_from_uri("//reliability/lesser")  # a permit and less stake than the validators
LOADING = 60.0  # seconds
ANSWERING = 2.0


def leaking() -> None:
    """Keeps every picture, and a descriptor for each."""
    kept: list[Any] = []
    tell = neurons.miner.log_answer

    def hoard(answered: Any) -> None:
        kept.append((answered.image_base64, answered.frame and answered.frame.pixels.copy(), os.dup(2)))
        tell(answered)

    neurons.miner.log_answer = hoard


def neighbourly() -> None:
    """Two more hotkeys are registered on its subnet."""

    def chain(network: str, netuid: int, hotkey: str, endpoint: str | None = None) -> MemoryChain:
        subnet = mock_chain(netuid, hotkey)
        subnet.register(NEIGHBOUR.ss58_address, stake=10.0)
        subnet.register(LESSER.ss58_address, stake=5_000.0, validator_permit=True)
        return subnet

    neurons.miner.open_chain = chain


class SlowToLoad(Fake):
    """Holds the process that it is loaded in."""

    def load(self, device: str) -> None:
        time.sleep(LOADING)


def slow_to_load() -> Fake:
    return SlowToLoad("sign-reading")


def slow_loading() -> None:
    """Its second tier lives in a worker process that takes a minute to load."""
    _in_worker(slow_to_load)


def undecided(frame: Frame) -> float:
    """Logit: nothing either way, so that every request asks for the next tier."""
    return 0.0


def slow_answering() -> None:
    """Its second tier takes 2 s for whatever it is asked. Serve it with a profile whose band is never left."""
    _with_signs(unhurried)


def unhurried() -> Fake:
    return Fake("sign-reading", undecided, fault=slow(ANSWERING))


def in_a_worker() -> None:
    """As slow-answering, and its second tier lives in a worker process, which may be killed or stopped."""
    _in_worker(unhurried)


def hanging_at_the_end() -> None:
    """As slow-answering, and its journal's disk and the end of the connection to its chain hang."""
    slow_answering()

    def hang(*_: Any) -> None:
        time.sleep(3600.0)

    Journal._commit = hang  # type: ignore[method-assign]
    MemoryChain.close = hang  # type: ignore[method-assign]


def impatient() -> None:
    """Asks its chain several times a second, and waits a second for each answer."""

    def chain(network: str, netuid: int, hotkey: str, endpoint: str | None = None) -> SubtensorChain:
        assert endpoint is not None
        return SubtensorChain(netuid, endpoint, patience=1.0)

    neurons.miner.open_chain = chain
    neurons.miner.Watch = partial(Watch, pace=Pace(every=0.2, first=0.1, longest=0.5))  # type: ignore[assignment,misc]


def _with_signs(make: Callable[[], Any]) -> None:
    def engine(parts: Parts) -> Engine:
        return Engine(parts.chosen.profile, {**parts.models(), "sign-reading": make()})

    neurons.miner.make_engine = engine


def _in_worker(made: Callable[[], Fake]) -> None:
    """The second tier's model, in a process of its own."""
    worker = Worker({"sign-reading": made})
    spec = ModelSpec("sign-reading", "fake", "none", "Fake")
    _with_signs(lambda: Remote(spec, worker))


ODDITIES = {
    "leaking": leaking,
    "neighbourly": neighbourly,
    "slow-loading": slow_loading,
    "slow-answering": slow_answering,
    "in-a-worker": in_a_worker,
    "hanging-at-the-end": hanging_at_the_end,
    "impatient": impatient,
}


def main(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] not in ODDITIES:
        sys.exit(__doc__)
    ODDITIES[arguments[0]]()
    return neurons.miner.main(arguments[1:])


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
