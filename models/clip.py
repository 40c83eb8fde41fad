"""Recorded clips: pictures at even distances out of a video, and one answer for what a picture's answers say in turn.

Road work stays in view while the camera passes it, a mistake comes and goes. So the answer is that of the best stretch:
the highest mean log-odds over `STRETCH` samples in a row. The samples are no independent witnesses, so log-odds are
averaged, never added. Validators send stills: nothing of this is on the wire.

Videos are read through PyAV, which the extra `clip` brings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.base import Frame, ModelUnavailable
from models.installing import pip_install_extra

SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v"})
STRETCH = 4  # samples in a row
LEAST = 1e-6  # probabilities are kept this far from 0 and 1


class ClipError(ValueError):
    """A file is no readable video. The message names it and says what to do."""


@dataclass(frozen=True, slots=True)
class Steady:
    """What a clip's samples say together. probability: of the best stretch, which lasts from `start` to `end` seconds.

    share: of all samples that say road work (probability > 0.5).
    """

    probability: float
    start: float
    end: float
    share: float

    @classmethod
    def of(cls, times: Sequence[float], probabilities: Sequence[float], stretch: int = STRETCH) -> Steady:
        """times: seconds, ascending; probabilities: 0..1, one per time. A shorter clip is one stretch."""
        if not times or len(times) != len(probabilities):
            raise ValueError(f"expected as many times as probabilities, at least 1; got {len(times)}")
        length = min(stretch, len(times))
        odds = [_log_odds(probability) for probability in probabilities]
        means = [sum(odds[at : at + length]) / length for at in range(len(odds) - length + 1)]
        best = max(range(len(means)), key=means.__getitem__)
        share = sum(probability > 0.5 for probability in probabilities) / len(probabilities)
        return cls(1.0 / (1.0 + math.exp(-means[best])), times[best], times[best + length - 1], share)


def is_clip(path: Path) -> bool:
    """Whether the name is that of a video."""
    return path.suffix.lower() in SUFFIXES


def sampled(path: Path, every: float) -> Iterator[tuple[float, Frame]]:
    """(seconds from the start, picture) of a video, at least `every` seconds apart, the first one included.

    Raises ClipError, and ModelUnavailable without PyAV.
    """
    av = _av()
    try:
        with av.open(str(path)) as container:
            due = 0.0
            for picture in container.decode(video=0):
                at = float(picture.time or 0.0)
                if at >= due:
                    due = at + every
                    yield at, Frame.of(picture.to_ndarray(format="rgb24"))
    except (av.FFmpegError, IndexError) as error:
        what = "it holds no video" if isinstance(error, IndexError) else str(error)
        raise ClipError(f"{path}: expected a video that FFmpeg reads ({what}); convert it to H.264 in MP4") from None


def _log_odds(probability: float) -> float:
    kept = min(max(probability, LEAST), 1.0 - LEAST)
    return math.log(kept / (1.0 - kept))


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise ModelUnavailable(f"clips are read through PyAV; {pip_install_extra('clip')}") from None
    return av
