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

from cascade.verdict import Source, Verdict
from models.base import Failure, Opinion

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
        self.registry = CollectorRegistry()
        given = {"namespace": "streetvision", "registry": self.registry}
        self.answers = Counter("answers", "Answers sent, by where the probability came from.", ["source"], **given)
        self.faults = Counter(
            "faults", "Faults on the way to an answer, by kind; the answer left all the same.", ["kind"], **given
        )
        self.refusals = Counter("refusals", "Requests refused before any work, by reason.", ["reason"], **given)
        self.seconds = Histogram("answer_seconds", "Time from admission to answer.", buckets=SECONDS, **given)
        self.probability = Histogram(
            "probability", "Answered probabilities.", buckets=[i / 10 for i in range(1, 11)], **given
        )
        self.tiers = Counter("tier_asked", "Requests that asked this tier.", ["tier"], **given)
        self.model_seconds = Histogram("model_seconds", "Time of a model's batch.", ["model"], buckets=SECONDS, **given)
        self.model_failures = Counter(
            "model_failures", "Opinions that did not come, by model and kind.", ["model", "kind"], **given
        )
        self.ready = Gauge("ready", "1 while every required tier passes its canary.", **given)
        self.in_flight = Gauge("in_flight", "Requests being worked on.", **given)
        self.chain_age = Gauge("chain_age_seconds", "Age of the metagraph in force.", **given)

    def observe(self, verdict: Verdict) -> None:
        """Count one verdict of the cascade."""
        for tier in verdict.tiers:
            self.tiers.labels(tier).inc()
        for opinion in verdict.opinions:
            self._opinion(opinion)
        for failure in verdict.failures:
            self._failure(failure)

    def answered(self, source: Source, probability: float, seconds: float) -> None:
        """Count one answer as it leaves."""
        self.answers.labels(source.value).inc()
        self.probability.observe(probability)
        self.seconds.observe(seconds)

    def exposition(self) -> bytes:
        """Everything counted, in Prometheus' text format."""
        return generate_latest(self.registry)

    def _opinion(self, opinion: Opinion) -> None:
        self.model_seconds.labels(opinion.model).observe(opinion.milliseconds / 1000)

    def _failure(self, failure: Failure) -> None:
        self.model_failures.labels(failure.model, failure.kind).inc()
