"""Every kind of image file, good and bad."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from srtrain.errors import DataError
from srtrain.images import (
    Picture,
    from_tensor,
    image_size,
    read_picture,
    read_rgb8,
    to_tensor,
    to_uint8,
    write_picture,
)
from tests.image_files import levels_of, png

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


# Modes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("suffix", "transparent", "dtype"),
    [
        *[(".png", clear, dtype) for clear in (False, True) for dtype in (np.uint8, np.uint16)],
        *[(".tif", clear, dtype) for clear in (False, True) for dtype in (np.uint8, np.uint16)],
        *[(".webp", False, np.uint8), (".bmp", False, np.uint8), (".webp", True, np.uint8)],
    ],
)
def test_written_pictures_come_back(
    tmp_path: Path, suffix: str, channels: int, transparent: bool, dtype: type
) -> None:
    alpha = levels_of(6, 9, dtype=dtype, seed=1) if transparent else None
    picture = Picture(levels_of(6, 9, channels, dtype=dtype), alpha, icc=SRGB)
    path = tmp_path / f"x{suffix}"
    write_picture(path, picture)
    back = read_picture(path)
    deep_tiff = suffix == ".tif" and transparent and dtype == np.uint16
    gray_lost = channels == 1 and (suffix == ".webp" or deep_tiff)  # no such kind of file
    want = np.repeat(picture.pixels, 3, axis=2) if gray_lost else picture.pixels
    seen = alpha != 0 if suffix == ".webp" and alpha is not None else ...  # the rest is dropped
    np.testing.assert_array_equal(back.pixels[seen], want[seen])
    assert back.icc == (None if suffix == ".bmp" else SRGB)
    assert image_size(path) == (6, 9)
    if alpha is None:
        assert back.alpha is None
    else:
        np.testing.assert_array_equal(back.alpha, alpha)


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_16_bit_png_made_by_hand(tmp_path: Path, colour: int, channels: int) -> None:
    levels = levels_of(5, 7, channels, dtype=np.uint16)
    path = tmp_path / "deep.png"
    path.write_bytes(png(7, 5, 16, colour, levels.astype(">u2").tobytes()))
    picture = read_picture(path)
    colours = 1 if channels < 3 else 3
    np.testing.assert_array_equal(picture.pixels, levels[..., :colours])
    assert picture.bits == 16
    assert (picture.alpha is not None) == (channels in (2, 4))
    if picture.alpha is not None:
        np.testing.assert_array_equal(picture.alpha, levels[..., -1])
    else:
        want = np.broadcast_to(np.rint(levels / 257), (5, 7, 3))
        np.testing.assert_array_equal(read_rgb8(path), want)


@pytest.mark.parametrize(
    ("mode", "channels", "transparent"),
    [
        *[("1", 1, False), ("L", 1, False), ("LA", 1, True), ("P", 3, False), ("RGB", 3, False)],
        ("RGBA", 3, True),
    ],
)
def test_modes(tmp_path: Path, mode: str, channels: int, transparent: bool) -> None:
    image = Image.fromarray(levels_of(8, 10, 4 if transparent else 3)).convert(mode)
    image.save(tmp_path / "x.png")
    picture = read_picture(tmp_path / "x.png")
    assert picture.mode == mode
    assert picture.pixels.shape == (8, 10, channels)
    assert (picture.alpha is not None) == transparent
    want = np.array(image.convert("L" if channels == 1 else "RGB")).reshape(8, 10, channels)
    np.testing.assert_array_equal(picture.pixels, want)


def test_a_transparent_palette_entry_becomes_alpha(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), "L").convert("P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.save(tmp_path / "x.png", transparency=0)
    picture = read_picture(tmp_path / "x.png")
    assert picture.alpha is not None
    assert picture.alpha.tolist() == [[0, 255]]
    assert picture.pixels[0, 1].tolist() == [200, 100, 50]
    assert read_rgb8(tmp_path / "x.png").tolist() == [[[255, 255, 255], [200, 100, 50]]]


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    ink = np.zeros((16, 16, 4), np.uint8)
    ink[..., 1:3] = 255  # magenta + yellow = red
    Image.fromarray(ink, "CMYK").save(tmp_path / "x.jpg", quality=100)
    picture = read_picture(tmp_path / "x.jpg")
    assert picture.mode == "CMYK"
    assert picture.pixels[8, 8, 0] > 250
    assert picture.pixels[8, 8, 1:].max() < 5
    assert picture.icc is None
    assert "CMYK" in picture.notes[0]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_orientation(tmp_path: Path, suffix: str, turn: int) -> None:
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8], upright[:8, 16:], upright[8:, :8] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    # What a camera stores so that orientation `turn` makes it upright (EXIF 2.3, figure 8).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[turn]
    exif = Image.Exif()
    exif[0x0112] = turn
    path = tmp_path / f"x{suffix}"
    options = {".jpg": {"quality": 100, "subsampling": 0}, ".webp": {"lossless": True}}
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, **options.get(suffix, {}))
    assert image_size(path) == (16, 24)
    for got in (read_picture(path).pixels, read_rgb8(path)):
        assert np.abs(got.astype(int) - upright).max() <= (8 if suffix == ".jpg" else 0)


def test_exif_orientation_of_a_16_bit_tiff(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    stored = levels_of(4, 6, 3, dtype=np.uint16)
    tag = (0x0112, "H", 1, 6, True)
    tifffile.imwrite(tmp_path / "x.tif", stored, photometric="rgb", extratags=[tag])
    np.testing.assert_array_equal(read_picture(tmp_path / "x.tif").pixels, np.rot90(stored, -1))
    assert image_size(tmp_path / "x.tif") == (6, 4)


def test_of_an_animation_the_first_frame_is_taken_and_said(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue", "lime")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    picture = read_picture(tmp_path / "x.gif")
    assert picture.pixels[0, 0].tolist() == [255, 0, 0]
    assert picture.notes == ("3 frames: the first only",)


def test_hidden_colour_is_not_learnt() -> None:
    picture = Picture(np.full((1, 3, 3), 100, np.uint8), np.array([[0, 51, 255]], np.uint8))
    # By hand: 255 - (255 - 100) · alpha/255.
    assert picture.rgb8()[0, :, 0].tolist() == [255, 224, 100]


# Tensors, writing -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tensor_round_trip_is_exact_for_every_level(dtype: type) -> None:
    levels = np.arange(np.iinfo(dtype).max + 1, dtype=dtype).reshape(16, -1)
    image = to_tensor(levels)
    assert image.shape == (1, 3, *levels.shape)
    assert image.dtype == torch.float32
    back = from_tensor(image, bits=levels.itemsize * 8)
    np.testing.assert_array_equal(back, np.repeat(levels[..., None], 3, axis=2))


def test_rounding_is_half_up_after_clamping() -> None:
    image = torch.tensor([-1.0, 0.5 / 255, 1.49 / 255, 2.0]).expand(3, 1, 4)
    assert to_uint8(image)[0, :, 0].tolist() == [0, 1, 1, 255]
    with pytest.raises(ValueError, match="NaN"):
        to_uint8(torch.full((3, 2, 2), torch.nan))


@pytest.mark.parametrize("suffix", [".xyz", ".gif", ""])
def test_unwritable_suffixes_are_refused(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(DataError, match=r"use one of .*\.png"):
        write_picture(tmp_path / f"x{suffix}", Picture(levels_of(2, 2, 3)))


def test_a_side_too_long_for_the_format_is_named_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"WEBP.*use PNG"):
        write_picture(tmp_path / "x.webp", Picture(np.zeros((1, 20_000, 3), np.uint8)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("pixels", "alpha", "message"),
    [
        (np.zeros((2, 2, 3)), None, "uint8"),
        (np.zeros((2, 2), np.uint8), None, r"\(H, W"),
        (np.zeros((2, 2, 3), np.uint8), np.zeros((2, 3), np.uint8), "alpha"),
    ],
)
def test_impossible_pictures(pixels: np.ndarray, alpha: np.ndarray | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Picture(pixels, alpha)
