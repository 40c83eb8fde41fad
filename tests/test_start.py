"""The miner's first moments and its last: ports before models, readiness after the canary, signals while it loads."""

from __future__ import annotations

import asyncio
import faulthandler
import json
import os
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

import neurons.miner
from cascade.engine import Engine
from miner.assembly import Parts
from miner.chain import ChainAway, MemoryChain
from miner.commands.mock import reserved_ports
from miner.metagraph import Snapshot
from miner.mocknet import dev_validator
from miner.settings import Settings, UsageError
from models.base import BadWeights
from models.fake import Fake, hang
from tests.edge.pictures import jpeg, noise, text
from tests.edge.signing import Dendrite
from tests.edge.wire import Response, ask, until

PICTURE = text(jpeg(noise()))


@pytest.fixture
def hindered(monkeypatch: pytest.MonkeyPatch) -> dict[str, Fake]:
    """The models that the next miner gets, by key; a test puts them in."""
    fakes: dict[str, Fake] = {}

    def make(parts: Parts) -> Engine:
        return Engine(parts.chosen.profile, fakes)

    monkeypatch.setattr(neurons.miner, "make_engine", make)
    return fakes


class Started:
    """A miner of this process, running in a task."""

    def __init__(self, directory: Path, axon: int, health: int, **more: Any) -> None:
        settings = Settings(
            network="mock", axon_port=axon, health_port=health, state_dir=directory, journal=False, **more
        )
        self.miner = neurons.miner.Miner(settings)
        self.task = asyncio.create_task(self.miner.run())
        self._axon, self._health = axon, health

    async def readyz(self) -> tuple[int, dict[str, Any]]:
        async with httpx.AsyncClient(timeout=60.0) as http:
            answer = await http.get(f"http://127.0.0.1:{self._health}/readyz")
        return answer.status_code, answer.json()

    async def ask(self) -> Response:
        return await ask(self._axon, Dendrite(dev_validator(0), self.miner.address).request(PICTURE).bytes())

    async def listening(self) -> None:
        """Come back once both ports answer."""
        async with asyncio.timeout(60.0):
            while True:
                try:
                    if (await self.ask()).status == 200 and await self.readyz():
                        return
                except (OSError, httpx.ConnectError):
                    await asyncio.sleep(0.01)


@asynccontextmanager
async def started(directory: Path, **more: Any) -> AsyncIterator[Started]:
    """more: settings beside the usual ones."""
    with reserved_ports(2) as ports:
        one = Started(directory, *ports, **more)
        try:
            yield one
        finally:
            one.miner.stopping.set()
            await asyncio.gather(one.task, return_exceptions=True)
            faulthandler.cancel_dump_traceback_later()  # a miner that was told to stop ends its process, here this one


async def test_requests_are_answered_while_models_load_and_ready_is_said_after_the_canary(
    hindered: dict[str, Fake], tmp_path: Path
) -> None:
    """Figure 34: not ready before."""
    embedded_may, signs_may, canary_may = threading.Event(), threading.Event(), threading.Event()
    signs = Fake("sign-reading", 0.0, load_fault=hang(signs_may), fault=hang(canary_may))
    hindered |= {"embedded": Fake("embedded", 3.0, load_fault=hang(embedded_may)), "sign-reading": signs}
    async with started(tmp_path) as miner:
        await miner.listening()
        status, said = await miner.readyz()
        assert (status, said["axon"]["port"]) == (503, miner.miner.server.port)
        assert "embedded: loading" in said["reason"]
        assert "starting" in said["reason"]
        assert (await miner.ask()).json["prediction"] == miner.miner.profile.prior

        embedded_may.set()
        await until(lambda: miner.miner.engine.readiness()[0].ready)
        assert (await miner.ask()).json["prediction"] > 0.8
        assert (await miner.readyz())[0] == 503

        signs_may.set()
        await until(lambda: bool(signs.batches))  # the canary is on its way
        assert (await miner.readyz())[0] == 503
        canary_may.set()
        async with asyncio.timeout(60.0):
            await miner.miner.loaded.wait()
        status, said = await miner.readyz()
        assert (status, said["reason"]) == (200, "")


async def test_a_required_tier_that_cannot_be_had_ends_the_miner_with_the_remedy(
    hindered: dict[str, Fake], tmp_path: Path
) -> None:
    def no_weights(frames: object) -> None:
        raise BadWeights("roadwork.onnx is cut short; fetch it again: git checkout models")

    hindered |= {"embedded": Fake("embedded", load_fault=no_weights), "sign-reading": Fake("sign-reading")}
    async with started(tmp_path) as miner:
        with pytest.raises(UsageError, match="fetch it again"):
            await asyncio.wait_for(miner.task, 60.0)


async def test_a_state_directory_that_cannot_be_written_is_told_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    with pytest.raises(UsageError, match=r"state directory .*: Not a directory; .*--state-dir"):
        async with started(tmp_path / "state"):
            pass


async def test_sigterm_while_models_load_ends_within_5_s(hindered: dict[str, Fake], tmp_path: Path) -> None:
    """Figure 23: it ends although they never come. The seconds, and that no worker process outlives it, are measured
    by `python -m benchmarks.reliability --only 23`."""
    never = threading.Event()
    hindered |= {key: Fake(key, load_fault=hang(never)) for key in ("embedded", "sign-reading")}
    async with started(tmp_path) as miner:
        await miner.listening()
        os.kill(os.getpid(), signal.SIGTERM)
        assert await asyncio.wait_for(miner.task, 60.0) == 0
    never.set()


async def test_sigterm_while_the_chain_does_not_answer_ends_the_miner(
    hindered: dict[str, Fake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, closed = threading.Event(), threading.Event()

    class Hanging(MemoryChain):
        def snapshot(self) -> Snapshot:
            asked.set()
            closed.wait()  # as a node's socket: closing it is what ends the question
            raise ChainAway("closed on our side")

        def close(self) -> None:
            closed.set()

    monkeypatch.setattr(neurons.miner, "open_chain", lambda network, netuid, *_: Hanging(netuid))
    hindered |= {"embedded": Fake("embedded", 3.0), "sign-reading": Fake("sign-reading")}
    try:
        async with started(tmp_path) as miner:
            await asyncio.to_thread(asked.wait)
            await asyncio.wait_for(miner.miner.loaded.wait(), 60.0)
            os.kill(os.getpid(), signal.SIGTERM)
            assert await asyncio.wait_for(miner.task, 60.0) == 0
    finally:
        closed.set()


async def test_a_reload_asked_for_while_models_load_waits_for_them(hindered: dict[str, Fake], tmp_path: Path) -> None:
    may = threading.Event()
    hindered |= {"embedded": Fake("embedded", 3.0, load_fault=hang(may)), "sign-reading": Fake("sign-reading")}
    async with started(tmp_path) as miner:
        await miner.listening()
        before = miner.miner.engine.profile
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: hasattr(miner.miner, "_reloading"))
        assert miner.miner.engine.profile is before
        may.set()
        await asyncio.wait_for(miner.miner.loaded.wait(), 60.0)
        await asyncio.wait_for(miner.miner._reloading, 60.0)
        assert miner.miner.engine.profile is not before
        assert (await miner.readyz())[0] == 200


async def test_the_view_of_the_last_run_admits_callers_before_the_chain_answers(tmp_path: Path) -> None:
    settings = Settings(network="mock", state_dir=tmp_path, journal=False)
    first = neurons.miner.Miner(settings)
    await asyncio.to_thread(first.watch.step)
    again = neurons.miner.Miner(settings)
    assert dev_validator(0).ss58_address in again.view().neurons
    assert json.loads((settings.state / "subnet.json").read_text())["netuid"] == settings.subnet


async def test_what_is_announced_is_the_address_that_was_set(hindered: dict[str, Fake], tmp_path: Path) -> None:
    """Figure 30: behind NAT, the address and port outside differ from the bound ones."""
    hindered |= {"embedded": Fake("embedded", 3.0), "sign-reading": Fake("sign-reading")}
    async with started(tmp_path, external_ip="203.0.113.9", external_port=40001) as miner:
        await miner.listening()
        await asyncio.wait_for(miner.miner.loaded.wait(), 60.0)
        miner.miner.watch.step()  # the chain shows what was announced
        me = miner.miner.watch.me
        assert me is not None
        assert (me.ip, me.port) == ("203.0.113.9", 40001)
        assert miner.miner.server.port != 40001
        assert (await miner.readyz())[1]["axon"]["ip"] == "203.0.113.9"


async def test_without_a_public_address_service_the_announced_address_stays(
    hindered: dict[str, Fake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hindered |= {"embedded": Fake("embedded", 3.0), "sign-reading": Fake("sign-reading")}

    def nobody_tells() -> str:
        raise neurons.miner.ChainError("no public service told our address; say it: --external-ip")

    monkeypatch.setattr(neurons.miner, "own_address", nobody_tells)
    monkeypatch.setattr(neurons.miner.Miner, "_host", None)
    miner = neurons.miner.Miner(Settings(network="mock", axon_port=0, health_port=0, state_dir=tmp_path, journal=False))
    with pytest.raises(neurons.miner.ChainError, match="--external-ip"):
        await miner.run()
    miner.watch.announce("203.0.113.7", 8091)
    miner.watch.step()
    miner.watch.step()  # the chain shows it
    assert await miner._reached_at() is None
    assert "goes on showing 203.0.113.7 port 8091" in caplog.text


async def test_an_address_that_changes_is_announced_once_it_was_told_twice(
    hindered: dict[str, Fake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, other, new = "203.0.113.7", "2001:db8::7", "203.0.113.9"
    told = iter([old, other, old, None, new, new, new])
    announced: list[tuple[str, int]] = []
    done = asyncio.Event()

    def own_address() -> str:
        address = next(told, "")
        if address == "":
            loop.call_soon_threadsafe(done.set)
        if not address:
            raise neurons.miner.ChainError("no public service told our address")
        return address

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(neurons.miner, "own_address", own_address)
    monkeypatch.setattr(neurons.miner, "ADDRESS_SECONDS", 0.0)
    monkeypatch.setattr(neurons.miner.Miner, "_host", None)
    miner = neurons.miner.Miner(Settings(network="mock", external_port=40001, state_dir=tmp_path, journal=False))
    monkeypatch.setattr(miner.watch, "announce", lambda *address: announced.append(address))
    looking = asyncio.create_task(miner._stay_reachable())
    await asyncio.wait_for(done.wait(), 60.0)
    looking.cancel()
    assert announced == [(new, 40001), (new, 40001)]


async def test_an_address_that_the_operator_named_is_never_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neurons.miner, "ADDRESS_SECONDS", 0.0)
    monkeypatch.setattr(neurons.miner, "own_address", lambda: pytest.fail("asked"))
    given = Settings(network="mock", external_ip="203.0.113.9", state_dir=tmp_path, journal=False)
    await asyncio.wait_for(neurons.miner.Miner(given)._stay_reachable(), 60.0)
