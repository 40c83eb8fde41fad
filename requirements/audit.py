"""Asks the public advisory database about every locked package.

    python requirements/audit.py [LOCK_FILE ...]      exit code 1 when one has a known weakness, 0 otherwise

Without a network, or behind a mirror that has no advisories, it says how many packages could not be looked up, and does
not fail: a build must not depend on somebody else's server.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
AUDIT = ("-m", "pip_audit", "--disable-pip", "--require-hashes", "--progress-spinner", "off", "--timeout", "10")


def main(arguments: Sequence[str]) -> int:
    worst = 0
    for lock in map(Path, arguments or [HERE / "base.txt"]):
        ran = subprocess.run([sys.executable, *AUDIT, "-f", "json", "-r", lock], capture_output=True, text=True)
        try:
            dependencies = json.loads(ran.stdout)["dependencies"]
        except (ValueError, KeyError):
            reason = (ran.stderr.strip().splitlines() or [f"exit code {ran.returncode}"])[-1]
            sys.stdout.write(f"{lock.name}: not audited: {reason[:200]}\n")
            continue
        said, weak = verdict(dependencies)
        sys.stdout.write(f"{lock.name}: {said}\n")
        worst = max(worst, weak)
    return worst


def verdict(dependencies: Sequence[dict[str, Any]]) -> tuple[str, bool]:
    """What pip-audit found, in words, and whether anything is known against a package."""
    unknown = [each["name"] for each in dependencies if "skip_reason" in each]
    weak = [each for each in dependencies if each.get("vulns")]
    lines = [f"{len(dependencies) - len(unknown)} packages looked up, {len(weak)} with a known weakness"]
    for each in weak:
        known = [f"{one['id']} (fixed in {', '.join(one['fix_versions']) or 'none yet'})" for one in each["vulns"]]
        lines.append(f"{each['name']} {each['version']}: {'; '.join(known)}")
    if unknown:
        lines.append(f"{len(unknown)} are not in the database that was reached, so nothing is known of them")
    return "\n  ".join(lines), bool(weak)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
