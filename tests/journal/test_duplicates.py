"""The same picture again is answered as before, at once; whatever is doubtful goes to the cascade."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import pytest
from PIL import Image

from cascade.deadline import Deadline
from cascade.verdict import Source, Verdict
from miner.duplicates import LOOK_UP, RECENT, Duplicates
from miner.journal import Keep
from miner.journal_views import Known, Views
from models.base import Frame
from tests.journal.making import VERSION, answered, frame_of, journal, jpeg_of, verdict

FRAME = frame_of(jpeg_of(1))


class Cascade:
    """Says each of `answers` once, the last one for ever, and counts."""

    def __init__(self, *answers: Verdict | Exception) -> None:
        self.answers, self.asked = list(answers), 0

    async def decide(self, frame: Frame, deadline: Deadline, caller: str) -> Verdict:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def nothing_known(sha256: str, version: str) -> Known | None:
    return None


def duplicates(cascade: Cascade, find: object = nothing_known, recheck: float = 0.0) -> Duplicates:
    return Duplicates(cascade.decide, find, lambda: VERSION, recheck, chance=lambda: 0.5)  # type: ignore[arg-type]


async def ask(which: Duplicates, frame: Frame = FRAME) -> Verdict:
    return await which.decide(frame, Deadline.after(5.0), "caller")


async def test_the_same_bytes_again_get_the_same_answer_without_the_cascade() -> None:
    cascade = Cascade(verdict(0.8), verdict(0.3))
    same = duplicates(cascade)
    assert [(await ask(same)).probability for _ in range(3)] == [0.8, 0.8, 0.8]
    assert cascade.asked == 1
    assert (await ask(same)).tiers == ("journal",)


async def test_another_picture_is_asked() -> None:
    cascade = Cascade(verdict(0.8), verdict(0.3))
    same = duplicates(cascade)
    await ask(same)
    assert (await ask(same, frame_of(jpeg_of(2)))).probability == 0.3


@pytest.mark.parametrize("poor", [verdict(0.8, source=Source.PARTIAL), verdict(0.8, degraded=True)])
async def test_an_answer_that_was_not_the_whole_cascades_is_not_repeated(poor: Verdict) -> None:
    cascade = Cascade(poor, verdict(0.3))
    same = duplicates(cascade)
    assert (await ask(same)).probability == 0.8
    assert (await ask(same)).probability == 0.3


async def test_a_new_model_version_is_asked_again() -> None:
    version = ["a"]
    cascade = Cascade(verdict(0.8), verdict(0.3))
    same = Duplicates(cascade.decide, nothing_known, lambda: version[0], 0.0)
    await ask(same)
    version[0] = "b"
    assert (await ask(same)).probability == 0.3


async def test_a_share_of_repeats_is_asked_anyway_but_answered_as_before(caplog: pytest.LogCaptureFixture) -> None:
    cascade = Cascade(verdict(0.8), verdict(0.3), RuntimeError("boom"))
    same = duplicates(cascade, recheck=0.6)
    assert [(await ask(same)).probability for _ in range(3)] == [0.8, 0.8, 0.8]
    assert cascade.asked == 3
    assert "was answered 0.800 before, the same version now says 0.300" in caplog.text
    assert "recheck of" in caplog.text, "the second one failed"


async def test_a_journal_that_fails_means_not_known() -> None:
    def broken(sha256: str, version: str) -> Known | None:
        raise OSError("disk on fire")

    assert (await ask(duplicates(Cascade(verdict(0.8)), broken))).probability == 0.8


async def test_a_journal_that_hangs_means_not_known_and_the_log_says_for_how_long(
    caplog: pytest.LogCaptureFixture,
) -> None:
    goes_on = threading.Event()

    def hanging(sha256: str, version: str) -> Known | None:
        goes_on.wait()
        return None

    try:
        assert (await ask(duplicates(Cascade(verdict(0.8)), hanging))).probability == 0.8
    finally:
        goes_on.set()
    assert f"no look into the journal: not within {LOOK_UP} s" in caplog.text


async def test_memory_of_answers_is_bounded() -> None:
    same = duplicates(Cascade(verdict(0.8)))
    for number in range(RECENT + 5):
        await ask(same, Frame(FRAME.pixels, f"{number:064x}"))
    assert len(same._recent) == RECENT


async def test_the_journal_remembers_across_restarts_and_the_first_answer_stays(tmp_path: Path) -> None:
    first = journal(tmp_path, keep=Keep(enabled=False))
    first(answered(1, verdict(0.8)))
    first(answered(1, verdict(0.3)))
    first(answered(1, verdict(0.1, source=Source.PARTIAL)))
    first.close()
    views, cascade = Views(tmp_path), Cascade(verdict(0.4))
    assert (await ask(duplicates(cascade, views.find))).probability == 0.8
    assert views.find(FRAME.sha256, "another version") is None
    assert cascade.asked == 0
    views.close()


async def test_a_picture_that_was_compressed_again_is_another(tmp_path: Path) -> None:
    first = journal(tmp_path, keep=Keep(enabled=False))
    first(answered(1, verdict(0.8)))
    first.close()
    buffer = io.BytesIO()
    Image.fromarray(FRAME.pixels).save(buffer, "JPEG", quality=60)
    views = Views(tmp_path)
    assert (await ask(duplicates(Cascade(verdict(0.3)), views.find), frame_of(buffer.getvalue()))).probability == 0.3
    views.close()
