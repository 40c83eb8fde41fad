"""kill -9 in the middle of the work loses nothing that was written, and the journal opens whole."""

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
    print(number, j.counts.written, flush=True)
    time.sleep(0.002)
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", [300, 777, 1500])
def test_kill_9_loses_at_most_what_waited_to_be_written(tmp_path: Path, after: int) -> None:
    """What waits is at most half a second old on a machine that keeps up (`miner.journal.LINGER`)."""
    root = Path(__file__).resolve().parents[2]
    script = [sys.executable, "-c", WRITER, str(tmp_path)]
    writer = subprocess.Popen(
        script, stdout=subprocess.PIPE, text=True, cwd=root, env={**os.environ, "PYTHONPATH": "."}
    )
    assert writer.stdout is not None
    taken = written = 0
    for line in writer.stdout:
        taken, written = map(int, line.split())
        if taken >= after and written:
            break
    os.kill(writer.pid, signal.SIGKILL)
    rest = [line for line in writer.stdout if line.endswith("\n")]
    if rest:
        taken, written = map(int, rest[-1].split())
    writer.wait()
    writer.stdout.close()
    db = sqlite3.connect(tmp_path / "journal.db")
    (integrity,) = db.execute("PRAGMA integrity_check").fetchone()
    (kept,) = db.execute("SELECT count(*) FROM requests").fetchone()
    (sums,) = db.execute("SELECT sum(n) FROM hours").fetchone()
    db.close()
    assert integrity == "ok"
    assert sums == kept  # rows and sums are of the same moment
    print(f"taken {taken}, on disk {kept}")
    assert kept >= written > 0
