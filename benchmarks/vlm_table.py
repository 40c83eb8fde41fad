"""Yes or no about one picture, side by side in one run on one card: the static scorer, vLLM, transformers, the limit.

    python -m benchmarks.vlm_table --out DIR [--minutes 9] [--vllm-python PATH]

Every row is a process of its own with a time limit of its own, most valuable first; what one leaves behind is read even
if it failed or was cut short, and the table is printed anew after each. Weights are random, at the models' real sizes.
Rows go to DIR/ROW/, the table to DIR/vlm_table.md and DIR/vlm_table.json. vLLM may live in another Python; it finds one
card, so nothing else may run on it. `--tiny` tries the same on the CPU without vLLM, and measures nothing of use.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TARGETS = {"4B": (6.0, 700.0), "8B-fp8": (7.0, 600.0), "32B-fp8": (18.0, 160.0)}  # ms of one picture, pictures/s
VLLM = "vLLM, tuned"
PIXELS, CARD, SOCKET = "pixels to log-odds", "graph", "socket to answer"

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Row:
    """One process. command: after the interpreter; {out} is its folder, {folders} where checkpoints without weights
    are. seconds: its limit."""

    who: str
    model: str
    command: str
    seconds: float
    vllm: bool = False

    @property
    def folder(self) -> str:
        return f"{self.who}-{self.model}".replace(",", "").replace(" ", "-")


def scorer(model: str, seconds: float, batches: str = "1,4,16,32,64") -> Row:
    return Row("scorer", model, f"-m benchmarks.vlm_scorer --out {{out}} --batches {batches} {model}", seconds)


def vllm(case: str, model: str, seconds: float) -> Row:
    command = f"-m benchmarks.vlm_engine {{folders}}/{model} {case} --out {{out}}"
    return Row(f"vLLM, {case}", model, command, seconds, vllm=True)


def aside(who: str, option: str, model: str, seconds: float) -> Row:
    return Row(who, model, f"-m benchmarks.vlm_scorer --out {{out}} --{option} {model}", seconds)


ROWS = (
    scorer("4B", 90),
    vllm("tuned", "4B", 210),
    scorer("8B-fp8", 90),
    scorer("32B-fp8", 110),
    vllm("shipped", "4B", 190),
    aside("transformers", "eager", "4B", 90),
    aside("equality", "equal", "4B", 90),
    aside("transformers", "eager", "8B", 60),
    aside("transformers", "eager", "32B", 90),
    Row("end to end", "8B", "-m benchmarks.vlm_end_to_end --out {out} --size 8B", 120),
    aside("start-up", "start-up", "8B-fp8", 120),
)
TINY = (
    scorer("tiny", 120, "1,2"),
    vllm("tuned", "tiny", 60),
    aside("transformers", "eager", "tiny", 120),
    aside("equality", "equal", "tiny", 120),
    Row("end to end", "tiny", "-m benchmarks.vlm_end_to_end --out {out} --size tiny --seconds 2 --callers 1 4", 120),
)


def measured(folder: Path) -> list[dict[str, Any]]:
    """What a row's process has written so far."""
    found: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.json")):
        found += json.loads(path.read_text(encoding="utf-8"))
    return found


def run(row: Row, out: Path, seconds: float, python: str) -> str:
    """How it ended: "" if well. All of its processes are gone then."""
    folder = out / row.folder
    folder.mkdir(parents=True, exist_ok=True)
    command = [python, *row.command.format(out=folder, folders=out / "folders").split()]
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"cut short after {seconds:.0f} s"
        finally:
            _kill(process)
    failed = [each["failed"] for each in measured(folder) if "failed" in each]
    if status or failed:
        return f"failed ({', '.join(failed) or f'exit {status}'}), see {row.folder}/log.txt"
    return ""


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@dataclass(frozen=True, slots=True)
class Line:
    """A row's figures, as its process wrote them."""

    row: Row
    rows: Rows
    ended: str

    def of(self, what: str) -> list[Mapping[str, Any]]:
        return [each for each in self.rows if each.get("what") == what]

    def one(self, what: str) -> Mapping[str, Any] | None:
        return next((each for each in self.of(what) if each["batch"] == 1 and "p50_ms" in each), None)

    def best(self, what: str) -> Mapping[str, Any] | None:
        return max(self.of(what), key=lambda each: float(each["pictures_per_s"]), default=None)

    def last(self, key: str) -> Any:
        return next((each[key] for each in reversed(self.rows) if key in each), None)


def cells(line: Line, tuned: Line | None) -> list[str]:
    """A line of the table."""
    start = [line.last(key) for key in ("start_s", "load_s", "record_s", "first_grid_s")]
    spent = sum(value for value in start if value is not None)
    memory, pixels = line.last("reserved_gb"), SOCKET if line.of(SOCKET) else PIXELS
    return [
        line.row.who,
        line.row.model,
        *(_ms(line.one(what)) for what in (CARD, pixels)),
        *(_rate(line.best(what)) for what in (CARD, pixels)),
        "" if memory is None else f"{memory:g}",
        f"{spent:.1f}" if spent else "",
        _against(line, TARGETS.get(line.row.model)) if line.row.who == "scorer" else "",
        _times(line, tuned),
        line.ended or _apart(line) or "done",
    ]


def _apart(line: Line) -> str:
    """The largest distance of a log-odds from the library's in 32 bits, over all grids."""
    rows = [each for each in line.rows if "equality" in each]
    kinds = [name for name in rows[0] if name.endswith("off by")] if rows else []
    return "; ".join(f"{kind} {max(each[kind] for each in rows):g}" for kind in kinds)


def _ms(one: Mapping[str, Any] | None) -> str:
    return f"{one['p50_ms']:.2f} / {one['p99_ms']:.2f}" if one else ""


def _rate(best: Mapping[str, Any] | None) -> str:
    return f"{best['pictures_per_s']:.0f} ({best['batch']})" if best else ""


def _against(line: Line, target: tuple[float, float] | None) -> str:
    """From pixels, which is what a miner has."""
    one, best = line.one(PIXELS), line.best(PIXELS)
    if not (target and one and best):
        return ""
    ms, rate = target
    reached = "yes" if one["p50_ms"] <= ms else "no", "yes" if best["pictures_per_s"] >= rate else "no"
    return f"{ms:g} ms: {reached[0]}; {rate:g}/s: {reached[1]}"


def _times(line: Line, tuned: Line | None) -> str:
    """Latency and throughput against vLLM's of the same model, both from pixels."""
    if tuned is None or line is tuned or line.row.model != tuned.row.model:
        return ""
    ours, theirs = (line.one(PIXELS), line.best(PIXELS)), (tuned.one(PIXELS), tuned.best(PIXELS))
    if not all((*ours, *theirs)):
        return ""
    latency = theirs[0]["p50_ms"] / ours[0]["p50_ms"]  # type: ignore[index]
    throughput = ours[1]["pictures_per_s"] / theirs[1]["pictures_per_s"]  # type: ignore[index]
    return f"{latency:.1f} / {throughput:.1f}"


HEAD = (
    "who",
    "model",
    "batch 1 on the card, p50 / p99 ms",
    "batch 1 from pixels, p50 / p99 ms",
    "best on the card, pictures/s (batch)",
    "best from pixels, pictures/s (batch)",
    "reserved GB",
    "load + capture, s",
    "target, from pixels",
    "times vLLM tuned, latency / throughput",
    "ended",
)


def limits(lines: Sequence[Line]) -> list[list[str]]:
    """What the card allows each model that was measured: weights read once, and products at their ceiling."""
    rows = [each for line in lines for each in line.rows]
    ceilings = {each["limit"]: each for each in reversed(rows) if "limit" in each}
    costs = {each["costs"]: each for each in rows if "costs" in each}
    said = []
    for model, cost in costs.items():
        copy, bf16 = ceilings.get("copy, read and written"), ceilings.get("bf16 product")
        eight = ceilings.get("float8 product, row scales") if cost["float8_gflop"] else bf16
        if not (copy and bf16 and eight and copy["tb_per_s"] and bf16["tflops"] and eight["tflops"]):
            continue
        ms = cost["gb"] / copy["tb_per_s"]
        seconds = cost["bf16_gflop"] / bf16["tflops"] + cost["float8_gflop"] / eight["tflops"]
        said.append(["limit", model, f"{ms:.2f}", "", f"{1e3 / seconds:.0f}", *[""] * 5, "computed"])
    return said


def table(lines: Sequence[Line]) -> str:
    """Markdown. Rows that failed are in it, with what they had measured."""
    tuned = next((line for line in lines if line.row.who == VLLM), None)
    body = [*(cells(line, tuned) for line in lines), *limits(lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in ([*HEAD], ["---"] * len(HEAD), *body))


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9.0, help="of all rows together")
    parser.add_argument("--vllm-python", default=sys.executable, help="interpreter that has vLLM")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to try it on the CPU")
    options = parser.parse_args(given)
    out, until, rows = options.out.resolve(), time.monotonic() + 60 * options.minutes, TINY if options.tiny else ROWS
    (out / "folders").mkdir(parents=True, exist_ok=True)
    size = rows[0].model
    prepare = Row("prepare", size, f"-m benchmarks.vlm_scorer --folder {size}={{folders}}", 120)
    print(f"prepare: {run(prepare, out, prepare.seconds, sys.executable) or 'done'}", flush=True)
    lines: list[Line] = []
    for row in rows:
        left = min(row.seconds, until - time.monotonic())
        python = options.vllm_python if row.vllm else sys.executable
        ended = run(row, out, left, python) if left > 1 else "not run: no time left"
        lines.append(Line(row, measured(out / row.folder), ended))
        print(table(lines), flush=True)
        (out / "vlm_table.md").write_text(table(lines) + "\n", encoding="utf-8")
        found = [
            {"who": each.row.who, "model": each.row.model, "ended": each.ended, "rows": each.rows} for each in lines
        ]
        (out / "vlm_table.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0 if not any(line.ended for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
