"""What is counted, under which names, and what a log line may hold."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loguru import logger
from prometheus_client import REGISTRY, Gauge
from prometheus_client.parser import text_string_to_metric_families

from cascade.profile import Member, Profile, Tier
from cascade.verdict import Source, Stop, Verdict
from miner import gpu
from miner.gpu import Card, NoCards
from miner.scoring import Scorer
from miner.service import Answered
from miner.stability import Drift, EmbeddingDrift, embedding_psi
from miner.telemetry import VALIDATORS, Metrics, log_answer, setup_logging, values
from models.base import Failure, Frame, Opinion

FRAME = Frame.of(np.full((360, 640, 3), 100, dtype=np.uint8))
CARD = Card(0, "NVIDIA H100 80GB", 80_000_000_000, 30_000_000_000, 0.25, "570.1", "12.8")
VERDICT = Verdict(
    0.9,
    (0.8, 0.95),
    (Opinion("embedded", 2.0, 40.0), Opinion("sign-reading", 1.0, 300.0)),
    (Failure("detector", "timeout", "late", 2000.0),),
    ("embedded", "signs"),
    Stop.LAST_TIER,
    Source.CASCADE,
    True,
    2100.0,
)
PROFILE = Profile(
    name="tested",
    band=(0.1, 0.9),
    tiers=(
        Tier(name="embedded", expected_ms=60, members=(Member(model="embedded"),)),
        Tier(name="signs", expected_ms=400, members=(Member(model="sign-reading"), Member(model="detector"))),
    ),
)


@dataclass(frozen=True)
class Health:
    breaker: str
    queued: int
    restarts: int


def answered(probability: float = 0.9, label: int = -1, caller: str = "validator") -> Answered:
    verdict = replace(VERDICT, probability=probability)
    return Answered(caller, label, "", probability, Source.CASCADE, 2.15, "", FRAME, verdict)


def no_cards() -> Sequence[Card]:
    raise NoCards("none")


def metrics() -> Metrics:
    kept = Metrics(cards=no_cards)
    kept.serving(PROFILE, "")
    return kept


def exposed(kept: Metrics) -> dict[str, float]:
    """Sample with its labels -> value, as a scraper reads it."""
    families = text_string_to_metric_families(kept.exposition().decode())
    return {
        sample.name + "".join(f"{{{key}={value}}}" for key, value in sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


# Counting.


def test_one_answer_is_counted_by_stage_tier_and_model() -> None:
    kept = metrics()
    kept.answered(answered())
    seen = exposed(kept)
    once = {
        "streetvision_answers_total{source=cascade}",
        "streetvision_answer_seconds_count",
        "streetvision_probability_bucket{le=0.9}",
        "streetvision_stage_seconds_count{stage=decode}",
        "streetvision_stops_total{reason=last-tier}",
        "streetvision_degraded_total",
        "streetvision_tier_asked_total{tier=embedded}",
        "streetvision_tier_asked_total{tier=signs}",
        "streetvision_escalations_total{tier=signs}",
        "streetvision_model_seconds_count{model=sign-reading}",
        "streetvision_model_failures_total{kind=timeout}{model=detector}",
    }
    assert {name for name in once if seen.get(name) != 1.0} == set()
    assert "streetvision_escalations_total{tier=embedded}" not in seen
    assert seen["streetvision_stage_seconds_sum{stage=cascade}"] == pytest.approx(2.1)
    assert seen["streetvision_stage_seconds_sum{stage=decode}"] == pytest.approx(0.05)
    assert seen["streetvision_tier_seconds_sum{tier=signs}"] == pytest.approx(2.0)  # its slowest member
    assert seen["streetvision_last_challenge_timestamp_seconds"] > 1.7e9


def test_an_answer_by_the_prior_is_counted_with_its_fault() -> None:
    kept = metrics()
    kept.answered(Answered("validator", -1, "", 0.5, Source.PRIOR, 0.01, "BadPicture", None, None))
    seen = exposed(kept)
    assert seen["streetvision_answers_total{source=prior}"] == 1
    assert seen["streetvision_faults_total{kind=BadPicture}"] == 1


def test_admissions_and_refusals_are_counted_apart() -> None:
    kept = metrics()
    for outcome in ("answered", "shed", "gone", "gone", "no-permit", "no-permit"):
        kept.asked(outcome, 0.001)
    kept.refused("not-http")
    assert values(kept.admissions) == {("answered",): 1.0, ("shed",): 1.0, ("gone",): 2.0}
    assert values(kept.refusals) == {("no-permit",): 2.0, ("not-http",): 1.0}


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), max_size=30))
def test_the_standing_is_the_one_the_validators_scorer_gives(history: list[tuple[float, int]]) -> None:
    kept, scorer = metrics(), Scorer()
    for probability, label in history:
        kept.answered(answered(probability, label))
        scorer.record(probability, label)
    if history:
        assert values(kept.mcc) == {("validator",): scorer.standing.mcc}
        assert values(kept.reward) == {("validator",): scorer.standing.reward}
    else:
        assert values(kept.mcc) == {}


def test_an_answer_without_truth_has_no_standing() -> None:
    kept = metrics()
    kept.answered(answered(label=-1))
    assert values(kept.mcc) == {}


def test_the_number_of_validators_kept_is_bounded() -> None:
    kept = metrics()
    for index in range(VALIDATORS + 5):
        kept.answered(answered(label=1, caller=f"validator {index}"))
    assert len(values(kept.mcc)) == VALIDATORS
    assert ("validator 0",) not in values(kept.reward)


def test_breakers_and_queues_are_asked_at_each_scrape() -> None:
    kept, states = metrics(), {"embedded": Health("closed", 3, 0)}
    kept.watch_models(lambda: states)
    assert exposed(kept)["streetvision_breaker{model=embedded}{state=closed}"] == 1
    states["embedded"] = Health("open", 0, 2)
    seen = exposed(kept)
    assert seen["streetvision_breaker{model=embedded}{state=closed}"] == 0
    assert seen["streetvision_breaker{model=embedded}{state=open}"] == 1
    assert seen["streetvision_model_restarts{model=embedded}"] == 2


def test_cards_are_exposed_when_there_are_any() -> None:
    seen = exposed(Metrics(cards=lambda: [CARD]))
    labels = "{gpu=0}{name=NVIDIA H100 80GB}"
    assert seen["streetvision_gpu_memory_used_bytes" + labels] == 30e9
    assert seen["streetvision_gpu_utilization_ratio" + labels] == 0.25
    assert not [name for name in exposed(metrics()) if "gpu" in name]


def test_what_runs_is_told() -> None:
    kept = metrics()
    kept.running("0.1.0", "embedded", "test")
    assert exposed(kept)["streetvision_miner_info{network=test}{profile=embedded}{version=0.1.0}"] == 1


def test_vllms_own_metrics_are_joined_in() -> None:
    gauge = Gauge("vllm:num_requests_running", "As vLLM names it.", ["model_name"])
    try:
        gauge.labels("qwen").set(3)
        assert exposed(metrics())["vllm:num_requests_running{model_name=qwen}"] == 3
    finally:
        REGISTRY.unregister(gauge)


def test_joined_metrics_that_fail_cost_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    def gone() -> bytes:
        raise ConnectionRefusedError("engine is down")

    kept = metrics()
    kept.join(gone)
    kept.join(lambda: b"# TYPE other gauge\nother 1.0\n")
    assert exposed(kept)["other"] == 1
    assert "engine is down" in caplog.text


def test_every_exposed_metric_is_described_and_the_other_way_round() -> None:
    kept = Metrics(cards=lambda: [CARD])
    kept.serving(PROFILE, "")
    kept.watch_models(lambda: {"embedded": Health("closed", 0, 0)})
    exposed_types = dict(re.findall(r"^# TYPE (streetvision_\S+) (\S+)$", kept.exposition().decode(), re.M))
    assert exposed_types == {each.name: each.kind for each in kept.described}


# Drift.


def test_drift_is_unknown_until_there_is_enough_to_compare() -> None:
    drift = Drift([0.5], reference=10, recent=10)
    for _ in range(19):
        drift.add(0.1)
    assert math.isnan(drift.psi())
    drift.add(0.1)
    assert drift.psi() == 0.0


@given(st.lists(st.floats(0, 1), min_size=20, max_size=20), st.lists(st.floats(0, 1), min_size=20, max_size=20))
def test_drift_is_never_negative_and_nothing_for_the_same_values(before: list[float], after: list[float]) -> None:
    shifted, same = Drift([0.25, 0.5, 0.75], 20, 20), Drift([0.25, 0.5, 0.75], 20, 20)
    for value in before + after:
        shifted.add(value)
    for value in before + before[::-1]:
        same.add(value)
    assert shifted.psi() >= 0
    assert same.psi() == pytest.approx(0)


def test_drift_tells_night_from_day() -> None:
    rng = np.random.default_rng(0)
    drift = Drift([25.5 * i for i in range(1, 10)])
    for value in rng.normal(140, 20, 500):
        drift.add(value)
    for value in rng.normal(140, 20, 500):
        drift.add(value)
    assert drift.psi() < 0.1
    for value in rng.normal(40, 20, 500):
        drift.add(value)
    assert drift.psi() > 0.25


def pictures(n: int, seed: int, moved: float = 0.0) -> np.ndarray:
    """Embeddings (n, 64) of pictures that differ in a few ways; the first way moves."""
    rng = np.random.default_rng(seed)
    ways = np.random.default_rng(0).standard_normal((5, 64))
    return ((rng.standard_normal((n, 5)) + moved * np.eye(5)[0]) @ ways + 0.3 * rng.standard_normal((n, 64))).astype(
        "f4"
    )


def test_embeddings_of_another_world_are_told_from_more_of_the_same() -> None:
    assert embedding_psi(pictures(500, 1), pictures(500, 2)) < 0.2
    assert embedding_psi(pictures(500, 1), pictures(500, 2, moved=1.0)) > 0.25


def test_the_first_pictures_survive_a_restart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    drift = EmbeddingDrift(tmp_path / "first.npz")
    for embedding in pictures(999, 1):
        drift.add(embedding)
    assert math.isnan(drift.psi())
    again = EmbeddingDrift(tmp_path / "first.npz")
    for embedding in pictures(500, 2, moved=1.0):
        again.add(embedding)
    assert again.psi() > 0.25
    whole = (tmp_path / "first.npz").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", bytes(len(whole)), b"no archive"):  # a full disk, a power cut
        (tmp_path / "first.npz").write_bytes(damaged)
        caplog.clear()
        assert math.isnan(EmbeddingDrift(tmp_path / "first.npz").psi())
        assert "taking new ones" in caplog.text


def test_what_drifts_is_exposed_and_forgotten_when_it_is_over() -> None:
    kept = metrics()
    kept.drifting({"embeddings": 0.4}, ["embeddings", "novelty"], 0.2)
    assert values(kept.alarm) == {("embeddings",): 1.0, ("novelty",): 1.0}
    assert values(kept.drift)[("embeddings",)] == 0.4
    kept.drifting({"embeddings": 0.1}, [], 0.0)
    assert values(kept.alarm) == {}


def test_what_became_of_the_journals_requests_is_asked_at_each_scrape() -> None:
    kept, fates = metrics(), {"written": 3, "dropped": 0, "lost": 0}
    kept.journaling(lambda: fates)
    assert 'streetvision_journal_requests{fate="written"} 3.0' in kept.exposition().decode()
    fates["lost"] = 2
    assert 'streetvision_journal_requests{fate="lost"} 2.0' in kept.exposition().decode()


def test_one_version_answers_at_a_time() -> None:
    kept = metrics()
    assert values(kept.version) == {("own",): 1.0}
    kept.serving(PROFILE, "0003")
    assert values(kept.version) == {("0003",): 1.0}


# The cards' driver.


class FakeDriver:
    """Stands in for pynvml: as many cards as given, or an error where told."""

    class NVMLError(Exception):
        pass

    class NVMLError_NotSupported(NVMLError):  # noqa: N801  # the library's own name
        pass

    def __init__(self, cards: int, fails: bool = False) -> None:
        self._cards, self._fails = cards, fails
        self.open = 0

    def nvmlInit(self) -> None:  # noqa: N802
        if self._fails:
            raise self.NVMLError("driver not loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> bytes:  # noqa: N802
        return b"570.1"

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:  # noqa: N802
        return 12080

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return self._cards

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:  # noqa: N802
        return f"card {handle}"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> object:  # noqa: N802
        return type("memory", (), {"total": 80, "used": 20})

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> object:  # noqa: N802
        if handle == 1:
            raise self.NVMLError_NotSupported("slice")
        return type("rates", (), {"gpu": 50})


def test_the_driver_is_asked_and_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FakeDriver(2)
    monkeypatch.setattr(gpu, "import_module", lambda _: driver)
    assert gpu.cards() == [
        Card(0, "card 0", 80, 20, 0.5, "570.1", "12.8"),
        Card(1, "card 1", 80, 20, 0.0, "570.1", "12.8"),  # a slice of a card tells no utilisation
    ]
    assert driver.open == 0


@pytest.mark.parametrize(
    ("driver", "why"),
    [(FakeDriver(0, fails=True), "driver not loaded"), (FakeDriver(0), "no card"), (None, "pynvml|nvidia")],
)
def test_a_machine_without_cards_says_why(monkeypatch: pytest.MonkeyPatch, driver: FakeDriver | None, why: str) -> None:
    def load(name: str) -> object:
        if driver is None:
            raise ImportError(name)
        return driver

    monkeypatch.setattr(gpu, "import_module", load)
    with pytest.raises(NoCards, match=why):
        gpu.cards()


# Logs.


@pytest.fixture
def logs(capfd: pytest.CaptureFixture[str]) -> Iterator[pytest.CaptureFixture[str]]:
    root, handlers, level = logging.root, list(logging.root.handlers), logging.root.level
    levels = {name: each.level for name, each in root.manager.loggerDict.items() if isinstance(each, logging.Logger)}
    yield capfd
    logger.remove()
    logger.configure(extra={}, patcher=None)
    root.handlers, root.level = handlers, level
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def test_a_request_is_one_line_with_its_id_p_tiers_and_time(logs: pytest.CaptureFixture[str]) -> None:
    setup_logging("INFO", "human")
    log_answer(answered(caller="5FHneW46xGXgs5mUi"))
    [line] = logs.readouterr().err.splitlines()
    assert f"{FRAME.sha256[:12]} from 5FHneW46: p 0.900 by embedded+signs, cascade, 2150 ms" in line


def test_a_program_reads_the_same_as_json(logs: pytest.CaptureFixture[str]) -> None:
    setup_logging("INFO", "json")
    log_answer(answered())
    line = json.loads(logs.readouterr().err)
    assert line["request"] == FRAME.sha256[:12]
    assert (line["probability"], line["tiers"], line["level"]) == (0.9, ["embedded", "signs"], "INFO")
    assert line["origin"] == "miner.telemetry"


def test_a_traceback_is_part_of_the_line(logs: pytest.CaptureFixture[str]) -> None:
    setup_logging("INFO", "json")
    try:
        raise ZeroDivisionError("oh")
    except ZeroDivisionError:
        logging.getLogger("x").exception("broke")
    assert "ZeroDivisionError: oh" in json.loads(logs.readouterr().err)["exception"]


def test_loggers_that_another_library_silenced_speak_again(logs: pytest.CaptureFixture[str]) -> None:
    silenced = logging.getLogger("vllm.engine")
    silenced.setLevel(logging.CRITICAL)  # what importing bittensor does to every logger
    setup_logging("INFO", "human")
    silenced.info("engine is up")
    assert "engine is up" in logs.readouterr().err


def test_chatty_libraries_are_heard_from_warnings_on_whenever_they_load(logs: pytest.CaptureFixture[str]) -> None:
    setup_logging("INFO", "human")
    logging.getLogger("uvicorn.error").info("Started server process")
    logging.getLogger("websockets.client").warning("connection lost")
    said = logs.readouterr().err
    assert "Started" not in said
    assert "connection lost" in said


@pytest.mark.parametrize("form", ["human", "json"])
def test_no_secret_and_no_picture_leaves(logs: pytest.CaptureFixture[str], form: str) -> None:
    setup_logging("INFO", form)
    picture = "/9j/" + "A" * 100_000
    genesis = "0x" + "d" * 64
    logging.getLogger("x").info("token hf_%s body %s", "b" * 34, picture)
    logging.getLogger("x").info('{"secretSeed": "0x%s"}, genesis %s', "c" * 64, genesis)
    try:
        raise ValueError("refused: hf_" + "e" * 34)
    except ValueError:
        logging.getLogger("x").exception("fetching")
    said = logs.readouterr().err
    assert not [letters for letters in ("bbbb", "cccc", "eeee") if letters in said]
    assert genesis in said  # public, and what a person needs to see
    assert len(said) < 6000


def test_braces_and_tags_in_a_message_are_only_text(logs: pytest.CaptureFixture[str]) -> None:
    setup_logging("INFO", "human")
    logging.getLogger("x").info("%s", "{extra} <red>{0}</red>")
    assert "{extra} <red>{0}</red>" in logs.readouterr().err
