"""Every tier-0, 1 and 2 model at its real size with random weights: load seconds, ms and memory by batch.

    python benchmarks/gpu_models.py --save docs/results [--have TABLE.json ...] [--only ROW ...] [--budget 1500]

Each row runs in a process of its own, with a limit, the most valuable rows first; the table is saved after each, so
that a run that is cut keeps what it has. Rows that a table of the same card has already (`--have`) are left out.
`--save` writes `gpu-models-<card>-<date>.json`, which the planner reads, and the same as Markdown; a file that is there
keeps its other rows. No figure here is an accuracy (benchmarks/sizes.py). Each model runs through its own adapter: a
picture of 224 x 224 in, an Opinion out, preprocessing included. "runs": graph where the recording worked, else eager.
"reserved_gb" is what the planner reserves: the memory at the largest batch that a profile asks.

The rows that begin with "together" ask several models at the same moment, each on a stream of its own as in the worker:
how much longer than the slowest of them alone?

`--device cpu --tiny` checks the script, and measures nothing of use.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]
os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.mkdtemp(prefix="yolo-"))
os.environ.setdefault("YOLO_OFFLINE", "true")

import torch  # noqa: E402
import transformers as tf  # noqa: E402

from benchmarks.sizes import REAL, tiny  # noqa: E402
from cascade import profile  # noqa: E402
from models import catalog, foundation  # noqa: E402
from models.base import Frame  # noqa: E402
from models.cuda_graphs import Graphs  # noqa: E402
from models.torch_model import TorchModel  # noqa: E402

TOGETHER = {
    "together-encoders": ("dinov3-h-plus", "natix-roadwork", "c-radio-h"),
    "together-detectors": ("dfine-x", "rt-detrv2-r50", "mm-grounding-dino-l", "sam3"),
}
ROWS = [*list(REAL)[:8], *TOGETHER, *list(REAL)[8:]]
ROUNDS, WARM_UPS = 20, 2
LONGEST_MS = 3000.0  # of one batch size
LEAST_S = 15.0  # a row is not begun with less left

Row = dict[str, Any]


# ---- one row, in a process of its own --------------------------------------------------------------------------------


class Bench:
    """Models on one device, loaded from checkpoints that are written here."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.device, self.tiny = asked.device, asked.tiny
        self.batches, self.rounds = asked.batches, 1 if asked.tiny else asked.rounds
        self.on_card = asked.device != "cpu"
        self.streams: dict[str, Any] = {}

    def row(self, name: str) -> Row:
        with tempfile.TemporaryDirectory() as directory:
            if name in TOGETHER:
                return self.together([self.loaded(key, Path(directory) / key) for key in TOGETHER[name]])
            return self.alone(name, Path(directory) / name)

    def alone(self, key: str, directory: Path) -> Row:
        started = time.perf_counter()
        model = self.loaded(key, directory)
        forward = getattr(model, "forward", None)
        row: Row = {
            "precision": "bf16" if self.on_card else "fp32",
            "runs": "graph" if isinstance(forward, Graphs) else "eager",
            "load_s": round(time.perf_counter() - started - self.written, 2),
        }
        for batch in sorted(self.batches):
            row[f"ms_{batch}"] = round(self.milliseconds(model.assess, batch), 2)
            if self.on_card:
                row[f"gb_{batch}"] = round(torch.cuda.max_memory_reserved() / 1e9, 2)
                if batch <= served(key) or "reserved_gb" not in row:
                    row["reserved_gb"] = row[f"gb_{batch}"]
        return row

    def together(self, models: Sequence[TorchModel]) -> Row:
        alone = {model.entry.key: self.milliseconds(partial(self.ask, [model]), 1) for model in models}
        spent = self.milliseconds(partial(self.ask, models), 1)
        return {
            "alone_ms": {key: round(value, 2) for key, value in alone.items()},
            "ms_1": round(spent, 2),
            "factor_of_slowest": round(spent / max(alone.values()), 2),
            "factor_of_sum": round(spent / sum(alone.values()), 2),
        }

    def loaded(self, key: str, directory: Path) -> TorchModel:
        started = time.perf_counter()
        directory.mkdir()
        entry = catalog.find(key)
        if self.tiny:
            tiny.write(entry.class_name, directory)
            for path in directory.glob("yolo26x.pt"):
                path.rename(directory / entry.file)
        else:
            with torch.device(self.device):  # a card draws a billion random weights in no time
                REAL[key](directory)
        model = catalog.make(entry, directory)
        assert isinstance(model, TorchModel)
        if isinstance(model, foundation.Foundation):
            model.heads_file = random_head(directory, entry.repository)
        self.written = time.perf_counter() - started
        model.load(self.device)
        self.streams[key] = torch.cuda.Stream() if self.on_card else None
        return model

    def ask(self, models: Sequence[TorchModel], frames: Sequence[Frame]) -> None:
        """All of them at once, each in a thread and on a stream of its own. Raises what one of them raises."""
        failed: list[BaseException] = []

        def work(model: TorchModel) -> None:
            try:
                stream = self.streams[model.entry.key]
                with torch.cuda.stream(stream) if stream else nullcontext():
                    model.assess(frames)
            except Exception as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=[model]) for model in models]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]

    def milliseconds(self, ask: Callable[[Sequence[Frame]], Any], batch: int) -> float:
        """Median over fresh pictures (one seen before costs some models less); of slow models, over fewer."""
        rng = np.random.default_rng(batch)
        spent: list[float] = []
        while len(spent) < self.rounds + WARM_UPS and (len(spent) < WARM_UPS + 3 or sum(spent) < LONGEST_MS):
            frames = [Frame.of(rng.integers(0, 255, (224, 224, 3), np.uint8)) for _ in range(batch)]
            started = time.perf_counter()
            ask(frames)
            if self.on_card:
                torch.cuda.synchronize()
            spent.append((time.perf_counter() - started) * 1e3)
        return statistics.median(spent[WARM_UPS:])


def served(key: str) -> int:
    """The most pictures that a profile asks this model about at once."""
    members = [member for name in profile.shipped() for member in profile.load(name).members if member.model == key]
    return max((member.batching.max_size for member in members), default=16)


def random_head(directory: Path, encoder: str) -> Path:
    config = json.loads((directory / "config.json").read_text())
    width = config["hidden_size"]
    if config["model_type"] == "radio":
        width *= len(tf.RadioConfig(**{k: v for k, v in config.items() if k == "summary_idxs"}).summary_idxs)
    path = directory / "head.safetensors"
    heads = foundation.Heads(("roadwork",), np.ones((1, width), np.float32) / width, np.zeros(1, np.float32), encoder)
    heads.save(path)
    return path


# ---- all of them -----------------------------------------------------------------------------------------------------


def in_its_own_process(name: str, arguments: Sequence[str], seconds: float) -> Row:
    """The row, or why there is none. Its process, and what that started, is gone afterwards."""
    command = [sys.executable, __file__, *arguments, "--row", name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as child:
        try:
            said, _ = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            return {"key": name, "error": f"took longer than {seconds:.0f} s"}
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
    lines = [line for line in said.splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else {"key": name, "error": f"ended with {child.returncode} and said nothing"}


def answered(name: str, asked: argparse.Namespace) -> Row:
    """The same, here."""
    try:
        return {"key": name, **Bench(asked).row(name)}
    except Exception as error:  # every failure is a finding
        return {"key": name, "error": f"{type(error).__name__}: {str(error).strip()[:300]}"}


def known(paths: Sequence[Path], device: str) -> set[str]:
    """Rows that these tables of the same card have, without an error."""
    tables = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return {
        row["key"] for table in tables if table["device"] == device for row in table["models"] if "error" not in row
    }


def markdown(result: dict[str, Any]) -> str:
    columns = list(dict.fromkeys(name for row in result["models"] for name in row))
    lines = [
        f"# Models at real size, random weights: {result['device']}, {result['date']}",
        "",
        f"`{result['command']}`; torch {result['torch']}, transformers {result['transformers']}; "
        "picture 224 x 224 in, Opinion out.",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
        *("| " + " | ".join(str(row.get(name, "")) for name in columns) + " |" for row in result["models"]),
    ]
    return "\n".join(lines) + "\n"


def save(result: dict[str, Any], directory: Path) -> None:
    """Write the table, beside what a table of the same card and day has."""
    directory.mkdir(parents=True, exist_ok=True)
    stem = directory / f"gpu-models-{result['device'].lower().replace(' ', '-')}-{result['date']}"
    path = stem.with_suffix(".json")
    before = json.loads(path.read_text(encoding="utf-8"))["models"] if path.is_file() else []
    rows = {row["key"]: row for row in before}
    rows |= {row["key"]: row for row in result["models"] if "error" not in row or row["key"] not in rows}
    whole = {**result, "models": list(rows.values())}
    path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(markdown(whole), encoding="utf-8")


def arguments() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", default="cuda")
    options.add_argument("--only", nargs="+", choices=ROWS, default=ROWS, metavar="ROW")
    options.add_argument("--have", nargs="+", type=Path, default=[], help="tables whose rows are not measured again")
    options.add_argument("--batches", nargs="+", type=int, default=[1, 4, 16, 32])
    options.add_argument("--rounds", type=int, default=ROUNDS)
    options.add_argument("--limit", type=float, default=90.0, help="seconds of one row, imports included")
    options.add_argument("--budget", type=float, default=1500.0, help="seconds, after which no row is begun")
    options.add_argument("--save", type=Path)
    options.add_argument("--tiny", action="store_true", help="tiny models instead of real sizes")
    options.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    return options.parse_args()


def main() -> int:
    asked, started = arguments(), time.perf_counter()
    if asked.device != "cpu" and not torch.cuda.is_available():
        print("no card here; --device cpu --tiny checks that the script runs", file=sys.stderr)
        return 2
    if asked.row:
        print(json.dumps(answered(asked.row, asked)), flush=True)
        return 0
    card = "cpu" if asked.device == "cpu" else torch.cuda.get_device_name()
    rows: list[Row] = []
    for name in [name for name in asked.only if name not in known(asked.have, card)]:
        left = asked.budget - (time.perf_counter() - started)
        if left < LEAST_S:
            rows.append({"key": name, "error": "not begun: the budget is used up"})
            continue
        rows.append(in_its_own_process(name, sys.argv[1:], min(asked.limit, left)))
        print(json.dumps(rows[-1]), flush=True)
        if asked.save:
            save(table(card, rows), asked.save)
    print(markdown(table(card, rows)))
    return 1 if any("error" in row for row in rows) else 0


def table(card: str, rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "device": card,
        "date": date.today().isoformat(),
        "command": " ".join(["python", "benchmarks/gpu_models.py", *sys.argv[1:]]),
        "torch": torch.__version__,
        "transformers": tf.__version__,
        "models": list(rows),
    }


if __name__ == "__main__":
    sys.exit(main())
