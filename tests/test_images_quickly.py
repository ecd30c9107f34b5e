"""``read_quickly`` holds what ``read_picture`` does, whichever decoder reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from srtrain.errors import DataError
from srtrain.images import fast, read_picture, read_quickly
from tests.image_files import levels_of

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
COLOUR, GRAY = Image.fromarray(levels_of(9, 7, 3)), Image.fromarray(levels_of(9, 7, 1)[..., 0])
TRANSPARENT = Image.fromarray(levels_of(9, 7, 4))


@pytest.mark.parametrize(
    ("name", "image", "options", "quick"),
    [
        ("x.png", COLOUR, {}, True),
        ("x.jpg", COLOUR, {}, True),
        ("x.png", COLOUR, {"icc_profile": PROFILE}, False),
        ("x.jpg", COLOUR, {"icc_profile": PROFILE}, False),
        ("x.png", COLOUR, {"save_all": True, "append_images": [COLOUR.rotate(180)]}, False),
        ("x.png", TRANSPARENT, {}, False),
        ("x.png", GRAY, {}, False),
        ("x.jpg", GRAY, {}, False),
    ],
)
def test_the_same_picture(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    image: Image.Image,
    options: dict[str, object],
    quick: bool,
) -> None:
    image.save(tmp_path / name, **options)  # type: ignore[arg-type]
    wanted = read_picture(tmp_path / name)
    if quick:
        monkeypatch.setattr(fast, "read_picture", None)
    found = read_quickly(tmp_path / name)
    np.testing.assert_array_equal(found.pixels, wanted.pixels)
    np.testing.assert_array_equal(found.alpha, wanted.alpha)  # type: ignore[arg-type]
    assert (found.mode, found.icc, found.notes) == (wanted.mode, wanted.icc, wanted.notes)


def test_pillow_says_what_is_wrong(tmp_path: Path) -> None:
    COLOUR.save(tmp_path / "x.png")
    (tmp_path / "x.png").write_bytes((tmp_path / "x.png").read_bytes()[:120])
    with pytest.raises(DataError) as wanted:
        read_picture(tmp_path / "x.png")
    with pytest.raises(DataError) as found:
        read_quickly(tmp_path / "x.png")
    assert str(found.value) == str(wanted.value)
