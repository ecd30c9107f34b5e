"""Images of a run that are strange but good: used, and what is lost of them is said."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from srtrain.data.cache import open_images
from srtrain.data.sources import Folder, Paired
from srtrain.images import Picture, write_picture
from tests.data import folder_of, noise, save
from tests.faults.test_data_faults import data_of
from tests.faults.test_inference_faults import NAMES


def test_pipes_loops_and_dangling_links_are_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = folder_of(tmp_path / "hr", 2)
    os.mkfifo(folder / "pipe.png")
    (folder / "loop").symlink_to(folder)
    (folder / "self.png").symlink_to(folder / "self.png")
    (folder / "device.png").symlink_to("/dev/zero")
    began = time.monotonic()
    images = open_images(Folder(folder), cache_dir=tmp_path / "cache", progress=False)
    assert time.monotonic() - began < 5
    assert images.names == ["000", "001"]
    assert caplog.text.count("not a regular file") == 3


def test_any_name_is_trained_on(tmp_path: Path) -> None:
    for seed, name in enumerate(NAMES):
        save(tmp_path / "hr" / "plain.png", noise(20, 24, seed)).rename(tmp_path / "hr" / name)
    for _ in range(2):  # decoded, and from the cache
        images = open_images(Folder(tmp_path / "hr"), cache_dir=tmp_path / "c", progress=False)
        assert sorted(images.names) == sorted(name.removesuffix(".png") for name in NAMES)


def _moving(path: Path, kind: str | None = None) -> None:
    frames = [Image.fromarray(noise(20, 24, seed)) for seed in range(3)]
    frames[0].save(path, kind, save_all=True, append_images=frames[1:])


def test_of_animations_the_first_frame_is_used_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = folder_of(tmp_path / "hr", 1, height=20, width=24)
    _moving(folder / "moving.gif")
    _moving(folder / "moving.webp")
    _moving(folder / "stereo.jpg", "MPO")
    for _ in range(2):
        caplog.clear()
        images = open_images(Folder(folder), cache_dir=tmp_path / "cache", progress=False)
        assert len(images) == 4
        assert "3 of 4 images lose something: " in caplog.text
        for name in ("moving.gif", "moving.webp", "stereo.jpg"):
            assert f"{name} (3 frames: the first only)" in caplog.text


def test_every_kind_of_file_is_trained_on_as_8_bit_rgb(tmp_path: Path) -> None:
    colour = noise(24, 30, 1)
    deep = colour.astype(np.uint16) * 257
    alpha = noise(24, 30, 2)[..., 0]
    exif = Image.Exif()
    exif[0x0112] = 6
    folder = tmp_path / "hr"
    save(folder / "plain.png", colour)
    write_picture(folder / "deep.png", Picture(deep))
    write_picture(folder / "deep.tif", Picture(deep))
    write_picture(folder / "clear.png", Picture(colour, alpha))
    Image.fromarray(np.ascontiguousarray(np.rot90(colour))).save(folder / "turned.png", exif=exif)
    images = open_images(Folder(folder), cache_dir=tmp_path / "cache", progress=False)
    over_white = Picture(colour, alpha).rgb8()
    for index, name in enumerate(images.names):
        expected = over_white if name == "clear" else colour
        np.testing.assert_array_equal(images.hr(index), expected, err_msg=name)


@pytest.mark.parametrize("turned", [("hr", "lr"), ("hr",)])
def test_pairs_are_compared_upright(tmp_path: Path, turned: tuple[str, ...]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for side, (height, width) in {"hr": (40, 48), "lr": (10, 12)}.items():
        image = Image.fromarray(noise(height, width, 1))
        if side in turned:
            image = image.transpose(Image.Transpose.ROTATE_90)
        (tmp_path / side).mkdir()
        image.save(tmp_path / side / "a.png", exif=exif if side in turned else None)
    data = data_of(tmp_path, train=Paired(tmp_path / "hr", tmp_path / "lr", scale=4))
    data.prepare_data()
    assert data.train_images is not None
    assert data.train_images.shapes.tolist() == [[[40, 48], [10, 12]]]
