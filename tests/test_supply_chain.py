"""What is installed is what was locked: every package pinned and hashed, and asked after in the advisory database."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from miner.cli import ROOT

REQUIREMENTS = ROOT / "requirements"
LOCKS = ("base.txt", "test.txt", "dendrite.txt")


@pytest.fixture
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", REQUIREMENTS / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def locked(name: str) -> dict[str, list[str]]:
    """Package -> its hashes. Raises on a line that is neither a pin nor a hash."""
    text = (REQUIREMENTS / name).read_text().replace("\\\n", " ")
    found = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        pin = re.match(r"([A-Za-z0-9._-]+)==\S+", line)
        assert pin, f"{name}: not pinned: {line[:80]}"
        found[pin[1].lower()] = re.findall(r"--hash=sha256:([0-9a-f]{64})\b", line)
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_package_is_pinned_and_hashed(name: str) -> None:
    packages = locked(name)
    assert len(packages) > 20
    assert [package for package, hashes in packages.items() if not hashes] == []


def test_every_dependency_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {re.split(r"[\[<>=!~; ]", each, maxsplit=1)[0].lower() for each in project["dependencies"]}
    assert named - locked("base.txt").keys() == set()


def test_environments_are_made_from_hashes_only() -> None:
    assert "--no-deps --require-hashes -r" in (REQUIREMENTS / "environment.sh").read_text()
    assert "--require-hashes" in (ROOT / "deploy" / "Dockerfile").read_text()
    assert "requirements/audit.py" in (ROOT / "run_tests.sh").read_text()


def test_a_known_weakness_fails_and_names_the_release_that_mends_it(audit: ModuleType) -> None:
    sound = {"name": "numpy", "version": "2.4.0", "vulns": []}
    weak = {"name": "pillow", "version": "9.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["9.0.1"]}]}
    hidden = {"name": "ours", "skip_reason": "not found"}
    said, failed = audit.verdict([sound, weak, hidden])
    assert failed
    assert "2 packages looked up, 1 with a known weakness" in said
    assert "pillow 9.0: PYSEC-1 (fixed in 9.0.1)" in said
    assert "1 are not in the database" in said
    assert not audit.verdict([sound])[1]


def test_without_the_database_it_says_so_and_does_not_fail(
    audit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = tmp_path / "one.txt"
    lock.write_text("idna==3.7 \\\n    --hash=sha256:" + "0" * 64 + "\n")
    monkeypatch.setattr(audit, "AUDIT", (*audit.AUDIT, "-s", "osv", "--osv-url", "http://127.0.0.1:1/"))
    assert audit.main([str(lock)]) == 0
    assert "one.txt: not audited: " in capsys.readouterr().out
