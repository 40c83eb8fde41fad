"""Who is admitted, who is refused, in which order, and what is remembered of whom. Real sr25519 signatures."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from bittensor_wallet import Keypair
from hypothesis import given, settings
from hypothesis import strategies as st

from miner import gate
from miner.axon import verify_signature
from miner.gate import SECOND, Admission, Claim, Gate, Rate, Refusal, Rules
from miner.metagraph import Neuron, Snapshot
from miner.replay_store import ReplayStore
from tests.edge.signing import Dendrite

NOW = 1_795_435_661 * SECOND
MINER, VALIDATOR, WHALE, NEIGHBOUR, STRANGER = (Keypair.create_from_uri(f"//{name}") for name in "mvwns")


def neuron(uid: int, key: Keypair, stake: float, permit: bool) -> Neuron:
    return Neuron(uid, key.ss58_address, stake, permit)


NEURONS = (neuron(1, VALIDATOR, 5000.0, True), neuron(2, WHALE, 90_000.0, True), neuron(3, NEIGHBOUR, 10.0, False))
SNAPSHOT = Snapshot(72, block=1, taken_at=1.0, neurons={one.hotkey: one for one in NEURONS})


class Clock:
    """Unix time in nanoseconds, moved by hand."""

    def __init__(self, now: int = NOW) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)


def make(
    rules: Rules | None = None, clock: Clock | None = None, snapshot: Callable[[], Snapshot] = lambda: SNAPSHOT
) -> Gate:
    return Gate(MINER.ss58_address, snapshot, verify_signature, ReplayStore(), rules, clock or Clock())


def headers(key: Keypair = VALIDATOR, seconds_ago: float = 0.0, **spoiled: str | None) -> dict[str, str]:
    """A dendrite's headers at NOW, with fields replaced, or left out where None."""
    signed = Dendrite(key, MINER.ss58_address).headers(nonce=NOW - int(seconds_ago * SECOND))
    return {name: value for name, value in {**signed, **spoiled}.items() if value is not None}


def admit(fields: dict[str, str], at: Gate | None = None) -> Admission:
    return (at or make()).admit(gate.read_claim(fields))


def test_a_validator_is_admitted_with_what_the_chain_knows_of_it() -> None:
    assert admit(headers()) == Admission(
        VALIDATOR.ss58_address, uid=1, stake=5000.0, validator_permit=True, timeout=9.0
    )


# Who it is.

FORGED = {
    "unsigned": ({"bt_header_dendrite_signature": None}, gate.MissingField),
    "empty signature": ({"bt_header_dendrite_signature": ""}, gate.MissingField),
    "garbage signature": ({"bt_header_dendrite_signature": "garbage"}, gate.BadSignature),
    "short signature": ({"bt_header_dendrite_signature": "0x00"}, gate.BadSignature),
    "signature of zeroes": ({"bt_header_dendrite_signature": "0x" + "00" * 64}, gate.BadSignature),
    "signature of ones": ({"bt_header_dendrite_signature": "0x" + "ff" * 64}, gate.BadSignature),
    "another uuid": ({"bt_header_dendrite_uuid": "other"}, gate.BadSignature),
    "another nonce": ({"bt_header_dendrite_nonce": str(NOW - 1)}, gate.BadSignature),
    "another body hash": ({"computed_body_hash": "00" * 32}, gate.BadSignature),
    "another caller's name": ({"bt_header_dendrite_hotkey": WHALE.ss58_address}, gate.BadSignature),
    "another receiver": ({"bt_header_axon_hotkey": WHALE.ss58_address}, gate.WrongReceiver),
    "no receiver": ({"bt_header_axon_hotkey": None}, gate.WrongReceiver),
    "no uuid": ({"bt_header_dendrite_uuid": None}, gate.MissingField),
    "no nonce": ({"bt_header_dendrite_nonce": None}, gate.MissingField),
    "nonce in words": ({"bt_header_dendrite_nonce": "soon"}, gate.MalformedField),
    "negative nonce": ({"bt_header_dendrite_nonce": "-5"}, gate.MalformedField),
    "endless nonce": ({"bt_header_dendrite_nonce": "9" * 5000}, gate.MalformedField),
    "old SDK": ({"bt_header_dendrite_version": "7001000"}, gate.OldProtocol),
}


@pytest.mark.parametrize("name", FORGED)
def test_what_was_not_signed_by_the_caller_is_refused_with_401(name: str) -> None:
    spoiled, expected = FORGED[name]
    with pytest.raises(expected) as refusal:
        admit(headers(**spoiled))
    assert refusal.value.status == 401


def test_a_signature_for_another_miner_is_refused() -> None:
    for_another = Dendrite(VALIDATOR, STRANGER.ss58_address).headers(nonce=NOW)
    with pytest.raises(gate.WrongReceiver):
        admit(for_another)
    with pytest.raises(gate.BadSignature):
        admit({**for_another, "bt_header_axon_hotkey": MINER.ss58_address})


def test_a_version_that_is_missing_or_strange_decides_nothing() -> None:
    assert admit(headers(bt_header_dendrite_version=None)).uid == 1
    assert admit(headers(bt_header_dendrite_version="new")).uid == 1


# Whether it may ask.


@pytest.mark.parametrize(
    ("hotkey", "expected"),
    [
        (None, gate.NotRegistered),
        ("", gate.NotRegistered),
        ("None", gate.NotRegistered),
        ("null", gate.NotRegistered),
        ("5Nobody", gate.NotRegistered),
        (STRANGER.ss58_address, gate.NotRegistered),
        (NEIGHBOUR.ss58_address, gate.NoPermit),
    ],
)
def test_unknown_null_and_permitless_hotkeys_get_403(hotkey: str | None, expected: type[Refusal]) -> None:
    with pytest.raises(expected) as refusal:
        admit(headers(bt_header_dendrite_hotkey=hotkey))
    assert refusal.value.status == 403


def test_permits_are_not_asked_for_when_the_operator_says_so() -> None:
    assert admit(headers(NEIGHBOUR), make(Rules(force_validator_permit=False))).uid == 3


def test_a_least_stake_can_be_asked_for() -> None:
    rich_only = make(Rules(minimum_stake=10_000.0))
    assert admit(headers(WHALE), rich_only).uid == 2
    with pytest.raises(gate.LowStake) as refusal:
        admit(headers(VALIDATOR), rich_only)
    assert refusal.value.status == 403


def test_any_signed_caller_is_served_in_the_test_mode_and_no_unsigned_one() -> None:
    open_gate = make(Rules(allow_non_registered=True))
    assert admit(headers(STRANGER), open_gate) == Admission(STRANGER.ss58_address, None, 0.0, False, 9.0)
    assert admit(headers(NEIGHBOUR), open_gate).uid == 3
    with pytest.raises(gate.BadSignature):
        admit(headers(STRANGER, bt_header_dendrite_hotkey="5Nobody"), open_gate)


def test_a_caller_deregistered_midway_gets_403() -> None:
    views = [SNAPSHOT, Snapshot(72)]
    changing = make(snapshot=lambda: views[0])
    assert admit(headers(), changing).uid == 1
    views.pop(0)
    with pytest.raises(gate.NotRegistered):
        admit(headers(seconds_ago=0.1), changing)


def test_a_caller_deregistered_while_its_body_was_on_the_way_gets_403() -> None:
    views = [SNAPSHOT, Snapshot(72)]
    changing = make(snapshot=lambda: views[0])
    claim = gate.read_claim(headers())
    changing.screen(claim)
    views.pop(0)
    with pytest.raises(gate.NotRegistered):
        changing.prove(claim)


# When it was signed.


@pytest.mark.parametrize("ago", [-2.0, -1.0, 0.0, 3.0, 12.9])
def test_clocks_may_differ_a_little(ago: float) -> None:
    assert admit(headers(seconds_ago=ago)).uid == 1


@pytest.mark.parametrize("ago", [13.1, 14.0, 30.0, 60.0])
def test_a_nonce_too_old_is_refused_naming_the_clock(ago: float) -> None:
    with pytest.raises(gate.NonceTooOld, match="clock"):
        admit(headers(seconds_ago=ago))


@pytest.mark.parametrize("ahead", [2.1, 30.0, 31_536_000.0])
def test_a_nonce_ahead_is_refused_naming_the_clock_and_the_wait(ahead: float) -> None:
    with pytest.raises(gate.NonceAhead, match="clock") as refusal:
        admit(headers(seconds_ago=-ahead))
    assert refusal.value.wait == pytest.approx(ahead - 2.0)


@pytest.mark.parametrize("claimed", ["1000000", "1e9", "inf", "12"])
def test_a_huge_unsigned_timeout_does_not_widen_the_window(claimed: str) -> None:
    with pytest.raises(gate.NonceTooOld):
        admit(headers(seconds_ago=14.0, timeout=claimed))


def test_a_caller_that_waits_less_has_a_shorter_window() -> None:
    assert admit(headers(seconds_ago=4.9, timeout="1")).uid == 1
    with pytest.raises(gate.NonceTooOld):
        admit(headers(seconds_ago=5.1, timeout="1"))


@pytest.mark.parametrize(
    ("claimed", "believed"),
    [
        ("0", 1.0),
        ("-1", 1.0),
        ("nan", 9.0),
        ("1e9", 12.0),
        ("inf", 12.0),
        ("-inf", 1.0),
        ("9.0", 9.0),
        ("soon", 9.0),
        (None, 9.0),
    ],
)
def test_the_unsigned_timeout_is_believed_within_1_and_12_seconds(claimed: str | None, believed: float) -> None:
    assert admit(headers(timeout=claimed)).timeout == believed


# Replays.


def test_an_exact_replay_is_refused_and_the_validator_is_served_next() -> None:
    clock = Clock()
    one = make(clock=clock)
    admit(headers(), one)
    for timeout in ("9.0", "1000000"):
        with pytest.raises(gate.Replayed):
            admit(headers(timeout=timeout), one)
    clock.advance(0.001)
    assert admit(headers(seconds_ago=-0.001), one).uid == 1


def test_a_fresh_signature_over_the_same_message_is_a_replay_too() -> None:
    one, first, second = make(), headers(), headers()
    assert first["bt_header_dendrite_signature"] != second["bt_header_dendrite_signature"]
    admit(first, one)
    with pytest.raises(gate.Replayed):
        admit(second, one)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 12_000_000_000), unique=True, min_size=2, max_size=8), st.randoms(use_true_random=False))
def test_concurrent_requests_of_one_dendrite_pass_in_any_order_and_once(ages: list[int], random: st.DrawFn) -> None:
    one = make()
    requests = [headers(seconds_ago=age / SECOND) for age in ages]
    random.shuffle(requests)
    for request in requests:
        assert admit(request, one).uid == 1
    for request in requests:
        with pytest.raises(gate.Replayed):
            admit(request, one)


def test_forged_requests_in_a_validators_name_cost_it_nothing() -> None:
    rules = Rules(validator_rate=Rate(per_second=0.0, burst=1.0))
    store = ReplayStore()
    one = Gate(MINER.ss58_address, lambda: SNAPSHOT, verify_signature, store, rules, Clock())
    forged = headers(bt_header_dendrite_signature="0x" + "00" * 64)
    for _ in range(200):
        with pytest.raises(gate.BadSignature):
            admit(forged, one)
    assert len(store) == 0
    assert admit(headers(), one).uid == 1  # the one token is still there


def test_replays_of_a_validators_traffic_cost_it_nothing() -> None:
    one = make(Rules(validator_rate=Rate(per_second=0.0, burst=2.0)))
    admit(headers(), one)
    for _ in range(50):
        with pytest.raises(gate.Replayed):
            admit(headers(), one)
    assert admit(headers(seconds_ago=0.5), one).uid == 1


# Budgets.


def test_each_hotkey_has_its_own_budget_refilled_over_time() -> None:
    clock = Clock()
    rules = Rules(force_validator_permit=False, other_rate=Rate(per_second=1.0, burst=3.0))
    one = make(rules, clock)
    for number in range(3):
        admit(headers(NEIGHBOUR, seconds_ago=number / 100), one)
    with pytest.raises(gate.TooManyRequests) as refusal:
        admit(headers(NEIGHBOUR, seconds_ago=0.5), one)
    assert refusal.value.status == 429
    assert admit(headers(VALIDATOR), one).uid == 1
    clock.advance(1.0)
    assert admit(headers(NEIGHBOUR, seconds_ago=0.6), one).uid == 3
    clock.advance(-5.0)  # a clock set back takes nothing away
    with pytest.raises(gate.TooManyRequests):
        admit(headers(NEIGHBOUR, seconds_ago=5.7), one)


def test_validators_have_a_far_larger_budget_than_others() -> None:
    rules = Rules()
    assert rules.validator_rate.burst >= 100 * rules.other_rate.burst
    assert rules.validator_rate.per_second >= 100 * rules.other_rate.per_second


def test_in_the_test_mode_a_stranger_has_the_validators_budget() -> None:
    rates = {"validator_rate": Rate(per_second=0.0, burst=2.0), "other_rate": Rate(per_second=0.0, burst=1.0)}
    one = make(Rules(allow_non_registered=True, **rates))
    for ago in (0.0, 0.1):
        admit(headers(STRANGER, seconds_ago=ago), one)
    with pytest.raises(gate.TooManyRequests):
        admit(headers(STRANGER, seconds_ago=0.2), one)


def test_the_budgets_of_ten_thousand_strangers_are_forgotten_together() -> None:
    rules = Rules(allow_non_registered=True, validator_rate=Rate(per_second=0.0, burst=1.0))
    one = Gate(MINER.ss58_address, lambda: SNAPSHOT, lambda *_: True, ReplayStore(), rules, Clock())

    def ask(hotkey: str, message: str) -> None:
        one.admit(Claim(hotkey, MINER.ss58_address, NOW, message.encode(), "00" * 64, 9.0))

    for number in range(10_001):
        ask(str(number), f"the first of {number}")
    with pytest.raises(gate.TooManyRequests):
        ask("0", "the second of 0")
    ask("one more", "the first of one more")
    ask("0", "the third of 0")


def test_priority_puts_permits_before_stake() -> None:
    rich_neighbour = Admission("n", 3, 1e9, False, 9.0)
    poor_validator = Admission("v", 1, 1.0, True, 9.0)
    assert poor_validator.priority > rich_neighbour.priority


# Laws.

text = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=80)
FIELDS = sorted(headers())


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), text | st.none(), max_size=6))
def test_whatever_the_headers_hold_the_gate_admits_or_refuses_and_nothing_else(spoiled: dict[str, str | None]) -> None:
    """Fields outside the signed message (and the receiver) may change; anything else must be refused."""
    fields = headers(**spoiled)
    try:
        admission = admit(fields)
    except Refusal as refusal:
        assert refusal.status in (401, 403) and str(refusal).isprintable()  # noqa: PT017, PT018  (either may happen)
    else:
        original = headers()
        signed = [name for name in FIELDS if name.split("_")[-1] in ("nonce", "uuid", "hotkey", "hash")]
        assert all(fields.get(name) == original[name] for name in signed)
        assert admission.hotkey == VALIDATOR.ss58_address
        assert 1.0 <= admission.timeout <= 12.0


@given(st.floats() | st.just(math.nan))
def test_any_float_of_a_timeout_becomes_one_within_bounds(timeout: float) -> None:
    assert 1.0 <= admit(headers(timeout=str(timeout))).timeout <= 12.0


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60), st.binary(max_size=100), st.binary(max_size=70), st.sampled_from(["sr25519", "ed25519"]))
def test_no_input_makes_the_signature_check_raise(hotkey: str, message: bytes, signature: bytes, scheme: str) -> None:
    assert verify_signature(hotkey, message, signature, scheme) is False
    assert verify_signature(VALIDATOR.ss58_address, message, signature.ljust(64, b"\x80")[:64], scheme) is False
