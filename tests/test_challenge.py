"""What leaves for the miner: eras, levels, labels, JPEG, and that a seed gives the same requests again."""

from __future__ import annotations

import base64
import hashlib
import io
import logging

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin
from scipy import stats

from miner.challenge import Challenge, DrawnSource, Era, FolderSource, HubSource, Plan, decoded, encoded
from models.data import hub, levels


class Plain:
    """A source that costs nothing: the label is the colour."""

    kind = "folder"
    name = "plain"

    def picture(self, label, rng):
        return np.full((90, 160, 3), 200 if label else 40, np.uint8), "plain"


def asked(n, **plan):
    plan = Plan(Plain(), **plan)
    return [plan.challenge(0, i) for i in range(n)]


@pytest.fixture
def unchanged(monkeypatch):
    """Levels that cost nothing, where only the choices are counted."""
    monkeypatch.setattr(levels, "apply", lambda pixels, level, rng: pixels)


def opened(challenge: Challenge):
    return Image.open(io.BytesIO(challenge.jpeg))


def test_january_is_224_square_and_may_keeps_the_size():
    for challenge in asked(80):
        picture = opened(challenge)
        assert picture.format == "JPEG"
        assert picture.size == ((224, 224) if challenge.era is Era.JANUARY else (160, 90))
        assert (challenge.level in (0, 1, 2, 3)) == (challenge.era is Era.JANUARY)


def test_each_level_is_as_likely_as_the_next_in_january(unchanged):
    counts = np.bincount([c.level for c in asked(240, eras=(Era.JANUARY,))], minlength=4)
    assert counts.size == 4
    assert stats.chisquare(counts).pvalue > 0.01


def test_labels_and_eras_are_drawn_half_and_half(unchanged):
    challenges = asked(200)
    for count in (sum(c.label for c in challenges), sum(c.era is Era.MAY for c in challenges)):
        assert stats.binomtest(count, 200).pvalue > 0.01


def test_the_label_is_that_of_the_picture():
    for challenge in asked(60, eras=(Era.MAY,)):
        assert (np.asarray(opened(challenge)).mean() > 120) == challenge.label


def test_may_changes_nothing_but_the_encoding():
    plan = Plan(Plain(), eras=(Era.MAY,))
    challenge = plan.challenge(0, 0)
    assert challenge.jpeg == encoded(Plain().picture(challenge.label, None)[0])


def test_the_jpeg_is_pillows_default_quality_75_with_chroma_at_half_size():
    picture = opened(asked(1)[0])
    reference = io.BytesIO()
    Image.new("RGB", (8, 8)).save(reference, "JPEG", quality=75, subsampling="4:2:0")
    assert picture.quantization == Image.open(reference).quantization
    assert JpegImagePlugin.get_sampling(picture) == 2  # 4:2:0


def test_the_wire_form_is_base64_of_the_jpeg_and_the_digest_is_of_the_jpeg():
    challenge = asked(1)[0]
    assert base64.b64decode(challenge.image) == challenge.jpeg
    assert challenge.sha256 == hashlib.sha256(challenge.jpeg).hexdigest()


def key(plan, validator):
    return [(c.label, c.era, c.level) for c in (plan.challenge(validator, i) for i in range(20))]


def test_a_seed_gives_the_same_requests_in_any_order_and_validators_ask_different_ones():
    one, two = Plan(Plain(), seed=3), Plan(Plain(), seed=3)
    assert [one.challenge(1, i) for i in range(6)] == [two.challenge(1, i) for i in reversed(range(6))][::-1]
    assert key(one, 0) != key(one, 1)
    assert key(one, 0) != key(Plan(Plain(), seed=4), 0)


def test_organic_requests_come_at_their_share_and_unchanged(unchanged):
    challenges = asked(200, organic=0.25)
    organic = [c for c in challenges if c.organic]
    assert stats.binomtest(len(organic), 200, 0.25).pvalue > 0.01
    assert all(c.level is None and opened(c).size == (160, 90) for c in organic)
    assert not any(c.organic for c in asked(50))


def save(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), colour).save(path)


def test_a_folder_gives_every_picture_of_the_label_with_its_source(tmp_path):
    for i in range(4):
        save(tmp_path / f"city{i}" / "roadwork" / "a.png", (250, 0, 0))
        save(tmp_path / f"city{i}" / "clear" / "a.png", (0, 0, 250))
    source = FolderSource(tmp_path)
    assert (source.kind, source.name) == ("folder", str(tmp_path))
    rng = np.random.default_rng(0)
    taken = [source.picture(1, rng) for _ in range(60)]
    assert {name for _, name in taken} == {"city0", "city1", "city2", "city3"}
    assert all(pixels[0, 0].tolist() == [250, 0, 0] for pixels, _ in taken)
    assert source.picture(0, rng)[0][0, 0].tolist() == [0, 0, 250]


def test_a_folder_with_one_label_is_refused(tmp_path):
    save(tmp_path / "city" / "clear" / "a.png", (0, 0, 0))
    with pytest.raises(ValueError, match="named roadwork"):
        FolderSource(tmp_path)


def test_a_broken_picture_is_passed_over_with_a_warning_that_names_it(tmp_path, caplog):
    save(tmp_path / "city" / "clear" / "a.png", (0, 0, 0))
    save(tmp_path / "city" / "roadwork" / "a.png", (250, 0, 0))
    (tmp_path / "city" / "roadwork" / "b.jpg").write_bytes(b"no picture")
    rng = np.random.default_rng(0)
    source = FolderSource(tmp_path)
    with caplog.at_level(logging.WARNING, "miner.challenge"):
        assert {source.picture(1, rng)[0][0, 0, 0] for _ in range(20)} == {250}
    assert "b.jpg: expected a JPEG or PNG" in caplog.text


def test_nothing_but_broken_pictures_is_an_error(tmp_path):
    save(tmp_path / "city" / "clear" / "a.png", (0, 0, 0))
    (tmp_path / "city" / "roadwork").mkdir()
    (tmp_path / "city" / "roadwork" / "b.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"in a row could not be read; the last: .*b\.jpg"):
        FolderSource(tmp_path).picture(1, np.random.default_rng(0))


def test_a_data_set_gives_its_rows(monkeypatch):
    rows = [hub.Row(encoded(np.full((8, 8, 3), 10 + 200 * label, np.uint8)), label) for label in (0, 1)]
    monkeypatch.setattr(hub, "first_rows", lambda dataset: rows)
    source = HubSource("owner/name")
    rng = np.random.default_rng(0)
    assert source.picture(1, rng)[0].mean() > 200
    assert source.picture(0, rng)[0].mean() < 20
    assert source.picture(0, rng)[1] == source.name == "owner/name"


def test_drawn_streets_need_nothing():
    pixels, name = DrawnSource().picture(1, np.random.default_rng(0))
    assert pixels.shape[2] == 3
    assert name == "drawn"


def test_gray_and_transparent_pictures_become_rgb():
    for mode in ("L", "RGBA", "P"):
        buffer = io.BytesIO()
        Image.new(mode, (5, 4)).save(buffer, "PNG")
        assert decoded(buffer.getvalue(), "x").shape == (4, 5, 3)


def test_no_other_format_is_a_picture():
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4)).save(buffer, "GIF")
    with pytest.raises(ValueError, match="x: expected a JPEG or PNG picture"):
        decoded(buffer.getvalue(), "x")
