"""A plain file's first bytes tell what Pillow would; all others are left to it."""

from __future__ import annotations

import io
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from srtrain.errors import DataError
from srtrain.images import fast, survey
from srtrain.images.heads import HEAD, plain_size
from srtrain.images.reading import header

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
    "png": ("PNG", "RGB", {}),
    "png, gray": ("PNG", "L", {}),
    "png, palette": ("PNG", "P", {}),
    "png, alpha and profile": ("PNG", "RGBA", {"icc_profile": PROFILE}),
}
OTHERS = {
    "jpeg, gray": ("JPEG", "L", {}),
    "jpeg, cmyk": ("JPEG", "CMYK", {}),
    "jpeg, tags": ("JPEG", "RGB", {"exif": _exif(1)}),
    "jpeg, lying": ("JPEG", "RGB", {"exif": _exif(6)}),
    "jpeg, xmp": ("JPEG", "RGB", {"xmp": b"<x:xmpmeta/>"}),
    "jpeg, profile": ("JPEG", "RGB", {"icc_profile": PROFILE}),
    "mpo": ("MPO", "RGB", {"frames": True}),
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
    lies = "lying" in name
    assert survey(path).size == (SIZE if lies else SIZE[::-1])
    assert plain_size(path.read_bytes()[:HEAD]) == (None if name in OTHERS else SIZE[::-1])


def test_tags_beyond_the_first_bytes_are_pillows(tmp_path: Path) -> None:
    """Nothing is said of a file whose pixels begin later."""
    path = tmp_path / "image"
    path.write_bytes(_encoded("PNG", "RGB", icc_profile=random.Random(0).randbytes(2 * HEAD)))
    assert plain_size(path.read_bytes()[:HEAD]) is None
    assert survey(path) == header(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_nothing_breaks_it(kind: str) -> None:
    """Whatever the bytes: a size, or nothing."""
    whole, rng = _encoded(kind, "RGB"), random.Random(0)
    for cut in range(len(whole)):
        assert plain_size(whole[:cut]) in (None, SIZE[::-1])
    for _ in range(2000):
        broken = bytearray(whole)
        for _ in range(3):
            broken[rng.randrange(min(len(broken), 700))] = rng.randrange(256)
        found = plain_size(bytes(broken))
        assert found is None or min(found) > 0


def test_what_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRTRAIN_MAX_PIXELS", "700")
    for name, (kind, mode, options) in PLAIN.items():
        path = tmp_path / name
        path.write_bytes(_encoded(kind, mode, **options))
        for read in (survey, fast.read_rgb8):
            with pytest.raises(DataError, match="37x21 pixels, the limit is 700"):
                read(path)
