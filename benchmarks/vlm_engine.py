"""The scorer's work done by vLLM: the same model, prompt, pictures and answer, on random weights of real size.

    python -m benchmarks.vlm_engine DIRECTORY CASE --out DIR

DIRECTORY holds a checkpoint without its weights, as `benchmarks.vlm_scorer --folder SIZE=DIRECTORY` makes it. CASE is a
row of CASES. Rows go to the output and to DIR/vlm_engine-CASE.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SHIPPED: dict[str, Any] = {"limit_mm_per_prompt": {"image": 1, "video": 0}, "max_model_len": 2048}
TUNED: dict[str, Any] = {
    "limit_mm_per_prompt": {"image": 1, "video": 0},
    "max_model_len": 1024,
    "max_num_seqs": 64,
    "mm_processor_cache_gb": 0,
    "renderer_num_workers": 8,
    "compilation_config": {
        "cudagraph_mm_encoder": True,
        "encoder_cudagraph_token_budgets": [64, 128, 256, 512, 1024, 2048, 4096],
    },
}
CASES = {"shipped": SHIPPED, "tuned": TUNED, "tuned-fp8": {**TUNED, "quantization": "fp8"}}


def picture(rng: np.random.Generator) -> Any:
    return Image.fromarray(rng.integers(0, 255, (224, 224, 3), dtype=np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--out", type=Path, default=Path("."))
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []

    def row(**values: Any) -> None:
        rows.append({"engine": f"vLLM {options.case}", "model": options.directory.name, **values})
        print("ROW", json.dumps(rows[-1]), flush=True)
        (options.out / f"vlm_engine-{options.directory.name}-{options.case}.json").write_text(
            json.dumps(rows, indent=1)
        )

    started = time.perf_counter()
    from vllm import LLM, SamplingParams

    asked = json.loads((options.directory / "asked.json").read_text(encoding="utf-8"))
    llm = LLM(
        str(options.directory), load_format="dummy", dtype="bfloat16", gpu_memory_utilization=0.9, **CASES[options.case]
    )
    row(start_s=round(time.perf_counter() - started, 1))
    sampling = SamplingParams(max_tokens=1, temperature=0, logprob_token_ids=[*asked["yes"], *asked["no"]])
    rng = np.random.default_rng(0)

    def run(count: int) -> tuple[float, Any]:
        requests = [{"prompt": asked["text"], "multi_modal_data": {"image": picture(rng)}} for _ in range(count)]
        begun = time.perf_counter()
        said = llm.generate(requests, sampling, use_tqdm=False)
        return (time.perf_counter() - begun) * 1e3, said

    for count in (1, 1, 1, 32):
        run(count)
    _, said = run(1)
    row(prompt_tokens=len(said[0].prompt_token_ids), answers=len(said[0].outputs[0].logprobs[0]))
    ms = [run(1)[0] for _ in range(60)]
    p50, p99 = (round(float(np.percentile(ms, share)), 2) for share in (50, 99))
    row(what="pixels to log-odds", batch=1, p50_ms=p50, p99_ms=p99, pictures_per_s=round(1e3 / p50, 1))
    for count in (64, 512):
        best = run(count)[0]
        row(what="pixels to log-odds", batch=count, pictures_per_s=round(count / best * 1e3, 1))


if __name__ == "__main__":
    main()
