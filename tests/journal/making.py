"""What the journal's tests are made of: pictures, verdicts, requests as they left."""

from __future__ import annotations

import base64
import io
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cascade.verdict import Source, Stop, Verdict
from miner.journal import Journal
from miner.service import Answered
from models.base import Frame, Opinion

VERSION = "test-1"


def jpeg_of(seed: int, size: tuple[int, int] = (64, 48)) -> bytes:
    """A picture that differs for each seed: coarse random colours, smoothly enlarged."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def frame_of(jpeg: bytes) -> Frame:
    import hashlib

    pixels = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))
    return Frame(np.array(pixels), hashlib.sha256(jpeg).hexdigest())


def verdict(probability: float = 0.9, **changes: Any) -> Verdict:
    """One opinion `first` that says what the verdict says, unless changed."""
    logit = float(np.log(probability / (1 - probability)))
    values: dict[str, Any] = {
        "probability": probability,
        "interval": (max(0.0, probability - 0.1), min(1.0, probability + 0.1)),
        "opinions": (Opinion("first", logit, 12.0),),
        "failures": (),
        "tiers": ("one",),
        "stop": Stop.DECIDED,
        "source": Source.CASCADE,
        "degraded": False,
        "milliseconds": 12.5,
    }
    return Verdict(**(values | changes))


def answered(
    seed: int = 0, verdict_: Verdict | None = None, caller: str = "caller", label: int = -1, fault: str = ""
) -> Answered:
    """Request number `seed`; its picture too, unless the fault came before it was read."""
    if fault:
        return Answered(caller, label, "%%", 0.5, Source.PRIOR, 0.01, fault, None, None)
    jpeg, said = jpeg_of(seed), verdict_ or verdict()
    image = base64.b64encode(jpeg).decode()
    return Answered(caller, label, image, said.probability, said.source, 0.013, "", frame_of(jpeg), said)


def sha(seed: int) -> str:
    return frame_of(jpeg_of(seed)).sha256


def journal(directory: Path, **changes: Any) -> Journal:
    return Journal(directory, **({"version": lambda: VERSION} | changes))


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    """Until something another thread does is seen; fails when it never is."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.005)
