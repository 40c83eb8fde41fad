"""The documentation says what the code does: pages made from it are current, links lead somewhere, commands exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from miner import reference
from miner.chain import register_command
from miner.cli import COMMANDS
from miner.profiles import members
from miner.telemetry import Metrics

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
BY_HAND = [page for page in PAGES if page.name not in {*reference.PAGES, "models.md"}]


def blocks(page: Path) -> list[str]:
    """The shell blocks of a page."""
    return re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.M | re.S)


def commands(page: Path) -> list[list[str]]:
    """The words of each `./run_miner.sh` line of a page, without the name of the script."""
    lines = [line for block in blocks(page) for line in block.splitlines() if "./run_miner.sh" in line]
    lines += re.findall(r"`(\./run_miner\.sh [^`]+)`", page.read_text())
    return [shlex.split(line.split("./run_miner.sh", 1)[1]) for line in lines]


def anchors(page: Path) -> set[str]:
    """What a link may point at inside a page: its headings, as MkDocs names them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", reference.PAGES)
def test_a_page_made_from_the_code_is_current(name: str) -> None:
    made = reference.PAGES[name]()
    assert (DOCS / name).read_text() == made, "run: python -m miner.reference"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        goal = (page.parent / file).resolve() if file else page
        assert goal.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(goal), f"{page.name}: {target}; {goal.name} has {sorted(anchors(goal))}"


def test_every_page_is_in_the_navigation() -> None:
    found = re.findall(r"[\w-]+\.md", (ROOT / "mkdocs.yml").read_text().split("\nnav:")[1])
    assert sorted(found) == [page.name for page in PAGES]


@pytest.mark.parametrize("page", BY_HAND, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    for words in commands(page):
        if words and not words[0].startswith("-"):
            assert words[0] in COMMANDS, f"{page.name}: {' '.join(words)}"


@cache
def help_of(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "miner", *command, "--help"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in BY_HAND if commands(page)], ids=lambda page: page.name)
def test_flags_exist(page: Path) -> None:
    for words in commands(page):
        if not words or words[0].startswith("-"):
            continue
        for flag in [word.partition("=")[0] for word in words[1:] if word.startswith("--")]:
            verbs = words[1:2] if words[0] in {"improve", "journal"} and not words[1].startswith("-") else []
            assert re.search(rf"{flag}\b", help_of(words[0], *verbs)), f"{page.name}: {' '.join(words)}"


@pytest.mark.parametrize("page", BY_HAND, ids=lambda page: page.name)
def test_a_command_that_opens_a_wallet_names_it(page: Path) -> None:
    lines = [line for block in blocks(page) for line in block.splitlines()]
    for line in lines:
        if re.search(r"run_miner\.sh (serve|register|publish)\b", line) and "--network mock" not in line:
            assert "--wallet-name mine --wallet-hotkey h100" in line, f"{page.name}: {line}"


@pytest.mark.parametrize(("page", "netuid", "network"), [("testnet.md", 323, "test"), ("mainnet.md", 72, "finney")])
def test_the_page_has_the_command_that_register_shows(page: str, netuid: int, network: str) -> None:
    assert register_command(netuid, network, "mine", "h100") in "".join(blocks(DOCS / page))


SCRIPT = r"python (?:-m ((?:benchmarks|models|miner)(?:\.\w+)+)|((?:benchmarks|models|miner)/[\w/]+\.py))([^`\n]*)"


@pytest.mark.parametrize("page", [ROOT / "README.md", *BY_HAND], ids=lambda page: page.name)
def test_scripts_that_are_named_exist_and_know_the_flags(page: Path) -> None:
    for module, path, words in re.findall(SCRIPT, page.read_text()):
        file = ROOT / (path or module.replace(".", "/") + ".py")
        assert file.is_file(), f"{page.name}: {module or path}"
        for flag in re.findall(r"--[a-z][\w-]*", words):
            name = flag.removeprefix("--").replace("-", "_")
            assert re.search(rf'"{flag}"|\b{name}: ', file.read_text()), f"{page.name}: {file.name} {flag}"


def test_metrics_and_alerts_that_are_named_exist() -> None:
    known = {each.name for each in Metrics().described}
    rules = (ROOT / "deploy" / "prometheus" / "rules.yml").read_text()
    for page in BY_HAND:
        for name in re.findall(r"`(streetvision_[a-z_]+)`", page.read_text()):
            assert name in known, f"{page.name}: {name}"
        for alert in re.findall(r"`([A-Z][A-Za-z]+)` fires", page.read_text()):
            assert f"alert: {alert}\n" in rules, f"{page.name}: {alert}"


def test_files_of_the_checkout_that_are_named_exist() -> None:
    for page in BY_HAND:
        for name in re.findall(r"\b((?:deploy|miner|cascade|models|requirements)/[\w./@-]+\.\w+)\b", page.read_text()):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_the_quick_start_names_every_gated_model_of_its_profile() -> None:
    linked = set(re.findall(r"https://huggingface\.co/([\w-]+/[\w-]+)", (DOCS / "quickstart.md").read_text()))
    assert linked == {entry.repository for entry in members("one-80gb") if entry.gated}


def test_the_cards_packages_are_those_of_the_extra() -> None:
    [line] = [
        line for block in blocks(DOCS / "quickstart.md") for line in block.splitlines() if "pip install 'vllm" in line
    ]
    told = set(shlex.split(line.split("pip install")[1]))
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["gpu"]
    assert told == set(extra)


def test_messages_that_are_shown_are_the_programs_own() -> None:
    page = (DOCS / "testnet.md").read_text()
    assert "is not registered on subnet 323. Register it: btcli" in page
    assert "Register it" in (ROOT / "neurons" / "miner.py").read_text()
    assert register_command(323, "test", "mine", "h100").startswith("btcli subnet register")


def test_the_drawing_is_whole_and_loads_nothing() -> None:
    drawing = DOCS / "images" / "architecture.svg"
    ElementTree.parse(drawing)
    assert re.findall(r"https?://[^\"]+", drawing.read_text()) == ["http://www.w3.org/2000/svg"]


def test_the_site_loads_nothing_from_elsewhere() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert settings["theme"]["font"] is False
    assert "extra_javascript" not in settings


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "excluded from the built site" not in done.stderr, done.stderr
    assert (tmp_path / "site" / "troubleshooting.html").is_file()
    for page in (tmp_path / "site").glob("*.html"):
        loaded = re.findall(r"<(?:script|img|link)[^>]+(?:src|href)=\"(https?://[^\"]+)\"", page.read_text())
        assert loaded == [], page.name
