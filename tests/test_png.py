"""PNGs written strip by strip: what other programs read in them, and how large they are."""

from __future__ import annotations

import io
import itertools
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from srtrain.images import Sheet, png, takes_strips, write_strips
from srtrain.images.png import write_png
from tests.image_files import levels_of
from tests.upscaling import smooth


def _written(levels: np.ndarray, *heights: int, quick: bool = False) -> bytes:
    stream = io.BytesIO()
    edges = np.cumsum([0, *(heights or [len(levels)])])
    strips = [levels[top:bottom] for top, bottom in itertools.pairwise(edges)]
    sheet = Sheet(levels.shape[:2], levels.shape[2], 8 * levels.itemsize)
    write_png(stream, sheet, strips, quick=quick)
    return stream.getvalue()


def _filter_of(written: bytes) -> int:
    """Of the first row."""
    start = written.index(b"IDAT") + 4
    end = start + int.from_bytes(written[start - 8 : start - 4])
    return zlib.decompressobj().decompress(written[start:end])[0]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("width", [1, 2, 9])
@pytest.mark.parametrize("block", [1, 60, 2**18])
@pytest.mark.parametrize("make", [levels_of, lambda *shape: smooth(*shape) // 64 * 64])
def test_pillow_reads_what_was_written(
    monkeypatch: pytest.MonkeyPatch, channels: int, width: int, block: int, make: object
) -> None:
    monkeypatch.setattr(png, "_BLOCK", block)
    levels = make(11, width, channels)  # type: ignore[operator]
    whole = _written(levels)
    with Image.open(io.BytesIO(whole)) as image:
        image.verify()
    with Image.open(io.BytesIO(whole)) as image:
        np.testing.assert_array_equal(np.array(image).reshape(levels.shape), levels)
    with Image.open(io.BytesIO(_written(levels, 1, 0, 7, 3, quick=True))) as image:
        np.testing.assert_array_equal(np.array(image).reshape(levels.shape), levels)


def test_every_choice_of_the_predictor(monkeypatch: pytest.MonkeyPatch) -> None:
    """All triples of these levels meet as left, up and upper left; Pillow tells what is right."""
    monkeypatch.setattr(png, "_beyond_up", png._beyond_paeth)
    few = np.array([0, 1, 2, 100, 127, 128, 129, 254, 255], np.uint8)
    left, up, corner = (axis.reshape(-1) for axis in np.meshgrid(few, few, few))
    levels = np.zeros((2, 2 * left.size, 1), np.uint8)
    levels[0, 0::2, 0], levels[0, 1::2, 0], levels[1, 0::2, 0] = corner, up, left
    levels[1, 1::2, 0] = 77
    written = _written(levels)
    assert _filter_of(written) == 4
    with Image.open(io.BytesIO(written)) as image:
        np.testing.assert_array_equal(np.array(image), levels[..., 0])


@pytest.mark.parametrize(("block", "expected"), [(2**17, 2), (2**13, 4)])
def test_a_file_of_one_block_takes_the_quick_filter(
    block: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A larger one is looked at: these lines across are worth Paeth's."""
    monkeypatch.setattr(png, "_BLOCK", block)
    random = np.random.default_rng(0)
    lines, noise = random.integers(0, 200, (64, 1, 1)), random.integers(0, 16, (64, 64, 3))
    levels = (lines + noise).astype(np.uint8)
    assert _filter_of(_written(levels)) == expected


@pytest.mark.parametrize(
    "levels",
    [
        smooth(256, 256) + levels_of(256, 256, 3) // 64,
        np.repeat(np.repeat(levels_of(16, 16, 3), 16, axis=0), 16, axis=1),
        np.full((256, 256, 3), 255, np.uint8),
    ],
    ids=["photograph", "drawing", "nothing"],
)
def test_files_are_hardly_larger_than_pillows(levels: np.ndarray) -> None:
    stream = io.BytesIO()
    Image.fromarray(levels).save(stream, "PNG")
    assert len(_written(levels)) < 1.1 * stream.tell() + 200


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(4, 5, 3)], "4 rows were given for an image of 6"),
        ([(4, 5, 3), (4, 5, 3)], "8 rows"),
        ([(6, 4, 3)], "does not fit"),
        ([(6, 5, 1)], "does not fit"),
    ],
)
def test_strips_that_do_not_fit_leave_no_file(
    tmp_path: Path, shapes: list[tuple[int, ...]], message: str
) -> None:
    strips = (np.zeros(shape, np.uint8) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        write_strips(tmp_path / "x.png", Sheet((6, 5), 3, 8), strips)
    assert list(tmp_path.iterdir()) == []


def test_what_breaks_between_strips_leaves_the_old_file(tmp_path: Path) -> None:
    def breaks() -> Iterator[np.ndarray]:
        yield np.zeros((3, 5, 3), np.uint8)
        raise KeyboardInterrupt

    path = tmp_path / "x.png"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_strips(path, Sheet((6, 5), 3, 8), breaks())
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["x.png"]
    assert takes_strips(path)
    assert not takes_strips(tmp_path / "x.webp")
