"""`mock`: a miner process and a mock validator process on loopback, a live table, and a report."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from rich.console import Console

from miner.asking import Asking
from miner.settings import UsageError, parse

START_SECONDS = 120.0  # a cold machine reads the networks from disk and runs the first canary


class Mock(Asking):
    """A miner and a mock validator on this machine: challenges, live table, report in runs/.

    The miner takes its settings from the environment and .env (docs/configuration.md).
    """


def main(arguments: Sequence[str]) -> int:
    parse(Mock, arguments)  # before anything is started; the validator reads them again
    validator = [sys.executable, "-P", "-m", "neurons.validator"]
    run = Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S")
    try:
        run.mkdir(parents=True)
    except OSError as error:
        raise UsageError(
            f"{run.parent}: {error.strerror}; the report goes to ./{run.parent}: start in a folder that can be written"
        ) from None
    with running_miner(run) as url:
        given = ["--miner", url, "--trace", str(run / "trace.jsonl"), "--report", str(run)]
        return subprocess.call([*validator, *given, *arguments])


@contextmanager
def running_miner(run: Path) -> Iterator[str]:
    """A ready miner on the in-memory chain, as a process; stopped by SIGTERM on the way out. Yields its health URL.

    Raises UsageError with the end of its log when it ends early or does not get ready.
    """
    command = [sys.executable, "-P", "-m", "neurons.miner", "--network", "mock", "--log-level", "INFO"]
    log = run / "miner.log"
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with reserved_ports(2) as (axon, health), log.open("wb") as sink:
        flags = {"--axon-port": axon, "--health-port": health, "--state-dir": run, "--trace": run / "trace.jsonl"}
        url = f"http://127.0.0.1:{health}"
        miner = subprocess.Popen([*command, *(str(word) for pair in flags.items() for word in pair)], stderr=sink)
        try:
            with Console(stderr=True).status(f"Starting the miner (log: {log}) ..."):
                _wait_until_ready(miner, url, log)
            yield url
        finally:
            miner.terminate()
            miner.wait(timeout=30)
            signal.signal(signal.SIGTERM, previous)


def _wait_until_ready(miner: subprocess.Popen[bytes], url: str, log: Path) -> None:
    give_up = time.monotonic() + START_SECONDS
    while miner.poll() is None and time.monotonic() < give_up:
        try:
            with urlopen(url + "/readyz", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (URLError, OSError):
            time.sleep(0.1)
    state = f"ended with exit code {miner.returncode}" if miner.returncode is not None else "did not get ready"
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise UsageError(f"the miner {state}; the end of {log}:\n{tail}")


@contextmanager
def reserved_ports(count: int) -> Iterator[list[int]]:
    """Ports of the loopback address that are given to nobody else until the block ends, and that a server may take.

    They are bound without listening: the system then leaves them out when it chooses a port, and lets whoever names one
    and sets SO_REUSEADDR, as servers do, listen there (Linux; others may refuse the second).
    """
    with ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in held:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            each.bind(("127.0.0.1", 0))
        yield [each.getsockname()[1] for each in held]
