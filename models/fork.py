"""YOLO forks that call themselves ultralytics (YOLOv13, YOLO-Master): each in an environment and a process of its own.

Off until the operator makes, in the miner's state directory (MINER_STATE_DIR, else ~/.streetvision),

    external/KEY/venv       an environment with the fork installed: python -m venv .../venv, then the fork's own steps
    external/KEY/FILE       its checkpoint, a pickle that can run any code: only from who you trust

with KEY and FILE as `./run_miner.sh models show KEY` tells them. Licence: AGPL-3.0, as the forks.
"""

from __future__ import annotations

import json
import selectors
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from models.base import BadWeights, Frame, ModelCrashed, ModelTimeout, ModelUnavailable
from models.boxes import Box
from models.catalog import Entry
from models.detecting import Detecting
from models.detectors import known_classes
from models.torch_model import state_directory

SERVER = Path(__file__).with_name("fork_server.py")
CONFIDENCE = 0.01  # as for the real package
STARTING, ANSWERING = 300.0, 30.0  # seconds of patience


class Fork(Detecting):
    """A YOLO in another interpreter. The process starts with `load` and ends with `close`; one that died is not
    replaced here: the worker's owner loads the model anew."""

    def load(self, device: str) -> None:
        """Raises ModelUnavailable without an environment, BadWeights without a checkpoint or when it does not load."""
        home = external(self.entry)
        python, weights = home / "venv" / "bin" / "python", home / self.entry.file
        if not python.exists():
            raise ModelUnavailable(
                f"{self.entry.key}: no {python}; it needs an environment of its own (models/fork.py)"
            )
        if not weights.is_file():
            raise BadWeights(f"{self.entry.key}: no {weights}; put the fork's checkpoint there (models/fork.py)")
        self.device = device
        # -I: neither this project nor its folder is on the path of the other interpreter.
        command = [str(python), "-I", str(SERVER), str(weights), device]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        told = self._answered(STARTING)
        if "error" in told:
            self._end()
            raise BadWeights(f"{self.entry.key}: {weights} does not load in its environment ({told['error'][:300]})")
        self.table = known_classes(self.entry, told["names"])
        self._loaded = True
        self.join()

    def _load(self, directory: Path) -> None:
        """Nothing: `load` starts the process, which loads."""

    def detect(self, frames: Sequence[Frame]) -> list[list[Box]]:
        """Boxes per frame, of labels that weigh something, from a score of 0.01."""
        return [self._detect(frame) for frame in frames]

    def _detect(self, frame: Frame) -> list[Box]:
        width, height = frame.size
        asked = {"height": height, "width": width, "imgsz": self.entry.input_size, "conf": CONFIDENCE}
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps(asked).encode() + b"\n" + frame.pixels.tobytes())
            stdin.flush()
        except OSError:
            raise ModelCrashed(f"{self.entry.key}: its process is gone ({self._process.poll()})") from None
        answer = self._answered(ANSWERING)
        if isinstance(answer, Mapping):
            raise ModelCrashed(f"{self.entry.key}: {answer['error'][:300]}")
        return [
            Box.of(label, score, corners) for label, score, corners in answer if label.lower() in self.table.weights
        ]

    def _answered(self, patience: float) -> Any:
        """The next line of the process. Raises ModelTimeout, after ending it, and ModelCrashed."""
        stdout = self._process.stdout
        assert stdout is not None
        with selectors.DefaultSelector() as waiting:
            waiting.register(stdout, selectors.EVENT_READ)
            if not waiting.select(patience):
                self._end()
                raise ModelTimeout(f"{self.entry.key}: no answer of its process within {patience:g} s; it was ended")
        line = stdout.readline()
        if not line:
            raise ModelCrashed(f"{self.entry.key}: its process ended with exit code {self._process.wait()}")
        return json.loads(line)

    def _unload(self) -> None:
        if hasattr(self, "_process"):
            self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # what was not sent yet goes nowhere
                pipe.close()  # type: ignore[union-attr]


def external(entry: Entry) -> Path:
    """Where the operator puts what belongs to a model in an environment of its own."""
    return state_directory() / "external" / entry.key
