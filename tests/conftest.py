"""What every test stands on: no setting of the person who runs them, no file and no model of theirs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from miner.chain import logging_kept
from models import catalog

with logging_kept():  # the SDK silences every logger there is when it is imported: let that happen before any test
    import bittensor  # noqa: F401


# The same examples every time, and no word about the machine's pace: what fails, fails for whoever runs it next. Others
# are looked for with `pytest --hypothesis-profile=explore`.
settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("same")


@pytest.fixture(autouse=True)
def _clean_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    official = {"IMAGE_DETECTOR", "NETUID", "SUBTENSOR", "WALLET", "BLACKLIST", "MODEL_URL", "PROXY_CLIENT_URL"}
    for name in list(os.environ):
        if name.startswith(("MINER_", *official)):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(catalog, "_own", {})  # models of an operator's own that another test made known
