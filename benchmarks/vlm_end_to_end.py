"""A signed request over a real socket to its answer: axon, cascade, an encoder for every picture, then a VLM.

    python -m benchmarks.vlm_end_to_end --out DIR [--size 8B] [--seconds 10] [--workers 2]

As the miner runs them: the axon on uvloop, each model in a worker process of its own (`--workers 0`: both in the
miner's process), callers in processes of theirs. Both tiers are asked every time. Random weights; `--size tiny` is for
the CPU, with a tiny encoder too. Each step has a limit of its own and is named when it is over it; rows are written to
DIR/vlm_end_to_end.json as they are measured. Needs the base install (wallet library, uvicorn, uvloop) beside torch.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
import uvloop

from benchmarks.callers import MINER, VALIDATOR, ask
from benchmarks.vlm_scorer import Report, asked_briefly, configuration, folder, random_weights, rates
from cascade.engine import Engine
from cascade.profile import Batching, Member, Profile, Tier
from cascade.verdict import Verdict
from miner.decode import decode
from miner.gate import Rate, Rules
from miner.metagraph import Neuron
from miner.service import Answered, Service
from models import catalog
from models.base import Model
from models.classifiers import Classifier
from models.vlm.grids import GRIDS
from models.vlm.scorer import Float8Scorer
from models.worker import Remote, Worker
from tests.edge.wire import Edge, serving, subnet

START_S = 240.0  # limit of loading and recording
ENCODER = "natix-roadwork"


class RandomScorer(Float8Scorer):
    """Random weights, and only the grid that validators' pictures need. The folder is named after the size."""

    def _load(self, directory: Path) -> None:
        with random_weights(configuration(directory.name)):
            super()._load(directory)

    def _ready(self) -> None:
        super()._ready()
        self._grids = GRIDS[:1]


def encoder(directory: Path, tiny: bool) -> Callable[[], Model]:
    """A ViT-B/16 of random weights, or a small one."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    labels = {0: "None", 1: "Roadwork"}
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = ViTConfig(id2label=labels, label2id={v: k for k, v in labels.items()}, **(small if tiny else {}))
    ViTForImageClassification(config).save_pretrained(directory)
    ViTImageProcessor().save_pretrained(directory)
    return partial(Classifier, catalog.find(ENCODER), directory)


def placed(made: Mapping[str, Callable[[], Model]], workers: int) -> dict[str, Model]:
    """The models in the miner's own process, in one worker process, or in one each."""
    if not workers:
        return {key: make() for key, make in made.items()}
    common = Worker(made)
    return {
        key: Remote(catalog.find(key).spec, common if workers == 1 else Worker({key: make}, name=key))
        for key, make in made.items()
    }


def profile(keys: Sequence[str]) -> Profile:
    """One tier each; nothing is sure enough to stop early."""
    batching = Batching(max_size=64)
    tiers = [Tier(name=k, expected_ms=10, members=(Member(model=k, timeout_ms=8000, batching=batching),)) for k in keys]
    return Profile(name="two-tiers", band=(0.0, 1.0), tiers=tuple(tiers))


@asynccontextmanager
async def running(folders: Path, size: str, device: str, workers: int) -> AsyncIterator[tuple[Edge, list[Answered]]]:
    """The axon in front of both models, loaded, and what its answers were made of."""
    scorer = partial(asked_briefly, RandomScorer, folder(size, folders))
    made = {ENCODER: encoder(folders / "encoder", size == "tiny"), scorer().entry.key: scorer}
    engine = Engine(profile(list(made)), placed(made, workers), device=device)
    answered: list[Answered] = []
    service = Service(engine.decide, decode, lambda: 0.5, 0.5, [answered.append])
    cheap = Service(engine.decide_cheap, decode, lambda: 0.5, 0.5, [answered.append])
    validator = Neuron(1, VALIDATOR.ss58_address, 1000.0, True)
    rules = Rules(validator_rate=Rate(per_second=1e6, burst=1e6))  # the budget is not what is measured
    try:
        async with asyncio.timeout(START_S):
            await engine.start()
        async with serving(MINER.ss58_address, subnet(validator), service.answer, cheap.answer, rules=rules) as edge:
            yield edge, answered
    finally:
        await engine.close()


async def measure(report: Report, folders: Path, options: argparse.Namespace) -> None:
    """A row for each number of callers at once. Raises RuntimeError when an answer lacks a tier."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    async with running(folders, options.size, device, options.workers) as (edge, answered):
        for count in options.callers:
            await ask(edge.port, count, 0.0)  # once for nothing
            answered.clear()
            ms, rate = await ask(edge.port, count, options.seconds)
            row = rates(np.array(ms), count) | {"pictures_per_s": round(rate, 1), "answers": len(ms)}
            verdicts = [each.verdict for each in answered if each.verdict and len(each.verdict.opinions) == 2]
            row |= {"workers": options.workers, "both_tiers": len(verdicts)}
            row |= {"median_ms": medians(verdicts) | {"service": _median([each.seconds * 1e3 for each in answered])}}
            report.row(end_to_end=f"{ENCODER}, then {options.size}-fp8", what="socket to answer", **row)
            if len(verdicts) < len(answered):
                lacking = next(each for each in answered if each.verdict is None or len(each.verdict.opinions) != 2)
                raise RuntimeError(f"{len(answered) - len(verdicts)} answers lack a tier: {lacking.verdict}")


def medians(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Where the time of an answer went: in each model with its batch, and in the cascade with both."""
    models = {model: [v.opinions[at].milliseconds for v in verdicts] for at, model in enumerate(("encoder", "scorer"))}
    return {name: _median(ms) for name, ms in {**models, "cascade": [v.milliseconds for v in verdicts]}.items()}


def _median(ms: Sequence[float]) -> float:
    return round(float(np.median(ms)), 2)


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", default="8B", help="of the Qwen3-VL: 4B, 8B, 32B, tiny")
    parser.add_argument("--seconds", type=float, default=10.0, help="of asking, for each number of callers")
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--workers", type=int, choices=(0, 1, 2), default=2, help="processes that hold the models")
    options = parser.parse_args(given)
    options.out.mkdir(parents=True, exist_ok=True)
    report = Report(options.out / "vlm_end_to_end.json")
    with tempfile.TemporaryDirectory() as folders:
        work = measure(report, Path(folders), options)
        report.attempt("end to end", lambda: uvloop.run(work))
    return int(any("failed" in row for row in report.rows))


if __name__ == "__main__":
    sys.exit(main())
