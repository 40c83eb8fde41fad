"""From base64 to a Frame: what is accepted, how it is turned, and that nothing hostile gets through or costs much."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from miner.assembly import frame_of
from miner.decode import (
    FULL_PIXELS,
    MAX_PROGRESSIVE_PIXELS,
    BrokenPicture,
    NotBase64,
    NotJpeg,
    PictureError,
    TooManyPixels,
    decode,
)
from miner.settings import UsageError
from models.base import Frame
from tests.edge import pictures
from tests.edge.pictures import jpeg, noise, text


def close(frame: Frame, expected: Image.Image, tolerance: float = 6.0) -> bool:
    """JPEG loses a little; a turned or recoloured picture differs by far more."""
    wanted = np.asarray(expected.convert("RGB"), dtype=float)
    return frame.pixels.shape == wanted.shape and float(np.abs(frame.pixels - wanted).mean()) < tolerance


def test_a_jpeg_becomes_its_pixels_and_the_digest_of_its_bytes() -> None:
    data = jpeg(noise(), quality=95)
    frame = decode(text(data))
    assert frame.size == (64, 48)
    assert close(frame, noise())
    assert frame.sha256 == hashlib.sha256(data).hexdigest()
    assert not frame.pixels.flags.writeable


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
@pytest.mark.parametrize("progressive", [False, True])
def test_gray_and_cmyk_become_rgb(mode: str, progressive: bool) -> None:
    frame = decode(text(jpeg(noise(mode=mode), quality=95, progressive=progressive)))
    assert close(frame, noise(mode=mode))


def test_pure_colours_keep_their_names() -> None:
    for mode, colour in (("RGB", (250, 120, 10)), ("CMYK", (5, 135, 245, 0))):
        pixel = decode(text(jpeg(Image.new(mode, (32, 32), colour), quality=95))).pixels[16, 16]
        assert np.abs(pixel.astype(int) - (250, 120, 10)).max() <= 4


TURNED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", TURNED)
def test_a_camera_held_sideways_is_turned_upright(orientation: int) -> None:
    """The camera stored the scene turned; `TURNED` is what it did."""
    turn = TURNED[orientation]
    stored = noise() if turn is None else noise().transpose(turn)
    assert close(decode(text(pictures.with_orientation(stored, orientation))), noise())


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_turns_nothing(orientation: int) -> None:
    assert close(decode(text(pictures.with_orientation(noise(), orientation))), noise())


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's remark on it
def test_a_broken_exif_block_turns_nothing() -> None:
    data = pictures.with_orientation(noise(), 6)
    at = data.index(b"Exif\x00\x00") + 6
    for garbage in (b"XX\x2a\x00\x08\x00\x00\x00", b"MM\x00\x2a\xff\xff\xff\xff", b"II\x2a\x00\x08\x00"):
        broken = data[:at] + garbage + data[at + len(garbage) :]
        assert decode(text(broken)).size in {(64, 48), (48, 64)}


def test_exif_that_raises_turns_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(image: Image.Image) -> Image.Exif:
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr(Image.Image, "getexif", raising)
    assert close(decode(text(pictures.with_orientation(noise(), 6))), noise())


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (17, 3)])
def test_tiny_and_thin_pictures_are_pictures(size: tuple[int, int]) -> None:
    assert decode(text(jpeg(noise(*size)))).size == size


def test_a_picture_larger_than_any_model_sees_comes_out_smaller() -> None:
    assert decode(text(jpeg(Image.new("RGB", (3840, 2160))))).size == (3840, 2160)
    assert decode(text(jpeg(Image.new("RGB", (3844, 2160))))).size == (1922, 1080)
    width, height = decode(text(jpeg(Image.new("L", (65000, 600))))).size
    assert width * height <= FULL_PIXELS
    assert width / height == pytest.approx(65000 / 600, rel=0.01)


@pytest.mark.parametrize(
    "garbage",
    ["data:image/jpeg;base64,{}", " {}", "{}\n", "{}=", "{}é", "*{}", "{}\x00", "=", "a", "\ud800", "{}-_"],
)
def test_what_is_not_plain_base64_is_refused_saying_so(garbage: str) -> None:
    with pytest.raises(NotBase64, match="base64"):
        decode(garbage.format(text(jpeg(noise()))))


@pytest.mark.parametrize("name", [name for name, _ in pictures.disguised()])
def test_no_other_format_is_opened(name: str) -> None:
    data = dict(pictures.disguised())[name]
    with pytest.raises(BrokenPicture if "behind" in name else NotJpeg):
        decode(text(data))


@pytest.mark.parametrize("data", [b"", b"\xff", b"\xff\xd8", b"<svg/>"])
def test_too_few_bytes_are_no_jpeg(data: bytes) -> None:
    with pytest.raises(NotJpeg, match="ff d8 ff"):
        decode(text(data))


@pytest.mark.parametrize("progressive", [False, True])
def test_a_picture_cut_short_anywhere_is_refused(progressive: bool) -> None:
    data = jpeg(noise(), progressive=progressive)
    for length in range(3, len(data) - 2, 7):
        with pytest.raises(BrokenPicture):
            decode(text(data[:length]))


@pytest.mark.parametrize("size", [(65535, 65535), (13_300, 13_300), (8000, 5001), (65535, 700)])
def test_the_declared_size_is_judged_before_anything_is_decoded(size: tuple[int, int]) -> None:
    bomb = pictures.with_size(jpeg(noise()), *size)
    with pytest.raises(TooManyPixels, match="expected at most"):
        decode(text(bomb))


def test_the_pixel_limit_to_the_pixel() -> None:
    picture = text(jpeg(noise(100, 50)))
    assert decode(picture, max_pixels=5000).size == (100, 50)
    with pytest.raises(TooManyPixels, match=r"at most 4999 pixels, got 100 x 50"):
        decode(picture, max_pixels=4999)


def test_progressive_pictures_have_a_lower_limit() -> None:
    side = int(MAX_PROGRESSIVE_PIXELS**0.5) + 1
    with pytest.raises(TooManyPixels):
        decode(text(pictures.with_size(jpeg(noise(), progressive=True), side, side)))
    assert outcome(text(pictures.with_size(jpeg(noise()), side, side))) != "too-many-pixels"


def test_a_thousand_scans_are_refused_unread() -> None:
    data = jpeg(noise(), progressive=True)
    assert decode(text(pictures.with_scans(data, 3))).size == (64, 48)
    with pytest.raises(TooManyPixels, match="scans"):
        decode(text(pictures.with_scans(data, 1000)))


def outcome(picture: str) -> str:
    try:
        frame = decode(picture)
    except PictureError as error:
        return error.kind
    assert frame.pixels.dtype == np.uint8
    assert frame.pixels.ndim == 3
    return "frame"


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=200)
    | st.binary(max_size=300).map(text)
    | st.binary(max_size=300).map(lambda b: text(b"\xff\xd8\xff" + b))
)
def test_any_text_gives_a_frame_or_a_typed_error(picture: str) -> None:
    outcome(picture)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_change_to_a_jpeg_gives_a_frame_or_a_typed_error(data: st.DataObject) -> None:
    changed = bytearray(jpeg(noise(), progressive=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 6))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    outcome(text(bytes(changed)))


def peak_memory(reset: bool = False) -> float:
    """The process's greatest resident size in MB since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return float(line.split()[1]) / 1024


def run_malformed(count: int) -> tuple[dict[str, int], float]:
    """How often each outcome came, and by how many MB memory grew at its peak."""
    outcome(text(jpeg(noise())))
    before = peak_memory(reset=True)
    counts: dict[str, int] = {}
    for picture in pictures.malformed(count):
        kind = outcome(picture)
        counts[kind] = counts.get(kind, 0) + 1
    return counts, peak_memory() - before


def test_hundreds_of_malformed_pictures_cost_little() -> None:
    counts, growth = run_malformed(400)
    assert {"frame", "not-base64", "not-jpeg", "too-many-pixels", "broken-picture"} <= counts.keys()
    assert growth < 150.0


@pytest.mark.slow
def test_ten_thousand_malformed_pictures_cost_little() -> None:
    """Figure 9."""
    counts, growth = run_malformed(10_000)
    print(f"10,000 malformed pictures: {counts}, peak memory +{growth:.0f} MB")
    assert sum(counts.values()) == 10_000
    assert growth < 150.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "height", "options"),
    [
        (3840, 2160, {}),
        (7900, 5000, {}),
        (4000, 4000, {"progressive": True, "subsampling": 0}),
    ],
    ids=["largest at full size", "largest allowed", "largest progressive"],
)
def test_the_most_expensive_allowed_pictures_cost_less_than_150_mb(
    width: int, height: int, options: dict[str, object]
) -> None:
    picture = text(jpeg(Image.new("RGB", (width, height), (9, 99, 199)), **options))
    before = peak_memory(reset=True)
    frame = decode(picture)
    assert peak_memory() - before < 150.0
    assert frame.size[0] * frame.size[1] <= FULL_PIXELS


def test_a_labelled_folder_may_hold_png_too(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(jpeg(noise(), quality=95))
    (tmp_path / "broken.png").write_bytes((tmp_path / "a.png").read_bytes()[:100])
    assert close(frame_of(tmp_path / "a.png", 10**6), noise(), tolerance=0.0001)
    assert close(frame_of(tmp_path / "b.jpg", 10**6), noise())
    with pytest.raises(UsageError, match=r"broken\.png: the PNG cannot be decoded"):
        frame_of(tmp_path / "broken.png", 10**6)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_one_limit_of_pixels_holds_for_every_format(tmp_path: Path, name: str) -> None:
    noise(100, 50).save(tmp_path / name)
    assert frame_of(tmp_path / name, 5000).size == (100, 50)
    with pytest.raises(
        UsageError, match=rf"{name}: expected at most 4999 pixels, got 100 x 50; shrink it, or raise --max"
    ):
        frame_of(tmp_path / name, 4999)
