"""The miner's process: puts the parts together, serves until told to stop, and drains.

    python -m neurons.miner --network test        (or ./run_miner.sh serve --network test)

The ports are open before the models are loaded: until then requests are answered by those that are there (the embedded
network after a second, before that the prior), and `/readyz` says 503 with the reason. SIGTERM or SIGINT drains: no new
request is taken and those at work are finished; what hangs is left behind after 13 s; a second one ends at once. SIGHUP
reads the profile again without losing a request.
"""

from __future__ import annotations

import asyncio
import errno
import faulthandler
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import uvloop

from miner import __version__, heap, systemd
from miner.assembly import Chosen, Parts, in_force, make_engine, own, revision
from miner.axon import Axon, Limits, Server, verify_signature
from miner.chain import ChainError, open_chain, own_address, register_command
from miner.cli import leave
from miner.dashboard import Dashboard, Recent
from miner.decode import decode
from miner.gate import Gate, Rules
from miner.health import Address, HealthServer, Readiness, health_app
from miner.journal import Keep
from miner.journal_schema import JournalError
from miner.learning.serving import Habits, Learning
from miner.learning.versions import Versions
from miner.local_page import loopback
from miner.metagraph import Snapshot
from miner.replay_store import ReplayStore
from miner.service import Decide, Observer, Service
from miner.settings import Settings, UsageError, parse
from miner.telemetry import Metrics, log_answer, setup_logging
from miner.tracing import TraceFile
from miner.wallet import WalletError, load_hotkey, throwaway
from miner.watch import Watch
from models.base import ModelError

if TYPE_CHECKING:
    from bittensor_wallet import Keypair

log = logging.getLogger(__name__)

FOLLOW_SECONDS = 2.0  # between two looks at which version is in force
DRIFT_SECONDS = 900.0
ADDRESS_SECONDS = 300.0  # between two questions what our address is
TIDY_SECONDS = 30.0
DRAIN_SECONDS = 9.0  # a validator waits no longer
STOP_SECONDS = 13.0  # from the signal to the end, whatever hangs: what `deploy/` holds kills after 15


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 after a drain, 1 when requests were cut off or it hung, 2 for a wrong setting, port or wallet."""
    try:
        settings = parse(Settings, sys.argv[1:] if arguments is None else arguments)
        setup_logging(settings.log_level, settings.log_format)
        heap.few_heaps()
        return uvloop.run(Miner(settings).run())
    except (UsageError, WalletError, ChainError) as error:
        said = str(error)
    except OSError as error:  # a folder that cannot be written to, a full disk
        if error.filename is None:
            raise
        said = f"{error.filename}: {error.strerror}"
    sys.stderr.write(f"error: {said}\n")
    return 2


class Miner:
    """One hotkey, serving one subnet."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.hotkey = _hotkey(settings)
        self.versions = Versions(settings.state / "versions")
        mine = own(settings)  # first: a wrong --profile is refused, where a version in force only falls back
        self.parts = Parts(settings, self._chosen() or mine)
        self.profile = self.parts.chosen.profile
        self.metrics = Metrics()
        self.recent = Recent()
        self.loaded = asyncio.Event()  # and the canary went through
        self.stopping = asyncio.Event()
        self.watch = self._open_watch()

    async def run(self) -> int:
        """Serve until a signal. Raises UsageError for what the operator has to mend."""
        self._catch_signals()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.watch.stop)  # the last to be closed: a node that hangs takes seconds
            self.engine = make_engine(self.parts)
            stack.push_async_callback(self.engine.close)
            self.metrics.watch_models(self.engine.state)
            self.metrics.running(__version__, self.profile.name, self.settings.network)
            self.metrics.serving(self.profile, self.parts.chosen.version)
            self.learning = self._open_learning(stack)
            self.server = await self._start_axon(stack)
            self.metrics.ready.set_function(lambda: float(self.readiness().ready))
            await self._start_health(stack)
            starting = [asyncio.create_task(work) for work in (self._load(), self._start_watch())]
            going_on = [asyncio.create_task(work) for work in (self._follow(), self._tidy(), self._stay_reachable())]
            for task in (*starting, *going_on):
                stack.callback(task.cancel)
            await self._until_stopped(*starting)
            drained = await self.server.drain(DRAIN_SECONDS)
        log.info("stopped; %s", "every accepted request was answered" if drained else "some requests were cut off")
        return 0 if drained else 1

    @property
    def address(self) -> str:
        """Our hotkey's SS58 address."""
        return str(self.hotkey.ss58_address)

    def view(self) -> Snapshot:
        """The subnet as last seen; empty until it was."""
        return self.watch.snapshot

    def readiness(self) -> Readiness:
        """What `/readyz` tells."""
        tiers = self.engine.readiness()
        reasons = [f"tier {tier.name}: {tier.reason}" for tier in tiers if tier.required and not tier.ready]
        me = self.view().neurons.get(self.address)
        if not self.loaded.is_set():
            reasons.append("starting: the canary picture has not gone through yet")
        if self.stopping.is_set():
            reasons.append("stopping")
        return Readiness(
            ready=not reasons,
            hotkey=self.address,
            uid=me.uid if me else None,
            network=self.settings.network,
            axon=Address(self.settings.external_ip or self._host or "0.0.0.0", self.server.port),
            tiers=tuple(asdict(tier) for tier in tiers),
            reason="; ".join(reasons),
        )

    @property
    def _host(self) -> str | None:
        loopback = "127.0.0.1" if self.settings.network == "mock" else None
        return self.settings.axon_host or loopback

    def _prior(self) -> float:
        """Of the profile that is served now: a reload may bring another."""
        return self.engine.profile.prior

    def _service(self, decide: Decide, observers: Sequence[Observer]) -> Service:
        settings = self.settings
        picture = partial(decode, max_pixels=settings.max_pixels)
        return Service(decide, picture, self._prior, settings.network_reserve, observers)

    async def _start_axon(self, stack: AsyncExitStack) -> Server:
        settings = self.settings
        observers: list[Observer] = [self.metrics.answered, self.recent.add, log_answer]
        if settings.trace:
            trace = TraceFile(settings.trace)
            stack.callback(trace.close)
            observers.append(trace.answered)
        decide: Decide = self.engine.decide
        if self.learning:
            decide = self.learning.decide
            observers.append(self.learning.observe)
        replay = ReplayStore(settings.state / "replay")
        stack.callback(replay.close)
        rules = Rules(settings.force_validator_permit, settings.allow_non_registered, settings.minimum_stake)
        axon = Axon(
            Gate(self.address, self.view, verify_signature, replay, rules),
            self._service(decide, observers).answer,
            self._service(self.engine.decide_cheap, observers).answer,
            Limits(body=settings.max_body_bytes, in_flight=settings.max_in_flight, waiting=settings.max_waiting),
            prior=self._prior,
            observe=self.metrics.asked,
        )
        self.metrics.in_flight.set_function(lambda: axon.lanes.taken)
        self.metrics.waiting.set_function(lambda: len(axon.lanes))
        server = Server(axon, self._host, settings.axon_port, axon.limits, self.metrics.refused)
        try:
            await server.start()
        except OSError as error:
            raise _cannot_listen("axon", self._host, settings.axon_port, error) from None
        stack.push_async_callback(server.stop)
        return server

    def _open_learning(self, stack: AsyncExitStack) -> Learning | None:
        settings = self.settings
        if not settings.journal:
            return None
        keep = Keep(enabled=settings.pictures_gb > 0, quota_gb=settings.pictures_gb)
        habits = Habits(keep, correction=settings.prevalence_correction, canary=settings.canary)
        try:
            learning = Learning(
                settings.state, self.engine.decide, lambda: self.engine.profile, habits, revision(), self.parts
            )
        except JournalError as error:
            log.error("serving without a journal: %s", error)
            return None
        stack.callback(learning.close)
        self.metrics.journaling(lambda: asdict(learning.counts))
        return learning

    def _open_watch(self) -> Watch:
        """Knows at once what the last run knew; asks the chain only once it is started."""
        settings = self.settings
        chain = open_chain(settings.network, settings.subnet, self.address, settings.chain_endpoint)
        remedy = register_command(settings.subnet, settings.network, settings.wallet_name, settings.wallet_hotkey)
        watch = Watch(chain, self.hotkey, store=settings.state / "subnet.json", remedy=remedy)
        watch.restore()
        return watch

    async def _start_watch(self) -> None:
        """See the chain once, then go on watching it. Raises UsageError when it shows that we are not registered."""
        watch, settings = self.watch, self.settings
        if address := await self._reached_at():
            watch.announce(*address)
        await asyncio.to_thread(watch.step)
        if watch.snapshot.taken_at and not watch.failure and watch.me is None and not settings.allow_non_registered:
            raise UsageError(
                f"{self.address} is not registered on subnet {settings.subnet}. Register it: {watch.remedy}"
            )
        watch.start()
        self.metrics.chain_age.set_function(lambda: watch.age)
        self.metrics.chain_block.set_function(lambda: watch.snapshot.block)
        log.info("%s serves subnet %d on port %d", self.address, settings.subnet, self.server.port)
        if settings.dashboard_token or loopback(settings.health_host):
            log.info("dashboard: http://%s:%d/", settings.health_host, settings.health_port)

    async def _reached_at(self) -> tuple[str, int] | None:
        """(ip, port) to announce; None leaves the address that the chain showed last."""
        settings, me = self.settings, self.watch.me
        port = settings.external_port or self.server.port
        if known := settings.external_ip or self._host:
            return known, port
        try:
            return await asyncio.to_thread(own_address), port
        except ChainError as error:
            if me is None or not me.port:
                raise
            log.warning("%s; the chain goes on showing %s port %d", error, me.ip, me.port)
            return None

    async def _stay_reachable(self) -> None:
        """Announce the address that a line at home was given meanwhile, unless the operator named one. It is believed
        when it was told twice in a row: one service of several may see us elsewhere, or by IPv6."""
        last = ""
        while not (self.settings.external_ip or self._host):
            await asyncio.sleep(ADDRESS_SECONDS)
            try:
                told = await asyncio.to_thread(own_address)
            except ChainError as error:
                log.debug("the address is not looked at: %s", error)
                continue
            if told == last:
                self.watch.announce(told, self.settings.external_port or self.server.port)
            last = told

    async def _start_health(self, stack: AsyncExitStack) -> None:
        settings = self.settings
        token = settings.dashboard_token.get_secret_value() if settings.dashboard_token else ""
        reviewed = self.learning if token or loopback(settings.health_host) else None
        dashboard = Dashboard(
            self.recent,
            self.metrics,
            self.readiness,
            self.engine.state,
            self.view,
            settings.health_host,
            token,
            review=reviewed is not None,
        )
        pages = dashboard.routes()
        if reviewed:
            pages += reviewed.routes(dashboard.guarded)
        app = health_app(self.readiness, self.metrics.exposition, pages)
        server = HealthServer(app, settings.health_host, settings.health_port)
        try:
            await server.start()
        except OSError as error:
            raise _cannot_listen("health", settings.health_host, settings.health_port, error) from None
        stack.push_async_callback(server.stop)

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._begin_reload)

    def _stop(self) -> None:
        if self.stopping.is_set():  # asked twice: the operator will not wait
            os._exit(1)
        log.info("stopping: finishing the requests at work")
        faulthandler.dump_traceback_later(STOP_SECONDS, exit=True)  # needs neither this loop nor the interpreter's lock
        self.stopping.set()

    async def _load(self) -> None:
        """Load the models and send the canary through them. Raises UsageError when a required tier cannot be had."""
        began = time.monotonic()
        try:
            await self.engine.start()
        except ModelError as error:
            raise UsageError(str(error)) from None
        await self.engine.canary()  # before `loaded`: /readyz must not say yes without it
        self.loaded.set()
        systemd.notify("READY=1")
        log.info("models are loaded, the canary went through: %.1f s", time.monotonic() - began)

    async def _until_stopped(self, *starting: asyncio.Task[None]) -> None:
        """Until a signal, whatever is still starting; raises what starting raised."""
        every = systemd.watchdog_seconds()
        stopped = asyncio.create_task(self.stopping.wait())
        waited: set[asyncio.Task[Any]] = {stopped, *starting}
        while not stopped.done():
            done, _ = await asyncio.wait(waited, timeout=every, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopped}:
                waited.discard(task)
                await task
            systemd.notify("WATCHDOG=1")
        systemd.notify("STOPPING=1")

    def _begin_reload(self) -> None:
        self._reloading = asyncio.create_task(self._reload())  # held, so that it is not collected halfway

    async def _reload(self) -> None:
        """Serve what is in force now; what cannot be used is refused, and the miner goes on with what it serves."""
        await self.loaded.wait()
        chosen = self._chosen()
        if chosen is None:
            return
        try:
            await self.engine.replace(chosen.profile, self.parts.learned(chosen))
        except (ModelError, ValueError) as error:
            self._refuse(chosen.version, error)
            return
        self.parts.chosen = chosen
        self.metrics.serving(chosen.profile, chosen.version)
        log.info("served from now on: %s", f"version {chosen.version}" if chosen.version else "the own profile")

    def _chosen(self) -> Chosen | None:
        """What is in force; None, with the reason in the log and the audit, when it cannot be used."""
        self._seen = self.versions.current()
        try:
            return in_force(self.settings)
        except (UsageError, ModelError, ValueError) as error:
            self._refuse(self._seen, error)
            return None

    def _refuse(self, version: str, error: Exception) -> None:
        log.error("%s is refused, the old one stays: %s", f"version {version}" if version else "the profile", error)
        if version:
            self.versions.unusable(version, str(error))

    async def _tidy(self) -> None:
        """Give back the memory that pictures took for a moment."""
        while True:
            await asyncio.sleep(TIDY_SECONDS)
            await asyncio.to_thread(heap.give_back)

    async def _follow(self) -> None:
        """Take up what `improve` promotes, stages or rolls back beside us, and look for drift now and then."""
        looked = time.monotonic()
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            try:
                if self.versions.current() != self._seen:
                    await self._reload()
                if self.learning is None:
                    continue
                learning = self.learning
                learning.follow(self.profile)
                if time.monotonic() - looked > DRIFT_SECONDS:
                    looked = time.monotonic()
                    await asyncio.to_thread(learning.refresh)
                self.metrics.drifting(learning.drift, [alarm.kind for alarm in learning.alarms], learning.watch.shift)
            except Exception as error:  # a disk that fails for a moment must not end this for good
                log.error("versions and drift could not be looked at: %s: %s", type(error).__name__, error)


def _cannot_listen(name: str, host: str | None, port: int, error: OSError) -> UsageError:
    held = error.errno in {errno.EADDRINUSE, errno.EACCES}
    place = f"{name} port {port}" if held else f"{name} address {host}"
    flag = f"--{name}-port" if held else f"--{name}-host"
    return UsageError(f"{place}: {str(error.strerror).partition(' (')[0]}; choose another: {flag}")


def _hotkey(settings: Settings) -> Keypair:
    if settings.network == "mock":
        return throwaway()
    return load_hotkey(settings.wallet_path, settings.wallet_name, settings.wallet_hotkey)


if __name__ == "__main__":
    leave(main())
