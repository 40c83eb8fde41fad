"""How to install what is missing, as a command to be copied: into the Python that runs, and from this checkout, since
no package index has the project."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def pip_install(package: str, option: str = "") -> str:
    """The command for a package of an index. option: of pip's, before the package."""
    return " ".join(filter(None, [sys.executable, "-m pip install", option, f"'{package}'"]))


def pip_install_extra(extra: str) -> str:
    """The command for one of the extras of pyproject.toml."""
    return pip_install(f"{ROOT}[{extra}]")
