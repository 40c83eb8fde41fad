"""What is in `deploy/` fits the miner, and each tool that will read it accepts it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from miner.settings import Settings, variables
from neurons.miner import STOP_SECONDS

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """(instruction, its words) of a Dockerfile, with continued lines joined and comments left out."""
    lines = [line for line in dockerfile.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined.splitlines()]


def stages() -> dict[str, list[tuple[str, str]]]:
    """Stage name -> its instructions."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name, words in instructions((DEPLOY / "Dockerfile").read_text()):
        if name == "FROM":
            current = found.setdefault(words.split()[-1], [])
        current.append((name, words))
    return found


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


def run(*command: str | Path, **options: Any) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=600, **options)
    assert done.returncode == 0, f"{shlex.join(str(word) for word in command)}:\n{done.stdout}{done.stderr}"
    return done.stdout


# Names.


def test_every_setting_named_in_deploy_exists() -> None:
    known = set(variables(Settings))
    texts = {path: path.read_text() for path in DEPLOY.rglob("*") if path.is_file()}
    named = {(path.name, name) for path, text in texts.items() for name in re.findall(r"\bMINER_[A-Z_]+\b", text)}
    assert named
    assert {pair for pair in named if pair[1] not in known} == set()


# Docker.


def test_images_come_from_named_releases() -> None:
    bases = [words.split()[0] for steps in stages().values() for name, words in steps if name == "FROM"]
    outside = [base for base in bases if base not in stages()]
    assert outside
    assert all(re.fullmatch(r"[\w./-]+:\d[\w.-]+", base) for base in outside), outside


@pytest.mark.parametrize("stage", ["cpu", "gpu"])
def test_the_image_ends_as_a_user_without_rights(stage: str) -> None:
    users = [words for name, words in stages()[stage] if name == "USER"]
    assert users[-1] == "10001:10001"


def test_commands_are_lists_so_that_signals_arrive() -> None:
    steps = dict(stages()["cpu"])
    for name in ("ENTRYPOINT", "CMD"):
        assert isinstance(json.loads(steps[name]), list)
    assert "/readyz" in steps["HEALTHCHECK"]
    assert "CMD [" in steps["HEALTHCHECK"]
    assert steps["STOPSIGNAL"] == "SIGTERM"


def test_no_step_is_careless() -> None:
    every = [step for steps in stages().values() for step in steps]
    assert not [words for name, words in every if name in {"ADD", "MAINTAINER"}]
    assert not [words for name, words in every if name in {"ENV", "ARG"} and re.search(r"TOKEN|SECRET|PASSWORD", words)]
    for name, words in every:
        if name != "RUN":
            continue
        assert "sudo" not in words
        if "pip install" in words:
            assert "--no-cache-dir" in words
        if "apt-get install" in words:
            assert "--no-install-recommends" in words
            assert "--yes" in words
            assert "rm -rf /var/lib/apt/lists" in words
            packages = words.split("--no-install-recommends")[1].split("&&")[0].split()
            assert all("=" in package for package in packages), packages


def test_ports_are_the_settings_defaults() -> None:
    fields = Settings.model_fields
    assert dict(stages()["cpu"])["EXPOSE"] == f"{fields['axon_port'].default} {fields['health_port'].default}"


@pytest.mark.slow
def test_what_the_image_copies_is_enough_to_run(tmp_path: Path) -> None:
    app = tmp_path / "app"
    for name, words in stages()["cpu"]:
        if name == "COPY" and not words.startswith("--from"):
            *sources, target = words.split()
            for source in sources:
                assert (ROOT / source).exists(), f"COPY {source}: not in the checkout"
                goal = tmp_path / target.lstrip("/") / source if target.endswith("/") else tmp_path / target.lstrip("/")
                if (ROOT / source).is_dir():
                    ignored = shutil.ignore_patterns("training", "__pycache__")
                    shutil.copytree(ROOT / source, goal, ignore=ignored)
                else:
                    goal.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / source, goal)
    (tmp_path / "state").mkdir()
    surroundings = {"PATH": os.environ["PATH"], "PYTHONPATH": str(app), "MINER_STATE_DIR": str(tmp_path / "state")}
    command = [sys.executable, "-P", "-m", "miner", "doctor", "--json"]
    told = json.loads(run(*command, cwd=tmp_path / "state", env={**surroundings, "HOME": str(tmp_path / "state")}))
    assert {check["name"]: check["verdict"] for check in told["checks"]}["profile"] == "ok"


# Compose.


def test_only_the_axon_is_open_to_the_world() -> None:
    services = read("compose.yaml")["services"]
    opened = [port for service in services.values() for port in service.get("ports", [])]
    assert [port for port in opened if not port.startswith("127.0.0.1:")] == ["${AXON_PORT:-8091}:8091"]


def test_every_service_is_pinned_and_holds_no_rights() -> None:
    for name, service in read("compose.yaml")["services"].items():
        assert re.search(r":[\w.]+$", service["image"]), name
        assert not service["image"].endswith(":latest")
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_compose_gives_the_miner_the_hotkey_only_and_time_to_drain() -> None:
    miner = read("compose.yaml")["services"]["miner"]
    wallets = [volume for volume in miner["volumes"] if "/wallets" in volume]
    assert len(wallets) == 1
    assert wallets[0].endswith(":/wallets/default/hotkeys/default:ro")
    assert int(miner["stop_grace_period"].rstrip("s")) > STOP_SECONDS
    assert miner["read_only"] is True


def test_compose_overrides_nothing_that_a_user_writes_into_the_env_file() -> None:
    miner = read("compose.yaml")["services"]["miner"]
    assert miner["env_file"] == [{"path": "../.env", "required": False}]
    asked_of_the_shell = {name: value for name, value in miner["environment"].items() if "$" in value}
    assert asked_of_the_shell == {}, "unset in the shell it would be empty, whatever .env says"


def test_compose_builds_stages_that_exist_and_mounts_files_that_exist() -> None:
    base, gpu = read("compose.yaml")["services"], read("compose.gpu.yaml")["services"]
    assert {base["miner"]["build"]["target"], gpu["miner"]["build"]["target"]} <= set(stages())
    assert (DEPLOY / base["miner"]["build"]["context"] / base["miner"]["build"]["dockerfile"]).is_file()
    for service in base.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (DEPLOY / source).exists(), source
    named = {volume.split(":")[0] for service in base.values() for volume in service["volumes"]}
    assert set(read("compose.yaml")["volumes"]) <= named


# systemd, pm2, Kubernetes: by the tools that will read them.


@pytest.mark.slow
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    unit = (DEPLOY / "systemd" / "streetvision-miner@.service").read_text()
    placed = tmp_path / "streetvision-miner@one.service"
    placed.write_text(unit.replace("/opt/streetvision", str(ROOT)))
    done = subprocess.run(["systemd-analyze", "verify", str(placed)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert placed.name not in done.stderr, done.stderr


def test_the_unit_waits_for_the_drain_and_stops_on_wrong_settings() -> None:
    unit = dict(
        line.split("=", 1)
        for line in (DEPLOY / "systemd" / "streetvision-miner@.service").read_text().splitlines()
        if "=" in line and not line.startswith("#")
    )
    assert int(unit["TimeoutStopSec"].rstrip("s")) > STOP_SECONDS
    assert (unit["Type"], unit["RestartPreventExitStatus"]) == ("notify", "2")
    assert unit["ProtectSystem"] == "strict"
    assert (unit["OOMPolicy"], unit["StartLimitIntervalSec"]) == ("continue", "0"), "it never gives up"
    assert "ProtectClock" not in unit, "before systemd 253 it keeps the cards' devices away (systemd issue 18142)"


def test_the_units_home_is_one_of_the_places_it_may_write() -> None:
    unit = (DEPLOY / "systemd" / "streetvision-miner@.service").read_text()
    homes = dict(line.split("=", 1) for line in re.findall(r"^Environment=(.*)$", unit, re.M))
    [writable] = re.findall(r"^StateDirectory=(.*)$", unit, re.M)
    places = [f"/var/lib/{place}" for place in writable.split()]
    assert homes["HOME"] in places, "compilers of kernels keep their caches below it"
    assert homes["HF_HOME"] in places
    assert homes["MINER_STATE_DIR"] in places


@pytest.mark.slow
def test_node_reads_the_pm2_file() -> None:
    file = DEPLOY / "pm2" / "ecosystem.config.js"
    apps = json.loads(run("node", "-e", f"console.log(JSON.stringify(require({json.dumps(str(file))}).apps))"))
    assert len({app["name"] for app in apps}) == len(apps) >= 1
    for app in apps:
        assert (Path(app["cwd"]) / app["script"]).is_file()
        assert app["args"] == "serve"
        assert app["kill_timeout"] > STOP_SECONDS * 1000
        assert set(app["env"]) == {"WALLET_NAME", "WALLET_HOTKEY", "MINER_AXON_PORT", "MINER_HEALTH_PORT"}, (
            "the environment wins over .env: what is named here can no longer be set there"
        )
        assert app["treekill"] is False, "workers must outlive the drain: the miner itself ends them"


POD_MONITOR = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "monitoring.coreos.com/v1"},
        "spec": {
            "type": "object",
            "required": ["selector", "podMetricsEndpoints"],
            "additionalProperties": False,
            "properties": {
                "jobLabel": {"type": "string"},
                "selector": {"type": "object", "required": ["matchLabels"]},
                "podMetricsEndpoints": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["port"],
                        "additionalProperties": False,
                        "properties": {
                            "port": {"type": "string"},
                            "path": {"type": "string"},
                            "interval": {"type": "string", "pattern": r"^\d+s$"},
                            "relabelings": {"type": "array", "items": {"type": "object"}},
                        },
                    },
                },
            },
        },
    },
}


def rendered(
    tmp_path: Path, folder: str, gpu: bool = False, name: str = "one", port: int = 30891
) -> list[dict[str, Any]]:
    """What `kubectl apply -k` would send, for a folder of a copy that has a hotkey beside the example.

    name, port: written into the example as its head says.
    """
    copy = tmp_path / "kubernetes"
    shutil.copytree(DEPLOY / "kubernetes", copy)
    (copy / "example" / "hotkey").write_text('{"ss58Address": "5F..."}')
    example = copy / "example" / "kustomization.yaml"
    example.write_text(re.sub(r"\bone\b(?! card)", name, example.read_text()).replace("30891", str(port)))
    if gpu:
        file = copy / "example" / "kustomization.yaml"
        switched = re.sub(r"^# (components: \[../gpu\]).*$", r"\1", file.read_text(), flags=re.M)
        assert switched != file.read_text()
        file.write_text(switched)
    assert shutil.which("kubectl"), "kubectl is needed"
    return list(yaml.safe_load_all(run("kubectl", "kustomize", copy / folder)))


@pytest.mark.slow
@pytest.mark.parametrize("gpu", [False, True], ids=["cpu", "gpu"])
def test_kubernetes_takes_what_kustomize_makes(tmp_path: Path, gpu: bool) -> None:
    import kubernetes_validate

    objects = rendered(tmp_path, "example", gpu)
    for each in objects:
        kubernetes_validate.validate(each, "1.33", strict=True)
    by_kind = {each["kind"]: each for each in objects}
    assert set(by_kind) == {"ConfigMap", "Secret", "Service", "StatefulSet", "NetworkPolicy"}

    pod = by_kind["StatefulSet"]["spec"]["template"]
    [miner] = pod["spec"]["containers"]
    secrets = [volume["secret"] for volume in pod["spec"]["volumes"] if "secret" in volume]
    assert [secret["secretName"] for secret in secrets] == [by_kind["Secret"]["metadata"]["name"]]
    assert list(by_kind["Secret"]["data"]) == ["hotkey"]
    assert miner["envFrom"] == [{"configMapRef": {"name": by_kind["ConfigMap"]["metadata"]["name"]}}]
    assert by_kind["StatefulSet"]["spec"]["replicas"] == 1
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert miner["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["spec"]["terminationGracePeriodSeconds"] > STOP_SECONDS
    assert miner["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert miner["image"] == f"streetvision-miner:{'gpu' if gpu else 'cpu'}"
    assert miner["resources"]["limits"].get("nvidia.com/gpu") == ("1" if gpu else None)

    labels = pod["metadata"]["labels"]
    for selector in (
        by_kind["Service"]["spec"]["selector"],
        by_kind["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        by_kind["StatefulSet"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector["streetvision/hotkey"] == "one"  # two hotkeys must not take each other's traffic
        assert selector.items() <= labels.items()


@pytest.mark.slow
def test_each_hotkey_announces_the_port_that_its_service_opens(tmp_path: Path) -> None:
    ports = []
    for number, name in ((30891, "one"), (30892, "two")):
        folder = tmp_path / name
        folder.mkdir()
        objects = rendered(folder, "example", name=name, port=number)
        by_kind = {each["kind"]: each for each in objects}
        assert by_kind["Service"]["metadata"]["name"].endswith(name)
        [port] = by_kind["Service"]["spec"]["ports"]
        assert by_kind["ConfigMap"]["data"]["MINER_EXTERNAL_PORT"] == str(port["nodePort"])
        ports.append(port["nodePort"])
    assert ports == [30891, 30892]


@pytest.mark.slow
def test_the_pod_monitor_finds_the_pods(tmp_path: Path) -> None:
    import jsonschema

    [monitor] = rendered(tmp_path, "monitoring")
    jsonschema.validate(monitor, POD_MONITOR)
    pod = read("kubernetes/base/statefulset.yaml")["spec"]["template"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    ports = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
    assert {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]} <= ports


def test_a_hotkey_beside_an_overlay_is_never_committed() -> None:
    assert "hotkey" in (DEPLOY / "kubernetes" / ".gitignore").read_text().splitlines()
