"""A miner as a process for the long measurements, and what the kernel says of a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from miner.cli import ROOT
from miner.commands.mock import reserved_ports


@dataclass(frozen=True, slots=True)
class Running:
    """A miner on the in-memory chain. url: of its health port. log: where its standard error goes."""

    process: subprocess.Popen[bytes]
    axon: int
    url: str
    log: Path

    def readyz(self) -> tuple[int, dict[str, Any]]:
        """Status and content of /readyz. Raises OSError while nothing listens."""
        try:
            with urlopen(self.url + "/readyz", timeout=5) as answer:
                return answer.status, json.load(answer)
        except HTTPError as error:
            return error.code, json.load(error)

    def metric(self, name: str) -> float:
        """What /metrics says of one without labels. Raises OSError while nothing listens."""
        with urlopen(self.url + "/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])

    def hotkey(self, seconds: float = 120.0) -> str:
        """Its address, once it is ready. Raises RuntimeError with the end of its log when it does not get there."""
        give_up = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < give_up:
            try:
                status, said = self.readyz()
                if status == 200:
                    return str(said["hotkey"])
            except (URLError, OSError):
                pass
            time.sleep(0.05)
        raise RuntimeError(f"not ready:\n{self.log.read_text(errors='replace')[-2000:]}")


@contextmanager
def miner(
    directory: Path,
    *flags: str,
    command: Sequence[str] = ("-m", "neurons.miner"),
    log_level: str = "WARNING",
    ports: Sequence[int] = (),
) -> Iterator[Running]:
    """A started miner, not yet ready; killed on the way out if it still runs. ports: the axon's and the health port,
    which the caller holds; otherwise two that are free."""
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / "miner.log"
    with reserved_ports(0 if ports else 2) as free, log.open("wb") as sink:
        axon, health = ports or free
        words = ["--network", "mock", "--axon-port", axon, "--health-port", health, "--state-dir", directory]
        given = [sys.executable, "-P", *command, *map(str, words), "--log-level", log_level, *flags]
        process = subprocess.Popen(given, stderr=sink, env=os.environ | {"PYTHONPATH": str(ROOT)})
        try:
            yield Running(process, axon, f"http://127.0.0.1:{health}", log)
        finally:
            process.kill()
            process.wait()


def resident_mb(pid: int) -> float:
    """Megabytes (2^20) of memory that a process holds now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def descriptors(pid: int) -> int:
    """How many files, sockets and pipes a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has taken, in its threads of now and of before; to a hundredth of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
