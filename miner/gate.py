"""Who may ask: pure admit or refuse, from headers alone. No I/O; the clock and the replay store are handed in.

The wire (a bittensor 7.2 to 10.x dendrite): the caller signs, with its sr25519 hotkey, the text

    nonce.dendrite_hotkey.axon_hotkey.uuid.computed_body_hash

where the nonce is unix time in nanoseconds, and sends each part as a header. Since `ImageSynapse` requires no hashed
fields, the body hash is that of nothing: the signature says who asks and when, not what. The time-out and the version
are not signed either; the first is believed within bounds only.

The order matters. What is cheap and needs no trust comes first (fields, receiver, clock, registration), then the
signature, then the replay store, then the token bucket: nothing is remembered or counted under a name that was not
proven, so a forger can neither spend a validator's budget nor get it banned.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from miner.metagraph import Neuron, Snapshot

SECOND = 1_000_000_000  # nanoseconds
FIRST_VERSION = 7_002_000  # SDK 7.2.0: the first whose nonces are unix times


class Refusal(Exception):
    """A request that gets no answer. The message is safe to send back, and begins as a stock axon's does.

    status: of HTTP. reason: label for metrics.
    """

    status = 401
    reason = "refused"
    prefix = "Not Verified with error: "

    def __init__(self, message: str) -> None:
        super().__init__(self.prefix + message)


class MissingField(Refusal):
    """A header that the protocol asks for is not there."""

    reason = "missing-field"


class MalformedField(Refusal):
    """A header cannot be what it says it is."""

    reason = "malformed-field"


class WrongReceiver(Refusal):
    """The request was signed for another miner."""

    reason = "wrong-receiver"


class OldProtocol(Refusal):
    """The caller's SDK is from before nonces were times."""

    reason = "old-protocol"


class NonceTooOld(Refusal):
    """Signed too long ago, or the caller's clock is behind."""

    reason = "nonce-too-old"


class NonceAhead(Refusal):
    """Signed in the future: the caller's clock is ahead. wait: seconds until it would be accepted."""

    reason = "nonce-ahead"

    def __init__(self, message: str, wait: float) -> None:
        super().__init__(message)
        self.wait = wait


class BadSignature(Refusal):
    """The signature is not the caller's over this message."""

    reason = "bad-signature"


class Replayed(Refusal):
    """This very message was accepted before."""

    reason = "replayed"


class Forbidden(Refusal):
    """The caller is who it says, or need not prove it: it may not ask in either case."""

    status = 403
    reason = "forbidden"
    prefix = "Forbidden. Key is blacklisted: "


class NotRegistered(Forbidden):
    """The hotkey is not on the subnet."""

    reason = "not-registered"


class NoPermit(Forbidden):
    """The hotkey holds no validator permit."""

    reason = "no-permit"


class LowStake(Forbidden):
    """The hotkey holds less stake than the operator asks for."""

    reason = "low-stake"


class TooManyRequests(Refusal):
    """The caller's own budget is spent."""

    status = 429
    reason = "too-many-requests"
    prefix = ""


class UnknownPath(Refusal):
    """Nothing is served there."""

    status = 404
    reason = "unknown-path"
    prefix = ""


class WrongMethod(Refusal):
    """Only POST asks."""

    status = 405
    reason = "wrong-method"
    prefix = ""


class TooSlow(Refusal):
    """The body did not arrive in time."""

    status = 408
    reason = "too-slow"
    prefix = ""


class TooLarge(Refusal):
    """The body is larger than the limit."""

    status = 413
    reason = "too-large"
    prefix = ""


class Crowded(Refusal):
    """Too much is being read from callers that are not proven yet."""

    status = 503
    reason = "crowded"
    prefix = ""


class Stopping(Refusal):
    """The miner stops, and the request was not read or judged yet."""

    status = 503
    reason = "stopping"
    prefix = ""


class Fault(Refusal):
    """An error of ours kept the request from being judged."""

    status = 500
    reason = "fault"
    prefix = ""


@dataclass(frozen=True, slots=True)
class Rate:
    """A token bucket: `burst` requests at once, refilled at `per_second`."""

    per_second: float
    burst: float


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator asks of callers, and how far clocks may differ. Times in seconds.

    past: the SDK's own allowance for a nonce's age, on top of the caller's time-out.
    oldest: the greatest age accepted, whatever the unsigned time-out header claims: past + the validators' 9 s.
    allow_non_registered: serve any signed caller, at the validators' rate: for tests, never on mainnet.
    """

    force_validator_permit: bool = True
    allow_non_registered: bool = False
    minimum_stake: float = 0.0
    future: float = 2.0
    past: float = 4.0
    oldest: float = 13.0
    validator_rate: Rate = Rate(per_second=200.0, burst=2000.0)
    other_rate: Rate = Rate(per_second=2.0, burst=10.0)
    shortest_timeout: float = 1.0
    longest_timeout: float = 12.0
    usual_timeout: float = 9.0


@dataclass(frozen=True, slots=True)
class Claim:
    """What a request says of itself, before any of it is believed.

    nonce: unix time in nanoseconds. message: the signed bytes. signature: hexadecimal, with or without 0x.
    timeout: seconds the caller says it waits, NaN when it does not say. past: greatest age of the nonce in seconds,
    None for the rules' own (4 s + time-out). scheme: sr25519 or ed25519.
    """

    hotkey: str
    receiver: str
    nonce: int
    message: bytes
    signature: str
    timeout: float
    past: float | None = None
    scheme: str = "sr25519"


@dataclass(frozen=True, slots=True)
class Admission:
    """A caller that proved who it is and may ask. timeout: seconds it waits, clamped. stake: in TAO, 0 if unknown."""

    hotkey: str
    uid: int | None
    stake: float
    validator_permit: bool
    timeout: float

    @property
    def priority(self) -> tuple[bool, float]:
        """Greater is served first: permit holders before others, then by stake."""
        return (self.validator_permit, self.stake)


class Store(Protocol):
    """Remembers accepted messages; see `miner.replay_store.ReplayStore`."""

    def add(self, message: bytes, nonce: int, now: int) -> bool: ...


Verify = Callable[[str, bytes, bytes, str], bool]  # hotkey (SS58), message, signature, scheme


def read_seconds(raw: str | None) -> float:
    """A header's number of seconds; NaN when there is none or it is no number."""
    try:
        return float(raw) if raw else math.nan
    except ValueError:
        return math.nan


def read_nonce(raw: str | None) -> int:
    """A header's nonce. Raises MissingField or MalformedField."""
    if not raw:
        raise MissingField("Missing Nonce")
    if len(raw) > 20 or not raw.isdecimal():
        raise MalformedField("the nonce is not a unix time in nanoseconds")
    return int(raw)


def read_claim(headers: Mapping[str, str]) -> Claim:
    """The claim in a dendrite's headers (lower-case names).

    Raises NotRegistered without a hotkey, MissingField, MalformedField or OldProtocol.
    """
    hotkey = headers.get("bt_header_dendrite_hotkey")
    if not hotkey:
        raise NotRegistered("no hotkey.")
    nonce = read_nonce(headers.get("bt_header_dendrite_nonce"))
    version = headers.get("bt_header_dendrite_version", "")
    if version.isdecimal() and int(version[:12]) < FIRST_VERSION:
        raise OldProtocol(f"expected a dendrite of SDK version {FIRST_VERSION} or later, got an older one: update it")
    signature = headers.get("bt_header_dendrite_signature")
    if not signature:
        raise MissingField("Missing Signature")
    uuid = headers.get("bt_header_dendrite_uuid")
    if not uuid:
        raise MissingField("Missing uuid")
    receiver = headers.get("bt_header_axon_hotkey", "")
    body_hash = headers.get("computed_body_hash", "")
    message = f"{nonce}.{hotkey}.{receiver}.{uuid}.{body_hash}".encode()
    return Claim(hotkey, receiver, nonce, message, signature, read_seconds(headers.get("timeout")))


class Gate:
    """Admits or refuses. One per miner; used by one thread.

    identity: our own hotkey (SS58). snapshot: the latest view of the subnet. verify: checks one signature, and
    returns False for what cannot be one. clock: unix time in nanoseconds.
    """

    def __init__(
        self,
        identity: str,
        snapshot: Callable[[], Snapshot],
        verify: Verify,
        replay: Store,
        rules: Rules | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.identity = identity
        self._snapshot = snapshot
        self._verify = verify
        self._replay = replay
        self._rules = rules or Rules()
        self._clock = clock
        self._buckets: dict[str, tuple[float, int]] = {}  # hotkey -> tokens left, when

    def admit(self, claim: Claim) -> Admission:
        """Screen and prove in one go. Raises a Refusal."""
        self.screen(claim)
        return self.prove(claim)

    def screen(self, claim: Claim) -> None:
        """All that needs no cryptography and leaves no trace: receiver, registration, clock. Raises a Refusal."""
        if claim.receiver != self.identity:
            raise WrongReceiver("the request is for another hotkey than this miner's")
        self._permitted(claim.hotkey)
        self._check_clock(claim)

    def prove(self, claim: Claim) -> Admission:
        """The signature, then what may only be done under a proven name. Raises a Refusal."""
        if not self._signed(claim):
            raise BadSignature("Signature mismatch")
        now = self._clock()
        if not self._replay.add(claim.message, claim.nonce, now):
            raise Replayed("this request was accepted before")
        neuron = self._permitted(claim.hotkey)
        self._spend(claim.hotkey, neuron, now)
        timeout = self._clamp(claim.timeout)
        if neuron is None:
            return Admission(claim.hotkey, None, 0.0, False, timeout)
        return Admission(claim.hotkey, neuron.uid, neuron.stake, neuron.validator_permit, timeout)

    def _permitted(self, hotkey: str) -> Neuron | None:
        rules = self._rules
        neuron = self._snapshot().neurons.get(hotkey)
        if rules.allow_non_registered:
            return neuron
        if neuron is None:
            raise NotRegistered("Unrecognized hotkey.")
        if rules.force_validator_permit and not neuron.validator_permit:
            raise NoPermit("Non-validator hotkey.")
        if neuron.stake < rules.minimum_stake:
            raise LowStake(f"less than {rules.minimum_stake:g} stake.")
        return neuron

    def _check_clock(self, claim: Claim) -> None:
        rules = self._rules
        age = (self._clock() - claim.nonce) / SECOND
        if age < -rules.future:
            raise NonceAhead(
                f"Nonce is {-age:.1f} seconds ahead of this miner's clock, "
                f"{rules.future:g} allowed: check the caller's clock, then this machine's",
                wait=-age - rules.future,
            )
        allowed = min(rules.past + self._clamp(claim.timeout), rules.oldest) if claim.past is None else claim.past
        if age > allowed:
            raise NonceTooOld(
                f"Nonce is too old: acceptable delta is {allowed:.2f} seconds but request "
                f"was {age:.2f} seconds old: check the caller's clock, then this machine's"
            )

    def _signed(self, claim: Claim) -> bool:
        try:
            signature = bytes.fromhex(claim.signature.removeprefix("0x"))
        except ValueError:
            return False
        return len(signature) == 64 and self._verify(claim.hotkey, claim.message, signature, claim.scheme)

    def _spend(self, hotkey: str, neuron: Neuron | None, now: int) -> None:
        rules = self._rules
        trusted = rules.allow_non_registered or (neuron is not None and neuron.validator_permit)
        rate = rules.validator_rate if trusted else rules.other_rate
        tokens, since = self._buckets.get(hotkey, (rate.burst, now))
        tokens = min(rate.burst, tokens + max(0, now - since) / SECOND * rate.per_second)
        if tokens < 1.0:
            raise TooManyRequests(f"more than {rate.per_second:g} requests a second from this hotkey")
        if len(self._buckets) > 10_000:  # only with allow_non_registered: a subnet has 256 hotkeys
            self._buckets.clear()
        self._buckets[hotkey] = (tokens - 1.0, now)

    def _clamp(self, timeout: float) -> float:
        rules = self._rules
        if math.isnan(timeout):
            return rules.usual_timeout
        return min(max(timeout, rules.shortest_timeout), rules.longest_timeout)
