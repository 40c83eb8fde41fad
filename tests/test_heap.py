"""Memory that pictures took for a moment goes back to the system."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from miner import heap
from miner.cli import ROOT

BLOCKS = """
import json, os, threading
from miner import heap
def resident(): return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
heap.few_heaps()
kept = []
def work():
    blocks = [bytearray(100_000) for _ in range(300)]  # below the size that is given back by itself
    kept.append(blocks[::30])                          # and some of them stay, so that no heap's end is free
threads = [threading.Thread(target=work) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
before = resident()
heap.give_back()
print(json.dumps([before, resident()]))
"""


def test_what_is_free_in_the_middle_of_a_heap_is_given_back() -> None:
    ran = subprocess.run([sys.executable, "-c", BLOCKS], cwd=ROOT, capture_output=True, text=True, check=True)
    before, after = json.loads(ran.stdout)
    assert after < before - 20.0, f"{before:.0f} MB before, {after:.0f} MB after"


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: SimpleNamespace())
    heap.few_heaps()
    heap.give_back()
