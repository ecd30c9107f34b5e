"""A plain file's first bytes tell what Pillow would; all others are left to it."""

from __future__ import annotations

import contextlib
import io
import random
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from srtrain.errors import ConfigError, DataError
from srtrain.images import fast, survey
from srtrain.images.heads import HEAD, plain_size
from srtrain.images.reading import header, read_picture

if TYPE_CHECKING:
    from pathlib import Path

SIZE = (37, 21)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _exif(turn: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = turn
    return tags


def _encoded(kind: str, mode: str, **options: Any) -> bytes:  # noqa: ANN401 - Pillow's
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8)).convert(mode)
    stream = io.BytesIO()
    if options.pop("frames", False):
        options |= {"save_all": True, "append_images": [Image.new(mode, SIZE)]}
    image.save(stream, kind, **options)
    return stream.getvalue()


PLAIN = {
    "jpeg": ("JPEG", "RGB", {}),
    "jpeg, progressive": ("JPEG", "RGB", {"progressive": True}),
    "jpeg, restarts, comment, dpi": (
        "JPEG",
        "RGB",
        {"restart_marker_rows": 1, "comment": b"\xff\xd8", "dpi": (300, 300)},
    ),
    "jpeg, rgb": ("JPEG", "RGB", {"keep_rgb": True}),
    "png": ("PNG", "RGB", {}),
    "png, gray": ("PNG", "L", {}),
    "png, alpha, dpi": ("PNG", "RGBA", {"dpi": (300, 300)}),
}
OTHERS = {
    "jpeg, gray": ("JPEG", "L", {}),
    "jpeg, cmyk": ("JPEG", "CMYK", {}),
    "jpeg, tags": ("JPEG", "RGB", {"exif": _exif(1)}),
    "jpeg, lying": ("JPEG", "RGB", {"exif": _exif(6)}),
    "jpeg, xmp": ("JPEG", "RGB", {"xmp": b"<x:xmpmeta/>"}),
    "jpeg, profile": ("JPEG", "RGB", {"icc_profile": PROFILE}),
    "mpo": ("MPO", "RGB", {"frames": True}),
    "png, palette": ("PNG", "P", {}),
    "png, profile": ("PNG", "RGB", {"icc_profile": PROFILE}),
    "png, lying": ("PNG", "RGB", {"exif": _exif(6)}),
    "apng": ("PNG", "RGB", {"frames": True}),
    "webp": ("WEBP", "RGB", {}),
    "bmp": ("BMP", "RGB", {}),
    "tiff, lying": ("TIFF", "RGB", {"exif": _exif(6)}),
    "gif": ("GIF", "P", {}),
}


@pytest.mark.parametrize("name", [*PLAIN, *OTHERS])
def test_what_pillow_tells(name: str, tmp_path: Path) -> None:
    kind, mode, options = (PLAIN | OTHERS)[name]
    path = tmp_path / "image"
    path.write_bytes(_encoded(kind, mode, **options))
    assert survey(path) == header(path)
    np.testing.assert_array_equal(fast.read_rgb8(path), read_picture(path).rgb8())
    lies = "lying" in name
    assert survey(path).size == (SIZE if lies else SIZE[::-1])
    assert plain_size(path.read_bytes()[:HEAD]) == (None if name in OTHERS else SIZE[::-1])


def _before_the_pixels(jpeg: bytes, segment: bytes) -> bytes:
    """``segment`` after the frame's header, where Pillow reads on."""
    at = jpeg.index(b"\xff\xda")
    return jpeg[:at] + segment + jpeg[at:]


@pytest.mark.parametrize("turn", [3, 6])
def test_tags_after_the_size_turn_as_well(turn: int, tmp_path: Path) -> None:
    tags = _exif(turn).tobytes()
    segment = b"\xff\xe1" + (len(tags) + 2).to_bytes(2) + tags
    path = tmp_path / "image.jpg"
    path.write_bytes(_before_the_pixels(_encoded("JPEG", "RGB"), segment))
    assert survey(path) == header(path)
    assert survey(path).size == (SIZE if turn == 6 else SIZE[::-1])
    np.testing.assert_array_equal(fast.read_rgb8(path), read_picture(path).rgb8())


def test_two_sizes_are_pillows() -> None:
    whole = _encoded("JPEG", "RGB")
    at = whole.index(b"\xff\xc0")
    assert plain_size(_before_the_pixels(whole, whole[at : at + 19])) is None


def test_tags_beyond_the_first_bytes_are_pillows(tmp_path: Path) -> None:
    """Nothing is said of a file whose pixels begin later."""
    path = tmp_path / "image"
    path.write_bytes(_encoded("JPEG", "RGB", comment=random.Random(0).randbytes(2 * HEAD)))
    assert plain_size(path.read_bytes()[:HEAD]) is None
    assert survey(path) == header(path)


@pytest.mark.parametrize(
    ("at", "bytes_"),
    {
        "size": (16, (11500).to_bytes(4)),
        "depth": (24, b"\3"),
        "kind of colour": (25, b"\5"),
        "filter": (27, b"\1"),
        "checksum": (29, b"\0\0\0\0"),
        "length": (8, b"\0\0\0\x14"),
    }.values(),
)
def test_a_damaged_header_is_left_to_pillow(at: int, bytes_: bytes) -> None:
    """Its size is not believed: a cache would make room for it."""
    whole = bytearray(_encoded("PNG", "RGB"))
    whole[at : at + len(bytes_)] = bytes_
    assert plain_size(bytes(whole)) is None
    if at < 29:
        whole[29:33] = zlib.crc32(whole[12:29]).to_bytes(4)
        sizes = (None, (SIZE[1], 11500)) if at == 16 else (None,)
        assert plain_size(bytes(whole)) in sizes


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_broken_bytes_tell_what_they_tell_pillow_or_nothing(kind: str, tmp_path: Path) -> None:
    whole, rng, path = _encoded(kind, "RGB"), random.Random(0), tmp_path / "image"
    for cut in range(len(whole)):
        assert plain_size(whole[:cut]) in (None, SIZE[::-1])
    told = 0
    for _ in range(1000):
        broken = bytearray(whole)
        for _ in range(3):
            broken[rng.randrange(min(len(broken), 700))] = rng.randrange(256)
        size = plain_size(bytes(broken))
        path.write_bytes(broken)
        with contextlib.suppress(DataError):  # tables, which the decoder refuses
            assert size in (None, header(path).size)
            told += size is not None
    assert told > 20


def test_what_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRTRAIN_MAX_PIXELS", "700")
    for name, (kind, mode, options) in PLAIN.items():
        path = tmp_path / name
        path.write_bytes(_encoded(kind, mode, **options))
        for read in (survey, fast.read_rgb8):
            with pytest.raises(DataError, match="37x21 pixels, the limit is 700"):
                read(path)


def test_a_limit_that_is_no_number_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRTRAIN_MAX_PIXELS", "lots")
    path = tmp_path / "image"
    for kind in ("JPEG", "PNG"):
        path.write_bytes(_encoded(kind, "RGB"))
        for read in (survey, fast.read_rgb8):
            with pytest.raises(ConfigError, match="'lots' is no number"):
                read(path)
