"""Rules and dashboards name only what the miner exposes, and a real Prometheus loads, scrapes and answers them."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import numpy as np
import pytest
import uvicorn
import yaml

from cascade.profile import load
from cascade.verdict import Source, Stop, Verdict
from miner.commands.mock import reserved_ports, running_miner
from miner.gpu import Card
from miner.health import Address, Readiness, health_app
from miner.service import Answered
from miner.telemetry import Metrics
from models.base import Failure, Frame, Opinion

ROOT = Path(__file__).resolve().parent.parent
PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARDS = ROOT / "deploy" / "grafana" / "dashboards"
PROCESS = {"process_resident_memory_bytes", "process_open_fds", "process_max_fds"}
VLLM = {  # names of vLLM 0.26's own page
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:e2e_request_latency_seconds_bucket",
}


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[tuple[str, str]]:
    """(panel, query) of every dashboard."""
    return [
        (panel["title"], target["expr"])
        for file in DASHBOARDS.glob("*.json")
        for panel in json.loads(file.read_text())["panels"]
        for target in panel.get("targets", [])
    ]


def known() -> set[str]:
    """Every series the miner can expose, and those that the rules record."""
    names = set(PROCESS | VLLM | {rule["record"] for rule in rules() if "record" in rule})
    for each in Metrics().described:
        ends = ("_bucket", "_sum", "_count") if each.kind == "histogram" else ("",)
        names |= {each.name + end for end in ends}
    return names


def named(query: str) -> set[str]:
    """Names of series in a query."""
    return set(re.findall(r"\b(?:streetvision[_:]|vllm:|process_)[a-z0-9_:]+", query))


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule.get("record"))
def test_a_rule_names_what_is_exposed(rule: dict[str, Any]) -> None:
    assert named(rule["expr"]) <= known()
    if "alert" in rule:
        assert {"summary", "action"} == set(rule["annotations"])
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        families = {each.name for each in Metrics().described}
        assert named(rule["annotations"]["action"]) <= known() | families


@pytest.mark.parametrize(("panel", "query"), panels(), ids=[f"{panel}-{i}" for i, (panel, _) in enumerate(panels())])
def test_a_panel_names_what_is_exposed(panel: str, query: str) -> None:
    assert named(query)
    assert named(query) <= known()


def test_every_metric_is_shown_somewhere() -> None:
    used = set().union(*(named(query) for _, query in panels()), *(named(rule["expr"]) for rule in rules()))
    bases = {re.sub(r"_(bucket|sum|count)$", "", name) for name in used}
    assert {each.name for each in Metrics().described} - bases == set()


def test_panels_do_not_lie_on_each_other() -> None:
    for file in DASHBOARDS.glob("*.json"):
        places: set[tuple[int, int]] = set()
        for panel in json.loads(file.read_text())["panels"]:
            at = panel["gridPos"]
            mine = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
            assert not mine & places, panel["title"]
            assert at["x"] + at["w"] <= 24
            places |= mine


# A real Prometheus.


def tool(name: str) -> str:
    """The program, from PATH or from where requirements/tools.sh unpacks it."""
    found = shutil.which(name) or shutil.which(name, path=str(ROOT / ".venv-tools" / "usr" / "bin"))
    assert found, f"{name} is needed: requirements/tools.sh gets it"
    return found


@pytest.mark.slow
def test_promtool_accepts_the_configuration_and_the_rules_behave() -> None:
    for words in (["check", "config", "prometheus.yml"], ["test", "rules", "rules_test.yml"]):
        done = subprocess.run([tool("promtool"), *words], cwd=PROMETHEUS, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "WARNING" not in done.stdout + done.stderr


class State:
    breaker, queued, restarts = "closed", 0, 0


def busy_metrics() -> Metrics:
    """Metrics of a miner that has seen everything once."""
    card = Card(0, "NVIDIA H100 80GB", 80_000_000_000, 30_000_000_000, 0.3, "570.1", "12.8")
    kept = Metrics(cards=lambda: [card])
    kept.serving(load("embedded"), "0007")
    kept.running("0.1.0", "embedded", "mock")
    kept.watch_models(lambda: {"embedded": State(), "sign-reading": State()})
    kept.drifting({"embeddings": 0.1}, ["scores"], 0.1)
    kept.ready.set(1)
    kept.chain_age.set(12)
    kept.chain_block.set(1000)
    kept.join(lambda: b"".join(f'{name}{{model_name="m",le="1"}} 1\n'.encode() for name in sorted(VLLM)))
    return kept


def ask(metrics: Metrics) -> None:
    """One answer of each kind."""
    frame = Frame.of(np.full((36, 64, 3), 90, dtype=np.uint8))
    for label, probability in ((1, 0.9), (0, 0.2), (1, 0.6)):
        verdict = Verdict(
            probability,
            (0.1, 0.95),
            (Opinion("embedded", 1.0, 40.0),),
            (Failure("sign-reading", "timeout", "late", 300.0),),
            ("embedded", "signs"),
            Stop.LAST_TIER,
            Source.CASCADE,
            True,
            340.0,
        )
        metrics.answered(Answered("validator", label, "", probability, Source.CASCADE, 0.35, "", frame, verdict))
    metrics.answered(Answered("validator", -1, "", 0.5, Source.PRIOR, 0.01, "BadPicture", None, None))
    metrics.asked("answered", 0.35)
    metrics.asked("no-permit", 0.001)


@contextmanager
def health_port(metrics: Metrics) -> Iterator[int]:
    ready = Readiness(True, "5F", 7, "mock", Address("127.0.0.1", 8091))
    config = uvicorn.Config(
        health_app(lambda: ready, metrics.exposition), port=0, log_level="error", lifespan="off", access_log=False
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


@contextmanager
def prometheus(tmp_path: Path, target: str) -> Iterator[str]:
    """A Prometheus on loopback with the shipped configuration, but for the target's address and the pace."""
    shutil.copytree(PROMETHEUS, tmp_path / "etc")
    file = tmp_path / "etc" / "prometheus.yml"
    shipped = file.read_text()
    assert "miner:9100" in shipped
    file.write_text(shipped.replace("miner:9100", target).replace("15s", "1s"))
    command = [tool("prometheus"), f"--config.file={file}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    with reserved_ports(1) as (port,), (tmp_path / "log").open("wb") as log:
        address = f"127.0.0.1:{port}"
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
        try:
            yield f"http://{address}"
        finally:
            process.terminate()
            process.wait(timeout=60)


def api(base: str, path: str, **query: str) -> Any:
    with urlopen(f"{base}/api/v1/{path}?{urlencode(query)}", timeout=60) as answer:
        told = json.load(answer)
    assert told["status"] == "success", told
    return told["data"]


def until(happens: Any, what: str) -> None:
    give_up = time.monotonic() + 300
    while time.monotonic() < give_up:
        try:
            if happens():
                return
        except OSError:
            pass
        time.sleep(0.2)
    pytest.fail(f"not within five minutes: {what}")


@pytest.mark.slow
def test_prometheus_scrapes_a_running_mock_miner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "prometheus").mkdir()
    with (
        running_miner(tmp_path) as url,
        prometheus(tmp_path / "prometheus", url.removeprefix("http://")) as base,
    ):
        until(lambda: api(base, "query", query="streetvision_ready == 1")["result"], "a ready miner scraped")
        [told] = api(base, "query", query="streetvision_miner_info")["result"]
        assert (told["metric"]["network"], told["metric"]["profile"]) == ("mock", "embedded")
        assert api(base, "query", query='streetvision_breaker{model="embedded", state="closed"} == 1')["result"]
        assert api(base, "query", query="streetvision_chain_age_seconds < 3600")["result"]


@pytest.mark.slow
def test_prometheus_scrapes_the_health_port_and_answers_every_query(tmp_path: Path) -> None:
    metrics = busy_metrics()
    with health_port(metrics) as port, prometheus(tmp_path, f"127.0.0.1:{port}") as base:
        until(lambda: api(base, "query", query='up{job="streetvision"} == 1')["result"], "scraped once")
        for _ in range(520):  # enough for the drift gauges' reference and then some
            ask(metrics)
        metrics.ready.set(1)
        until(lambda: api(base, "query", query="streetvision_answers_total > 100")["result"], "scraped again")

        loaded = {rule["name"] for group in api(base, "rules")["groups"] for rule in group["rules"]}
        assert loaded == {rule.get("alert") or rule["record"] for rule in rules()}
        until(lambda: all(r["health"] == "ok" for g in api(base, "rules")["groups"] for r in g["rules"]), "evaluated")
        for panel, query in panels():  # rates want two samples after the change
            filled = query.replace("$instance", ".*")
            until(lambda filled=filled: api(base, "query", query=filled)["result"], f"panel {panel!r} has a value")
        for rule in rules():
            api(base, "query", query=rule["expr"])
