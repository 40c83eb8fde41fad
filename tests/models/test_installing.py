"""The commands that install what is missing can be copied as they stand."""

from __future__ import annotations

import ast
import re
import shlex
import sys
import tomllib
from pathlib import Path

from models.installing import ROOT, pip_install_extra

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def test_an_extra_is_installed_into_this_python_from_this_checkout() -> None:
    python, *words, what = shlex.split(pip_install_extra("hub"))
    assert (python, words) == (sys.executable, ["-m", "pip", "install"])
    assert what == f"{Path(__file__).resolve().parents[2]}[hub]"


def test_no_message_names_a_pip_that_may_be_of_another_python() -> None:
    files = [path for package in ("miner", "cascade", "models", "neurons") for path in (ROOT / package).rglob("*.py")]
    said = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.search(r"pip3? install \S", node.value)
    ]
    assert said == ["models/training/render_sprites.py:1"], "use models.installing"  # a docstring


def test_every_extra_that_a_message_names_is_one() -> None:
    files = [path for package in ("miner", "models", "neurons") for path in (ROOT / package).rglob("*.py")]
    named = {name for path in files for name in re.findall(r"pip_install_extra\([\"'](\w+)", path.read_text())}
    assert {"gpu", "train"} <= named <= set(EXTRAS)
