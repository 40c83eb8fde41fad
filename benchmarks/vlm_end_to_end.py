"""A signed request over a real socket to its answer: axon, cascade, an encoder for every picture, then a VLM.

    python -m benchmarks.vlm_end_to_end --out DIR [--size 8B] [--seconds 10]

Both tiers are asked every time. Random weights; `--size tiny` is for the CPU, with a tiny encoder too. Each step has a
limit of its own and is named when it is over it; rows are written to DIR/vlm_end_to_end.json as they are measured.
Needs the base install (wallet library, uvicorn) beside torch.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from bittensor_wallet import Keypair
from PIL import Image

from benchmarks.vlm_scorer import Report, asked_briefly, configuration, folder, random_weights, rates
from cascade.engine import Engine
from cascade.profile import Batching, Member, Profile, Tier
from miner.decode import decode
from miner.gate import Rate, Rules
from miner.metagraph import Neuron
from miner.service import Answered, Service
from models import catalog
from models.classifiers import Classifier
from models.vlm.grids import GRIDS
from models.vlm.qwen3_vl import Tower
from models.vlm.scorer import Float8Scorer
from tests.edge.signing import Dendrite
from tests.edge.wire import Edge, read_response, serving, subnet

MINER, VALIDATOR = (Keypair.create_from_uri(f"//edge/{name}") for name in ("miner", "validator"))
START_S, ANSWER_S = 240.0, 15.0  # limits of loading and recording, and of one answer
ENCODER = "natix-roadwork"


def encoder(directory: Path, tiny: bool) -> Classifier:
    """A ViT-B/16 of random weights, or a small one."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    labels = {0: "None", 1: "Roadwork"}
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = ViTConfig(id2label=labels, label2id={v: k for k, v in labels.items()}, **(small if tiny else {}))
    ViTForImageClassification(config).save_pretrained(directory)
    ViTImageProcessor().save_pretrained(directory)
    return Classifier(catalog.find(ENCODER), directory)


def profile(keys: Sequence[str]) -> Profile:
    """One tier each; nothing is sure enough to stop early."""
    batching = Batching(max_size=64, max_wait_ms=2)
    tiers = [Tier(name=k, expected_ms=10, members=(Member(model=k, timeout_ms=8000, batching=batching),)) for k in keys]
    return Profile(name="two-tiers", band=(0.0, 1.0), tiers=tuple(tiers))


@asynccontextmanager
async def running(folders: Path, size: str, device: str) -> AsyncIterator[tuple[Edge, list[Answered]]]:
    """The axon in front of both models, loaded, and what its answers were made of."""
    scorer = asked_briefly(Float8Scorer, folder(size, folders))
    models: dict[str, Any] = {ENCODER: encoder(folders / "encoder", size == "tiny"), scorer.entry.key: scorer}
    engine = Engine(profile(list(models)), models, device=device)
    answered: list[Answered] = []
    service = Service(engine.decide, decode, 0.5, 0.5, [answered.append])
    cheap = Service(engine.decide_cheap, decode, 0.5, 0.5, [answered.append])
    validator = Neuron(1, VALIDATOR.ss58_address, 1000.0, True)
    rules = Rules(validator_rate=Rate(per_second=1e6, burst=1e6))  # the budget is not what is measured
    with (
        random_weights(configuration(size)),
        mock.patch.object(Tower, "grids", GRIDS[:1]),
    ):  # validators' need no others
        try:
            async with asyncio.timeout(START_S):
                await engine.start()
            async with serving(
                MINER.ss58_address, subnet(validator), service.answer, cheap.answer, rules=rules
            ) as edge:
                yield edge, answered
        finally:
            await engine.close()


async def caller(edge: Edge, number: int, images: Sequence[str], until: float, spent: list[float]) -> None:
    """One connection that asks again as soon as it is answered. Milliseconds of each answer go to `spent`."""
    dendrite = Dendrite(VALIDATOR, MINER.ss58_address, uuid=f"00000000-0000-0000-0000-{number:012d}")
    reader, writer = await edge.connect()
    try:
        for turn in range(sys.maxsize):
            request = dendrite.request(images[(number + turn) % len(images)]).bytes()
            begun = time.perf_counter()
            writer.write(request)
            async with asyncio.timeout(ANSWER_S):
                response = await read_response(reader)
            if response.status != 200:
                raise RuntimeError(f"expected status 200, got {response.status}: {response.body[:200]!r}")
            spent.append((time.perf_counter() - begun) * 1e3)
            if time.perf_counter() >= until:
                return
    finally:
        writer.close()


async def ask(edge: Edge, count: int, seconds: float, images: Sequence[str]) -> tuple[list[float], float]:
    """Milliseconds of each answer to `count` callers, and answers per second."""
    spent: list[float] = []
    begun = time.perf_counter()
    await asyncio.gather(*(caller(edge, number, images, begun + seconds, spent) for number in range(count)))
    return spent, len(spent) / (time.perf_counter() - begun)


async def measure(
    report: Report, folders: Path, size: str, device: str, seconds: float, callers: Sequence[int]
) -> None:
    """A row for each number of callers at once. Raises RuntimeError when an answer lacks a tier."""
    rng = np.random.default_rng(0)
    images = [_jpeg(rng.integers(0, 255, (224, 224, 3), np.uint8)) for _ in range(64)]
    async with running(folders, size, device) as (edge, answered):
        for count in callers:
            await ask(edge, count, 0.0, images)  # once for nothing
            answered.clear()
            ms, rate = await ask(edge, count, seconds, images)
            row = rates(np.array(ms), count) | {"pictures_per_s": round(rate, 1), "answers": len(ms)}
            both = sum(each.verdict is not None and len(each.verdict.opinions) == 2 for each in answered)
            report.row(end_to_end=f"{ENCODER}, then {size}-fp8", what="socket to answer", both_tiers=both, **row)
            if both < len(answered):
                lacking = next(each for each in answered if each.verdict is None or len(each.verdict.opinions) != 2)
                raise RuntimeError(f"{len(answered) - both} of {len(answered)} answers lack a tier: {lacking.verdict}")


def _jpeg(pixels: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=90)
    return base64.b64encode(stream.getvalue()).decode()


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", default="8B", help="of the Qwen3-VL: 4B, 8B, 32B, tiny")
    parser.add_argument("--seconds", type=float, default=10.0, help="of asking, for each number of callers")
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 32])
    options = parser.parse_args(given)
    options.out.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    report = Report(options.out / "vlm_end_to_end.json")
    with tempfile.TemporaryDirectory() as folders:
        work = measure(report, Path(folders), options.size, device, options.seconds, options.callers)
        report.attempt("end to end", lambda: asyncio.run(work))
    return int(any("failed" in row for row in report.rows))


if __name__ == "__main__":
    sys.exit(main())
