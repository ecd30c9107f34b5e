"""The fast decoders make Pillow's pixels, or leave the file to Pillow."""

from __future__ import annotations

import io
import itertools
import random
from pathlib import Path

import kornia_rs.io
import numpy as np
import pytest
from PIL import Image

from srtrain.data.leaves import dead_leaves
from srtrain.errors import DataError
from srtrain.images import read_picture, read_rgb8

LEAVES = dead_leaves(3, size=160, seed=0)
KINDS = [
    {"format": "JPEG", "quality": quality, "subsampling": sampling, "progressive": progressive}
    for quality, sampling, progressive in itertools.product((30, 95, 100), (0, 1, 2), (True, False))
]
KINDS += [{"format": "PNG", "compress_level": level} for level in (0, 1, 9)]


def _encoded(pixels: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, **options)  # type: ignore[arg-type]
    return stream.getvalue()


def _outcome(path: Path, *, fast: bool) -> np.ndarray | None:
    try:
        return read_rgb8(path) if fast else read_picture(path).rgb8()
    except DataError:
        return None


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the fast decoders that returned pixels."""
    names: list[str] = []
    for name in ("decode_image_png_u8", "decode_image_jpegturbo"):
        decode = getattr(kornia_rs.io, name)

        def spy(*given: object, name: str = name, decode: object = decode) -> object:
            pixels = decode(*given)  # type: ignore[operator]
            names.append(name)
            return pixels

        monkeypatch.setattr(kornia_rs.io, name, spy)
    return names


@pytest.mark.parametrize("size", [(160, 160), (97, 131), (17, 1), (1, 1), (8, 24)])
def test_same_pixels_as_pillow(tmp_path: Path, decoded: list[str], size: tuple[int, int]) -> None:
    path = tmp_path / "x"
    for options in KINDS:
        path.write_bytes(_encoded(LEAVES[: size[0], : size[1]].copy(), **options))
        np.testing.assert_array_equal(read_rgb8(path), read_picture(path).rgb8(), str(options))
    assert len(decoded) == len(KINDS)


def _exif(turn: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = turn
    return exif


def _cmyk() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(LEAVES).convert("CMYK").save(stream, "JPEG")
    return stream.getvalue()


SLOW = {
    "turned jpeg": lambda: _encoded(LEAVES, format="JPEG", exif=_exif(6)),
    "gray jpeg": lambda: _encoded(LEAVES[..., 0], format="JPEG"),
    "cmyk": _cmyk,
    "turned png": lambda: _encoded(LEAVES, format="PNG", exif=_exif(3)),
    "transparent png": lambda: _encoded(LEAVES, format="PNG", transparency=(1, 2, 3)),
}


@pytest.mark.parametrize("name", SLOW)
def test_what_is_not_plain_is_left_to_pillow(tmp_path: Path, decoded: list[str], name: str) -> None:
    (tmp_path / "x").write_bytes(SLOW[name]())
    np.testing.assert_array_equal(read_rgb8(tmp_path / "x"), read_picture(tmp_path / "x").rgb8())
    assert not decoded


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_damaged_files_are_to_both_what_they_are_to_pillow(tmp_path: Path, kind: str) -> None:
    """Except where Pillow overlooks a wrong checksum, which the fast decoder does not."""
    source, path, outcomes = random.Random(0), tmp_path / "x", []
    wholes = [
        _encoded(LEAVES[:64, :80].copy(), **options)
        for options in KINDS
        if options["format"] == kind
    ]
    for number in range(240):
        data = bytearray(source.choice(wholes))
        if number % 3:
            for _ in range(source.randint(1, 4)):
                data[source.randrange(len(data))] = source.randrange(256)
        else:
            data = data[: source.randrange(3, len(data))]
        path.write_bytes(data)
        own, theirs = _outcome(path, fast=True), _outcome(path, fast=False)
        if kind == "JPEG":
            assert (own is None) == (theirs is None)
        if own is not None and theirs is not None:
            np.testing.assert_array_equal(own, theirs)
        outcomes.append(own is not None)
    assert {True, False} == set(outcomes)
