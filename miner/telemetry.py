"""Logs and metrics. The only module that knows loguru and the Prometheus client.

Everyone else logs by `logging.getLogger(__name__)`; `setup_logging` hands those records to loguru. Metrics live in a
registry of our own, so that a second miner in one process (tests) does not collide.
"""

from __future__ import annotations

import logging
import sys
from types import FrameType

from loguru import logger
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from cascade.verdict import Verdict
from miner.service import Answered

HUMAN = "<green>{time:HH:mm:ss.SSS}</green> <level>{level:<7}</level> {message} <dim>{extra[origin]}</dim>"
NOISY = ("websockets", "async_substrate_interface", "asyncio", "RapidOCR", "uvicorn.access")
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 6, 8, 9, 12)


class _ToLoguru(logging.Handler):
    """Hands a record of the standard library to loguru with its level, origin and traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level: str | int = logger.level(record.levelname).name
        except ValueError:
            level = record.levelno
        frame: FrameType | None = sys._getframe(6)
        depth = 6
        while frame is not None and frame.f_code.co_filename == logging.__file__:
            frame, depth = frame.f_back, depth + 1
        logger.bind(origin=record.name).opt(depth=depth, exception=record.exc_info).log(
            level, "{}", record.getMessage()
        )


def setup_logging(level: str, form: str) -> None:
    """Send every log record to stderr, for people (`human`) or programs (`json`).

    Call it after bittensor was imported: that import sets every existing logger to CRITICAL, vLLM's and
    ultralytics' too; their levels are put back here.
    """
    logger.remove()
    logger.configure(extra={"origin": "miner"})
    if form == "json":
        logger.add(sys.stderr, level=level, serialize=True, backtrace=False, diagnose=False)
    else:
        logger.add(sys.stderr, level=level, format=HUMAN, backtrace=False, diagnose=False)
    logging.root.handlers = [_ToLoguru()]
    logging.root.setLevel(level if level != "TRACE" else logging.DEBUG)
    for name, existing in list(logging.root.manager.loggerDict.items()):
        if isinstance(existing, logging.Logger):
            existing.handlers.clear()
            existing.propagate = True
            existing.setLevel(logging.WARNING if name.startswith(NOISY) else logging.NOTSET)


class Metrics:
    """What the miner counts, under documented names (prefix `streetvision_`)."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        prefix = "streetvision_"
        tenths = [i / 10 for i in range(1, 11)]
        self.answers = Counter(prefix + "answers", "Answers sent, by source.", ["source"], registry=own)
        self.faults = Counter(prefix + "faults", "Faults that the prior answered for.", ["kind"], registry=own)
        self.refusals = Counter(prefix + "refusals", "Requests refused before any work.", ["reason"], registry=own)
        self.seconds = Histogram(prefix + "answer_seconds", "Admission to answer.", buckets=SECONDS, registry=own)
        self.probability = Histogram(prefix + "probability", "Answered probability.", buckets=tenths, registry=own)
        self.tiers = Counter(prefix + "tier_asked", "Pictures that asked this tier.", ["tier"], registry=own)
        self.model_seconds = Histogram(
            prefix + "model_seconds", "Time of a model's batch.", ["model"], buckets=SECONDS, registry=own
        )
        self.model_failures = Counter(
            prefix + "model_failures", "Opinions that did not come.", ["model", "kind"], registry=own
        )
        self.ready = Gauge(prefix + "ready", "1 while every required tier passes its canary.", registry=own)
        self.in_flight = Gauge(prefix + "in_flight", "Requests being worked on.", registry=own)
        self.chain_age = Gauge(prefix + "chain_age_seconds", "Age of the metagraph in force.", registry=own)

    def answered(self, answered: Answered) -> None:
        """Count one request as it leaves (an observer of the service)."""
        self.answers.labels(answered.source.value).inc()
        self.probability.observe(answered.probability)
        self.seconds.observe(answered.seconds)
        if answered.fault:
            self.faults.labels(answered.fault).inc()
        if answered.verdict:
            self._verdict(answered.verdict)

    def _verdict(self, verdict: Verdict) -> None:
        for tier in verdict.tiers:
            self.tiers.labels(tier).inc()
        for opinion in verdict.opinions:
            self.model_seconds.labels(opinion.model).observe(opinion.milliseconds / 1000)
        for failure in verdict.failures:
            self.model_failures.labels(failure.model, failure.kind).inc()

    def exposition(self) -> bytes:
        """Everything counted, in Prometheus' text format."""
        return generate_latest(self.registry)
