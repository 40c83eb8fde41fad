"""Logs and metrics. The only module that knows loguru and the Prometheus client.

Everyone else logs by `logging.getLogger(__name__)`; `setup_logging` hands those records to loguru. Metrics live in a
registry of our own, so that a second miner in one process (tests) does not collide; `docs/metrics.md` is made from it.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from loguru import logger
from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cascade.profile import Profile
from cascade.verdict import Verdict
from miner.gpu import Card, NoCards
from miner.gpu import cards as driver_cards
from miner.scoring import Scorer
from miner.service import Answered
from miner.stability import Drift
from models.base import Frame

if TYPE_CHECKING:
    from loguru import Record

log = logging.getLogger(__name__)

HUMAN = "<green>{time:HH:mm:ss.SSS}</green> <level>{level:<7}</level> {message} <dim>{extra[origin]}</dim>\n{exception}"
NOISY = ("websockets", "async_substrate_interface", "asyncio", "RapidOCR", "uvicorn")  # heard from WARNING on
LONGEST_MESSAGE = 4000  # characters: a picture that strays into a message must not fill the disk
SECRETS = re.compile(r"hf_[A-Za-z0-9]{16,}|(?i:(?<=seed|cret|vate).{1,12}?0x[0-9a-f]{64})")  # tokens; keys named so

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 6, 8, 9, 12)
TENTHS = tuple(i / 10 for i in range(1, 11))
VALIDATORS = 64  # validators whose standing is kept; the one heard least recently goes first
BREAKER_STATES = ("closed", "open", "half-open")


class _ToLoguru(logging.Handler):
    """Hands a record of the standard library to loguru with its level, origin and traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level: str | int = logger.level(record.levelname).name
        except ValueError:
            level = record.levelno
        bound = logger.bind(origin=record.name, **getattr(record, "fields", {}))
        bound.opt(exception=record.exc_info).log(level, "{}", record.getMessage())


def setup_logging(level: str, form: str) -> None:
    """Send every log record to stderr, for people (`human`) or programs (`json`: one object a line).

    Call it after bittensor was imported: that import sets every existing logger to CRITICAL, vLLM's and
    ultralytics' too; their levels are put back here.
    """
    logger.remove()
    logger.configure(extra={"origin": "miner"}, patcher=_shorten)
    form_of = _json_line if form == "json" else lambda _: HUMAN
    colours = form == "human" and sys.stderr.isatty()
    logger.add(_say, level=level, format=form_of, colorize=colours, backtrace=False, diagnose=False)
    logging.root.handlers = [_ToLoguru()]
    logging.root.setLevel(level if level != "TRACE" else logging.DEBUG)
    for existing in list(logging.root.manager.loggerDict.values()):
        if isinstance(existing, logging.Logger):
            existing.handlers.clear()
            existing.propagate = True
            existing.setLevel(logging.NOTSET)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)


def _say(line: str) -> None:
    """No token and no private key leaves, in a message or a traceback."""
    sys.stderr.write(SECRETS.sub("(secret)", line))


def _shorten(record: Record) -> None:
    """No picture leaves in a message."""
    message = record["message"]
    cut = len(message) - LONGEST_MESSAGE
    record["message"] = f"{message[:LONGEST_MESSAGE]} ... ({cut} more characters)" if cut > 0 else message


def _json_line(record: Record) -> str:
    """The format string of one JSON line; loguru fills in what is named in it."""
    line = {
        "time": record["time"].isoformat(),
        "level": record["level"].name,
        "message": record["message"],
        **{key: value for key, value in record["extra"].items() if key != "line"},
    }
    if record["exception"]:
        line["exception"] = "".join(traceback.format_exception(*record["exception"]))
    record["extra"]["line"] = json.dumps(line, default=str)
    return "{extra[line]}\n"


def log_answer(answered: Answered) -> None:
    """One line a request at INFO (an observer of the service). The picture's digest is the request's id."""
    frame, verdict = answered.frame, answered.verdict
    fields = {
        "request": frame.sha256[:12] if frame else "unreadable",
        "caller": answered.caller,
        "probability": round(answered.probability, 4),
        "tiers": list(verdict.tiers) if verdict else [],
        "source": answered.source.value,
        "milliseconds": round(answered.seconds * 1000, 1),
    }
    log.info(
        "%s from %s: p %.3f by %s, %s, %.0f ms",
        fields["request"],
        answered.caller[:8] or "nobody",
        answered.probability,
        "+".join(verdict.tiers) if verdict else "nobody",
        answered.source.value,
        answered.seconds * 1000,
        extra={"fields": fields},
    )


ADMITTED = {"answered", "shed", "guarded", "ping", "gone"}  # outcomes of the axon that are no refusals


class ModelHealth(Protocol):
    """How a model stands: `cascade.supervisor.ModelState` and anything like it."""

    @property
    def breaker(self) -> str: ...
    @property
    def queued(self) -> int: ...
    @property
    def restarts(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Described:
    """One metric for the reference. name: as exposed, without the suffixes of a histogram."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


class Metrics:
    """What the miner counts, under documented names (prefix `streetvision_`).

    cards: where the figures of the GPUs come from.
    """

    def __init__(self, cards: Callable[[], Sequence[Card]] = driver_cards) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, of use to nobody here
        self.registry = CollectorRegistry()
        self.described: list[Described] = []
        self._tier_of: dict[str, str] = {}
        self._joined: list[Callable[[], bytes]] = [vllm_exposition]
        self._scorers: OrderedDict[str, Scorer] = OrderedDict()

        counter, gauge, histogram = self._counter, self._gauge, self._histogram
        self.answers = counter("answers", "Answers made, by source: cascade, partial, prior.", ["source"])
        self.faults = counter("faults", "Faults that the prior answered for.", ["kind"])
        let_in = "Requests let in by the gate: answered, shed, guarded, ping; gone: the caller left before its answer."
        self.admissions = counter("admissions", let_in, ["outcome"])
        self.refusals = counter("refusals", "Requests refused before any work.", ["reason"])
        self.seconds = histogram("answer_seconds", "Admission to answer.", SECONDS)
        self.stage_seconds = histogram("stage_seconds", "Time of a stage: decode, cascade.", SECONDS, ["stage"])
        self.probability = histogram("probability", "Answered probability.", TENTHS)
        self.stops = counter("stops", "Why no further tier was asked.", ["reason"])
        self.degraded = counter("degraded", "Verdicts without a member that should have answered.")
        self.tiers = counter("tier_asked", "Pictures that asked this tier.", ["tier"])
        self.escalations = counter("escalations", "Pictures that an earlier tier passed on to this one.", ["tier"])
        self.tier_seconds = histogram("tier_seconds", "Time of a tier: its slowest member.", SECONDS, ["tier"])
        self.model_seconds = histogram("model_seconds", "Time of a model's batch.", SECONDS, ["model"])
        self.model_failures = counter("model_failures", "Opinions that did not come.", ["model", "kind"])
        self.ready = gauge("ready", "1 while every required tier passes its canary.")
        self.in_flight = gauge("in_flight", "Requests being worked on.")
        self.waiting = gauge("waiting", "Requests that wait for a free place.")
        self.chain_age = gauge("chain_age_seconds", "Age of the metagraph in force.")
        self.chain_block = gauge("chain_block", "Block of the metagraph in force.")
        self.last_challenge = gauge("last_challenge_timestamp_seconds", "Unix time of the last answer; 0: none yet.")
        self.labelled = counter("labelled", "Answers whose truth came with the request (testnet).", ["label"])
        by_validator = ["validator"]
        self.mcc = gauge("validator_mcc", "MCC over its last 100 labelled challenges.", by_validator)
        self.accuracy = gauge("validator_accuracy", "Accuracy over its last 10 labelled challenges.", by_validator)
        self.reward = gauge("validator_reward", "Reward of the newest challenge as it computes it.", by_validator)
        self.score = gauge("validator_score", "Moving average of the reward as it keeps it.", by_validator)

        meaning = (
            "Population stability index against the first 500 (scores: the version's first week); above 0.25: shifted."
        )
        self.drift = drift = gauge("drift_psi", meaning, ["of"])
        self._drifts = {
            "probability": Drift(TENTHS[:-1]),
            "brightness": Drift([25.5 * i for i in range(1, 10)]),
            "contrast": Drift([10.0 * i for i in range(1, 10)]),
            "shorter-side": Drift([224, 225, 360, 480, 720, 1080]),
        }
        for of, each in self._drifts.items():
            drift.labels(of).set_function(each.psi)

        meaning = "Requests since the start, by what became of their record: written, dropped (too many), lost (disk)."
        self.journal = gauge("journal_requests", meaning, ["fate"])
        self.alarm = gauge("drift_alarm", "1 for what drifted within the last day; the log says what to do.", ["of"])
        self.shift = gauge("prevalence_shift", "Log-odds added to answers for a shifted share of road work.")
        self.version = gauge("version_info", "Always 1: the promoted version that answers, or own.", ["version"])
        what = ["version", "profile", "network"]
        self.info = gauge("miner_info", "Always 1: what is running.", what)
        self._describe_scraped()
        self.registry.register(_Cards(cards))
        ProcessCollector(registry=self.registry)

    def running(self, version: str, profile: str, network: str) -> None:
        """Say what is running."""
        self.info.labels(version, profile, network).set(1)

    def serving(self, profile: Profile, version: str) -> None:
        """Say which version answers from now on. version: empty for the miner's own profile."""
        self._tier_of = {member.model: tier.name for tier in profile.tiers for member in tier.members}
        self.version.clear()
        self.version.labels(version or "own").set(1)

    def journaling(self, counts: Callable[[], Mapping[str, int]]) -> None:
        """At each scrape, ask what became of the requests on their way to the journal: how many by fate."""

        def of(fate: str) -> Callable[[], float]:
            return lambda: counts()[fate]

        for fate in counts():
            self.journal.labels(fate).set_function(of(fate))

    def drifting(self, drift: Mapping[str, float], alarms: Iterable[str], shift: float) -> None:
        """Say what drifts: indices by name, names of the alarms of the last day, and the correction in log-odds."""
        for of, index in drift.items():
            self.drift.labels(of).set(index)
        self.alarm.clear()
        for of in alarms:
            self.alarm.labels(of).set(1)
        self.shift.set(shift)

    def watch_models(self, states: Callable[[], Mapping[str, ModelHealth]]) -> None:
        """Ask `states` at every scrape how each model stands."""
        self.registry.register(_Models(states))

    def join(self, exposition: Callable[[], bytes]) -> None:
        """Add somebody else's metrics, in Prometheus' text format, to every scrape."""
        self._joined.append(exposition)

    def answered(self, answered: Answered) -> None:
        """Count one request as it leaves (an observer of the service)."""
        self.answers.labels(answered.source.value).inc()
        self.probability.observe(answered.probability)
        self.seconds.observe(answered.seconds)
        self.last_challenge.set(time.time())
        self._drifts["probability"].add(answered.probability)
        if answered.fault:
            self.faults.labels(answered.fault).inc()
        if answered.frame:
            self._frame(answered.frame)
        if answered.verdict:
            self._verdict(answered.verdict, answered.seconds)
        if answered.label in (0, 1):
            self._standing(answered)

    def asked(self, outcome: str, seconds: float) -> None:
        """Count one request at the axon by its outcome: an answer's, or a refusal's reason."""
        if outcome in ADMITTED:
            self.admissions.labels(outcome).inc()
        else:
            self.refused(outcome)

    def refused(self, reason: str) -> None:
        """Count one request that was refused before any work."""
        self.refusals.labels(reason).inc()

    def _frame(self, frame: Frame) -> None:
        step = max(1, min(frame.size) // 32)
        sample = frame.pixels[::step, ::step].astype(np.float32)  # (about 32, 32 or more, 3)
        self._drifts["brightness"].add(float(sample.mean()))
        self._drifts["contrast"].add(float(sample.std()))
        self._drifts["shorter-side"].add(min(frame.size))

    def _verdict(self, verdict: Verdict, seconds: float) -> None:
        inside = verdict.milliseconds / 1000
        self.stage_seconds.labels("cascade").observe(inside)
        self.stage_seconds.labels("decode").observe(max(0.0, seconds - inside))
        self.stops.labels(verdict.stop.value).inc()
        if verdict.degraded:
            self.degraded.inc()
        for tier in verdict.tiers:
            self.tiers.labels(tier).inc()
        for tier in verdict.tiers[1:]:
            self.escalations.labels(tier).inc()
        slowest: dict[str, float] = {}
        took = [(opinion.model, opinion.milliseconds) for opinion in verdict.opinions]
        took += [(failure.model, failure.milliseconds) for failure in verdict.failures]
        for model, milliseconds in took:
            if model in self._tier_of:
                tier = self._tier_of[model]
                slowest[tier] = max(slowest.get(tier, 0.0), milliseconds)
        for tier, milliseconds in slowest.items():
            self.tier_seconds.labels(tier).observe(milliseconds / 1000)
        for opinion in verdict.opinions:
            self.model_seconds.labels(opinion.model).observe(opinion.milliseconds / 1000)
        for failure in verdict.failures:
            self.model_failures.labels(failure.model, failure.kind).inc()

    def _standing(self, answered: Answered) -> None:
        self.labelled.labels(str(answered.label)).inc()
        scorer = self._scorers.setdefault(answered.caller, Scorer())
        self._scorers.move_to_end(answered.caller)
        standing = scorer.record(answered.probability, answered.label)
        gauges = {"mcc": self.mcc, "accuracy": self.accuracy, "reward": self.reward, "score": self.score}
        for name, metric in gauges.items():
            metric.labels(answered.caller).set(getattr(standing, name))
        if len(self._scorers) > VALIDATORS:
            forgotten, _ = self._scorers.popitem(last=False)
            for metric in gauges.values():
                metric.remove(forgotten)

    def exposition(self) -> bytes:
        """Everything counted, in Prometheus' text format."""
        return b"".join([generate_latest(self.registry), *self._others()])

    def _others(self) -> Iterator[bytes]:
        for source in self._joined:
            try:
                yield source()
            except Exception as error:
                log.warning("joined metrics did not come: %s: %s", type(error).__name__, error)

    def _describe(self, name: str, kind: str, labels: Sequence[str], meaning: str) -> str:
        suffix = "_total" if kind == "counter" else ""
        self.described.append(Described(f"streetvision_{name}{suffix}", kind, tuple(labels), meaning))
        return f"streetvision_{name}"

    def _counter(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(self._describe(name, "counter", labels, meaning), meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Gauge:
        return Gauge(self._describe(name, "gauge", labels, meaning), meaning, labels, registry=self.registry)

    def _histogram(self, name: str, meaning: str, buckets: Sequence[float], labels: Sequence[str] = ()) -> Histogram:
        full = self._describe(name, "histogram", labels, meaning)
        return Histogram(full, meaning, labels, buckets=buckets, registry=self.registry)

    def _describe_scraped(self) -> None:
        for name, labels, meaning in (*_Models.METRICS, *_Cards.METRICS):
            self._describe(name, "gauge", labels, meaning)


def values(metric: Counter | Gauge) -> dict[tuple[str, ...], float]:
    """Label values -> value of one counter or gauge; empty if nothing came."""
    return {tuple(one.labels.values()): one.value for family in metric.collect() for one in family.samples}


class _Models(Collector):
    """Breaker, queue and restarts of each model, asked at every scrape."""

    METRICS = (
        ("breaker", ("model", "state"), "1 for the state a model's breaker is in: closed, open, half-open."),
        ("model_queued", ("model",), "Pictures that wait for this model."),
        ("model_restarts", ("model",), "Restarts of this model within the last ten minutes."),
    )

    def __init__(self, states: Callable[[], Mapping[str, ModelHealth]]) -> None:
        self._states = states

    def collect(self) -> Iterator[Metric]:
        breaker, queued, restarts = (_family(*each) for each in self.METRICS)
        for model, state in self._states().items():
            for possible in BREAKER_STATES:
                breaker.add_metric([model, possible], float(state.breaker == possible))
            queued.add_metric([model], state.queued)
            restarts.add_metric([model], state.restarts)
        yield from (breaker, queued, restarts)

    def describe(self) -> list[Metric]:
        return [_family(*each) for each in self.METRICS]


class _Cards(Collector):
    """Memory and load of each card, asked at every scrape; nothing on a machine without."""

    METRICS = (
        ("gpu_memory_used_bytes", ("gpu", "name"), "Memory in use on a card, by whomever."),
        ("gpu_memory_total_bytes", ("gpu", "name"), "Memory of a card."),
        ("gpu_utilization_ratio", ("gpu", "name"), "Share of the last moments with a kernel at work, 0 to 1."),
    )

    def __init__(self, cards: Callable[[], Sequence[Card]]) -> None:
        self._cards = cards

    def collect(self) -> Iterator[Metric]:
        used, total, busy = (_family(*each) for each in self.METRICS)
        try:
            found = self._cards()
        except NoCards:
            found = []
        for card in found:
            labels = [str(card.index), card.name]
            used.add_metric(labels, card.memory_used)
            total.add_metric(labels, card.memory_total)
            busy.add_metric(labels, card.utilisation)
        yield from (used, total, busy)

    def describe(self) -> list[Metric]:
        return [_family(*each) for each in self.METRICS]


def _family(name: str, labels: Sequence[str], meaning: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"streetvision_{name}", meaning, labels=labels)


def vllm_exposition() -> bytes:
    """What vLLM counts of itself in this process (families `vllm:...`); empty without it."""
    names = [name for family in REGISTRY.collect() if family.name.startswith("vllm:") for name in _samples(family)]
    return generate_latest(REGISTRY.restricted_registry(names)) if names else b""


def _samples(family: Metric) -> set[str]:
    return {sample.name for sample in family.samples}
