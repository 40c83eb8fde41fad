"""Pictures that a stranger may send: well-formed ones of every kind, and malformed ones by the thousand. All drawn."""

from __future__ import annotations

import base64
import io
import random
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image


def noise(width: int = 64, height: int = 48, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A soft random picture: JPEG keeps it, and no two rows are alike."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, len(mode)), dtype=np.uint8)
    bands = [Image.fromarray(small[:, :, band]).resize((width, height)) for band in range(len(mode))]
    return Image.merge(mode, bands)


def jpeg(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def text(data: bytes) -> str:
    """Base64 as validators write it."""
    return base64.b64encode(data).decode()


def with_size(data: bytes, width: int, height: int) -> bytes:
    """A JPEG whose header declares another size than its data has."""
    at = 2
    while data[at + 1] not in (0xC0, 0xC2):
        at += 2 + int(struct.unpack(">H", data[at + 2 : at + 4])[0])
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def with_orientation(image: Image.Image, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(image, exif=exif, quality=95)


def with_scans(data: bytes, scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    last = data.rindex(b"\xff\xda")
    scan = data[last:-2]
    return data[:last] + scan * scans + b"\xff\xd9"


def disguised() -> Iterator[tuple[str, bytes]]:
    """Other formats, alone and behind a JPEG's first bytes."""
    for name in ("PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"):
        buffer = io.BytesIO()
        noise().save(buffer, name)
        yield name, buffer.getvalue()
        yield f"{name} behind ff d8 ff", b"\xff\xd8\xff" + buffer.getvalue()


def malformed(count: int, seed: int = 0) -> Iterator[str]:
    """`count` texts that are not quite base64 of a JPEG: cut, flipped, grown, disguised, lying about their size."""
    draw = random.Random(seed)
    sound = [
        jpeg(noise()),
        jpeg(noise(), progressive=True),
        jpeg(noise(mode="L")),
        jpeg(noise(mode="CMYK")),
        jpeg(noise(1, 1)),
        with_orientation(noise(), 6),
        *(data for _, data in disguised()),
    ]
    sizes = (0, 1, 7, 224, 5000, 65535)

    def flip(data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(draw.randint(1, 8)):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        return bytes(changed)

    def splice(data: bytes) -> bytes:
        at, other = draw.randrange(len(data)), draw.choice(sound)
        return data[:at] + other[draw.randrange(len(other)) :]

    changes = (
        flip,
        splice,
        lambda data: data[: draw.randrange(len(data))],
        lambda data: data + draw.randbytes(draw.randint(1, 500)),
        lambda data: with_size(sound[draw.randrange(4)], draw.choice(sizes), draw.choice(sizes)),
        lambda data: b"\xff\xd8\xff" + draw.randbytes(draw.randint(0, 500)),
    )
    for _ in range(count):
        whole = text(draw.choice(changes)(draw.choice(sound)))
        if draw.random() < 0.1:  # no base64 either
            at = draw.randrange(len(whole) + 1)
            whole = whole[:at] + draw.choice(["=", "\n", "é", "\x00", "data:image/jpeg;base64,", "-", " "]) + whole[at:]
        yield whole
