"""A running miner goes on looking for promoted versions, whatever one look meets."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from neurons import miner


async def test_a_look_that_fails_is_not_the_last(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(miner, "FOLLOW_SECONDS", 0.001)
    reloaded, looks = asyncio.Event(), iter([OSError("the disk is gone"), "0001"])

    def current() -> str:
        found = next(looks)
        if isinstance(found, OSError):
            raise found
        return found

    async def reload() -> None:
        reloaded.set()
        await asyncio.Event().wait()

    running = SimpleNamespace(versions=SimpleNamespace(current=current), _seen="", _reload=reload, learning=None)
    following = asyncio.create_task(miner.Miner._follow(cast(miner.Miner, running)))
    async with asyncio.timeout(60.0):
        await reloaded.wait()
    following.cancel()
    assert "OSError: the disk is gone" in caplog.text
