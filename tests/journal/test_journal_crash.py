"""kill -9 in the middle of the work loses at most the last second, and the journal opens whole."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

WRITER = """
import sys, time
from pathlib import Path
from tests.journal.making import answered, journal, verdict
from miner.journal import Keep
j = journal(Path(sys.argv[1]), keep=Keep(share=1.0))
requests = [answered(seed, verdict(0.5)) for seed in range(20)]
number = 0
while True:
    j(requests[number % 20])
    number += 1
    print(number, time.time(), flush=True)
    time.sleep(0.002)
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", [300, 777, 1500])
def test_kill_9_loses_at_most_the_last_second(tmp_path: Path, after: int) -> None:
    root = Path(__file__).resolve().parents[2]
    script = [sys.executable, "-c", WRITER, str(tmp_path)]
    writer = subprocess.Popen(
        script, stdout=subprocess.PIPE, text=True, cwd=root, env={**os.environ, "PYTHONPATH": "."}
    )
    assert writer.stdout is not None
    taken: list[float] = []
    for line in writer.stdout:
        taken.append(float(line.split()[1]))
        if len(taken) == after:
            break
    os.kill(writer.pid, signal.SIGKILL)
    taken += [float(line.split()[1]) for line in writer.stdout if len(line.split()) == 2]
    writer.wait(10)
    writer.stdout.close()
    db = sqlite3.connect(tmp_path / "journal.db")
    (integrity,) = db.execute("PRAGMA integrity_check").fetchone()
    (kept,) = db.execute("SELECT count(*) FROM requests").fetchone()
    (sums,) = db.execute("SELECT sum(n) FROM hours").fetchone()
    db.close()
    assert integrity == "ok"
    assert sums == kept  # rows and sums are of the same moment
    lost = taken[kept:]
    print(f"taken {len(taken)}, on disk {kept}, lost the last {lost[-1] - lost[0] if lost else 0.0:.3f} s")
    assert not lost or taken[-1] - lost[0] <= 1.0
