"""SECURITY.md promises only what a test shows."""

from __future__ import annotations

import pathlib
import re
from dataclasses import fields

from miner.axon import Limits
from miner.gate import Rules
from miner.replay_store import ReplayStore
from tests.edge.cases import attackers, golden
from tests.test_axon import STOCK

HERE = pathlib.Path(__file__).parent
TEXT = (HERE.parent / "SECURITY.md").read_text()


def test_every_named_test_exists() -> None:
    named = re.findall(r"`((?:\w+/)*test_\w+\.py)::(test_\w+)`", TEXT)
    assert len(named) >= 30
    for file, test in named:
        assert re.search(rf"^(async )?def {test}\(", (HERE / file).read_text(), re.MULTILINE), f"{file}::{test}"


def test_the_limits_are_those_in_force() -> None:
    limits, rules = Limits(), Rules()
    assert f"{limits.head // 1024} KiB and {limits.headers} headers, complete {limits.head_seconds:.0f} s" in TEXT
    assert f"{limits.body // 2**20} MiB, {limits.body_grace:.0f} s" in TEXT
    assert f"at {limits.body_rate // 1024:.0f} KiB a second at least, {limits.body_seconds:.0f} s at most" in TEXT
    assert f"at most {limits.chunks:,} chunks" in TEXT
    assert f"| connections | {limits.connections};" in TEXT
    assert f"behind the one at work | {limits.pipelined};" in TEXT
    assert f"{limits.idle_seconds:.0f} s |" in TEXT
    assert f"up to {rules.oldest:.0f} s old and {rules.future:.0f} s ahead" in TEXT
    assert f"one up to {rules.future + limits.patience:.0f} s ahead" in TEXT
    assert f"validators {rules.validator_rate.per_second:.0f} a second" in TEXT
    assert f"others {rules.other_rate.per_second:.0f} ({rules.other_rate.burst:.0f} at once)" in TEXT
    assert f"| {limits.in_flight}, {limits.waiting};" in TEXT
    assert f"{ReplayStore()._capacity:,} messages" in TEXT


def test_no_limit_is_without_bound() -> None:
    assert all(0 < getattr(Limits(), field.name) < 2**25 for field in fields(Limits))


def test_the_generated_list_has_every_recorded_case_and_every_kind_of_attacker() -> None:
    cases, rows = "\n".join(golden()), "\n".join(attackers())
    assert all(f"| {name} |" in cases for name in STOCK["cases"])
    assert all(f"| ({letter}) " in rows for letter in "abcd")
    claims = TEXT.partition("## What an attacker")[2].partition("## While the miner starts")[0]
    assert set(re.findall(r"test_\w+\.py::test_\w+", rows)) == set(re.findall(r"test_\w+\.py::test_\w+", claims))
