"""Keeps the miner's view of its subnet fresh, and keeps the last good one however long the chain is away.

`step` is one attempt and says how long to wait until the next: all policy is in it, without a clock of its own, so that
a test can let a day pass in a second. `start` runs it in a thread. Readers take `snapshot`: one frozen value, replaced
as a whole.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from miner.chain import Chain, ChainError
from miner.metagraph import Neuron, Snapshot, load, save

if TYPE_CHECKING:
    from bittensor_wallet import Keypair

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds. every: between good readings. first, longest: back-off after failures, doubling, with jitter.

    stale: age of the view from which the operator is warned, again at each doubling. served: at least so long between
    two attempts to announce our address, because the chain limits them.
    """

    every: float = 60.0
    first: float = 2.0
    longest: float = 300.0
    stale: float = 600.0
    served: float = 600.0


class Watch:
    """The background refresher. Call it for the view in force.

    store: file that holds the last good view between runs. remedy: what the operator types to register.
    """

    def __init__(
        self,
        chain: Chain,
        hotkey: Keypair,
        *,
        store: Path | None = None,
        remedy: str = "",
        pace: Pace = Pace(),
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._chain, self._hotkey, self._store = chain, hotkey, store
        self.remedy = remedy
        self._announce_at: tuple[str, int] | None = None
        self._pace, self._clock, self._chance = pace, clock, chance
        self._snapshot = Snapshot(chain.netuid)
        self._restored = False  # the view in force comes from disk
        self._registered: bool | None = None
        self._failures = 0
        self._warn_at = pace.stale
        self._served_at = float("-inf")
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self.failure = ""  # why the last attempt failed; empty after a good one

    def __call__(self) -> Snapshot:
        return self._snapshot

    @property
    def snapshot(self) -> Snapshot:
        """The last good view. Its `taken_at` is 0 when there has never been one."""
        return self._snapshot

    @property
    def age(self) -> float:
        """Seconds since the chain last showed a newer block; infinite when it never did."""
        return self._clock() - self._snapshot.taken_at if self._snapshot.taken_at else float("inf")

    @property
    def me(self) -> Neuron | None:
        """Our registration in the view in force."""
        return self._snapshot.neurons.get(self._hotkey.ss58_address)

    def restore(self) -> bool:
        """Take the view that the last run left on disk. False when there is none that fits."""
        if self._store is None or not self._store.exists():
            return False
        try:
            found = load(self._store)
        except (OSError, ValueError) as error:
            log.warning("the chain's last view on disk is not used: %s", error)
            return False
        if found.netuid != self._chain.netuid:
            log.warning("%s is of subnet %d, not %d: not used", self._store, found.netuid, self._chain.netuid)
            return False
        self._snapshot, self._restored = found, True
        log.info("chain: starting on the view of block %d, %s old", found.block, _spoken(self.age))
        return True

    def announce(self, ip: str, port: int) -> None:
        """What the chain should show for us, from the next step on. ValueError when ip is no address."""
        self._announce_at = (str(ip_address(ip)), port)

    def step(self) -> float:
        """One attempt to see the chain. Seconds until the next; never raises."""
        try:
            wait = self._seen(self._chain.snapshot())
        except ChainError as error:
            wait = self._missed(str(error))
        except Exception as error:  # a fault of ours must not end the thread that keeps the view fresh
            log.exception("chain: refreshing failed")
            wait = self._missed(f"{type(error).__name__}: {error}")
        self._warn_when_stale()
        return wait

    def start(self) -> None:
        """Run `step` in a thread until `stop`."""
        self._thread = threading.Thread(target=self._run, name="chain", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """End the thread (it may be in the middle of a question: that is cut) and close the connection.

        Both can take seconds on a node that hangs: the event loop, which still answers `/readyz`, goes on meanwhile.
        """
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        self._stop.set()
        self._chain.close()
        if self._thread is not None:
            self._thread.join(timeout=5.0)

    def _run(self) -> None:
        wait = self.step()
        while not self._stop.wait(wait):
            wait = self.step()
        self._chain.close()

    def _seen(self, snapshot: Snapshot) -> float:
        if self._failures:
            log.warning("chain: back after %d failed attempts, block %d", self._failures, snapshot.block)
        self._failures, self.failure = 0, ""
        back = snapshot.block < self._snapshot.block and self.age > self._pace.stale  # else it is a node that lags
        if back and not self._restored:
            log.warning("chain: went back from block %d to %d", self._snapshot.block, snapshot.block)
        if self._restored or back or snapshot.block > self._snapshot.block:
            self._snapshot, self._restored, self._warn_at = snapshot, False, self._pace.stale
            self._keep()
            self._tell_registration()
            self._serve_if_changed()
        return self._pace.every

    def _missed(self, why: str) -> float:
        self._failures += 1
        if why != self.failure:  # the same reason is said once, not every five minutes of a night
            log.warning("chain: %s; serving on the view of block %d", why, self._snapshot.block)
        self.failure = why
        longest = min(self._pace.longest, self._pace.first * 2.0 ** min(self._failures - 1, 30))
        return longest * (0.5 + 0.5 * self._chance())

    def _keep(self) -> None:
        if self._store is None:
            return
        try:
            save(self._snapshot, self._store)
        except OSError as error:
            log.warning("the view of the chain cannot be kept on disk: %s", error)

    def _tell_registration(self) -> None:
        registered, netuid = self.me is not None, self._chain.netuid
        if registered == self._registered:
            return
        if self.me is not None:
            log.info("registered on subnet %d as uid %d", netuid, self.me.uid)
        else:
            log.error("%s is not registered on subnet %d. %s", self._hotkey.ss58_address, netuid, self.remedy)
        self._registered = registered

    def _serve_if_changed(self) -> None:
        now = self._clock()
        if self._announce_at is None or self.me is None or (self.me.ip, self.me.port) == self._announce_at:
            return
        if 0 <= now - self._served_at < self._pace.served:  # less than 0: the clock was put back
            return
        self._served_at = now
        ip, port = self._announce_at
        try:
            self._chain.serve(self._hotkey, ip, port)
            log.info("announced %s port %d on the chain", ip, port)
        except ChainError as error:
            log.warning("%s; trying again in %s", error, _spoken(self._pace.served))

    def _warn_when_stale(self) -> None:
        if self._warn_at <= self.age < float("inf"):
            log.warning("chain: no new block for %s; serving on block %d", _spoken(self.age), self._snapshot.block)
            self._warn_at = 2 * self.age


def _spoken(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
