"""From base64 text to a `Frame`: the one place where bytes of strangers meet an image decoder.

JPEG only: the decoder never gets to choose a format (`decode_png` is for the operator's own files). What the header
declares is checked before anything is decoded. Pure functions; they hold the interpreter's lock only in part and belong
in a thread.
"""

from __future__ import annotations

import binascii
import hashlib
import io

import numpy as np
from PIL import Image

from models.base import Frame

MAX_PIXELS = 40_000_000
# A progressive picture is held whole as coefficients (up to 6 bytes per pixel) however small it is decoded.
MAX_PROGRESSIVE_PIXELS = 16_000_000
MAX_SCANS = 100  # encoders write about 10; each scan is a pass over the whole picture for as little as 10 bytes
FULL_PIXELS = 8_294_400  # 3840 x 2160: larger pictures are decoded at 1/2, 1/4 or 1/8

MAGIC = b"\xff\xd8\xff"
START_OF_SCAN = b"\xff\xda"
ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PictureError(Exception):
    """What came cannot be made a Frame. kind: label for metrics."""

    kind = "picture"


class NotBase64(PictureError):
    """The text is not plain base64."""

    kind = "not-base64"


class NotJpeg(PictureError):
    """The bytes are not a JPEG."""

    kind = "not-jpeg"


class TooManyPixels(PictureError):
    """The picture would cost too much to decode."""

    kind = "too-many-pixels"


class BrokenPicture(PictureError):
    """A picture that cannot be decoded to its end."""

    kind = "broken-picture"


def decode(image_base64: str, max_pixels: int = MAX_PIXELS) -> Frame:
    """The picture in `image_base64` as RGB pixels. Raises PictureError.

    Base64 is strict: no data: prefix, no white space, since validators send neither. Gray and CMYK become RGB.
    An EXIF orientation is applied, so that the road is at the bottom, as in all pictures that models are trained on;
    validators re-encode without EXIF, so this concerns pictures from elsewhere only. A picture of more than
    3840 x 2160 pixels comes out at 1/2, 1/4 or 1/8 of its size: no model sees the rest, and memory stays bounded.
    """
    if len(image_base64) % 4:  # the strict mode lets a stray = at the end pass
        raise NotBase64(f"expected plain base64, 4 characters for 3 bytes, got {len(image_base64)} characters")
    try:
        data = binascii.a2b_base64(image_base64, strict_mode=True)
    except ValueError as error:  # binascii.Error, and characters beyond ASCII
        raise NotBase64(f"expected plain base64 of a JPEG, got text that is not base64: {error}") from None
    if not data.startswith(MAGIC):
        raise NotJpeg(
            f"expected a JPEG (first bytes ff d8 ff), got {len(data)} bytes that start with {data[:3].hex(' ')!r}"
        )
    scans = data.count(START_OF_SCAN)
    if scans > MAX_SCANS:
        raise TooManyPixels(f"expected at most {MAX_SCANS} scans, got {scans}")
    return Frame(_pixels(data, max_pixels, "JPEG"), hashlib.sha256(data).hexdigest())


def decode_png(data: bytes, max_pixels: int) -> Frame:
    """The picture in a PNG file, which folders may hold and validators never send. Raises PictureError."""
    return Frame(_pixels(data, max_pixels, "PNG"), hashlib.sha256(data).hexdigest())


def _pixels(data: bytes, max_pixels: int, kind: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """uint8 (H, W, 3) RGB. Raises PictureError, whatever Pillow raises on hostile bytes."""
    try:
        with Image.open(io.BytesIO(data), formats=(kind,)) as image:
            _check_size(image, max_pixels)
            _shrink(image)
            turn = UPRIGHT.get(_orientation(image))
            rgb = image.convert("RGB")
        return np.asarray(rgb.transpose(turn) if turn is not None else rgb)
    except PictureError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooManyPixels(f"expected at most {max_pixels} pixels: {error}") from None
    except Exception as error:  # many kinds: OSError, SyntaxError, struct.error, ...
        raise BrokenPicture(f"the {kind} cannot be decoded: {error}") from None


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    allowed = min(max_pixels, MAX_PROGRESSIVE_PIXELS) if image.info.get("progressive") else max_pixels
    if width * height > allowed:
        raise TooManyPixels(f"expected at most {allowed} pixels, got {width} x {height}")


def _shrink(image: Image.Image) -> None:
    width, height = image.size
    scale = 1
    while width * height > FULL_PIXELS * scale * scale and scale < 8:
        scale *= 2
    if scale > 1:
        image.draft(None, (width // scale, height // scale))  # the decoder skips the detail: less time and memory


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a broken EXIF block says nothing of the picture
        return 1
