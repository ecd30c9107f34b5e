from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from srtrain.data.squares import cut, draw_crop, draw_crops, squares


def test_crop_depends_on_seed_and_sample_alone() -> None:
    def draw(seed: int, sample: int) -> tuple[int, int, int]:
        return draw_crop(seed=seed, sample=sample, height=100, width=200, patch=16)

    assert [draw(1, k) for k in range(20)] == [draw(1, k) for k in range(20)]
    assert len({draw(1, k) for k in range(50)} | {draw(2, k) for k in range(50)}) > 95


def test_crops_are_uniform_over_places_and_symmetries() -> None:
    draws = [draw_crop(seed=0, sample=k, height=6, width=5, patch=4) for k in range(4800)]
    counts = Counter(draws)
    assert len(counts) == 3 * 2 * 8  # every corner and symmetry, the last ones included
    # 100 expected of each; 5 standard deviations of a binomial are 50
    assert all(50 < count < 150 for count in counts.values())


def test_a_patch_as_large_as_the_image_fits() -> None:
    assert draw_crop(seed=0, sample=0, height=8, width=8, patch=8)[:2] == (0, 0)


def test_crops_drawn_together_are_those_drawn_one_by_one() -> None:
    sizes = np.array([[100, 200], [16, 90], [70, 16], [16, 16], [2**31, 2**31 + 5]] * 400)
    samples = [*range(1000), *range(2**62, 2**62 + 1000)]
    drawn = draw_crops(seed=5, samples=samples, sizes=sizes, patch=16)
    for sample, (height, width), crop in zip(samples, sizes.tolist(), drawn.tolist(), strict=True):
        expected = draw_crop(seed=5, sample=sample, height=height, width=width, patch=16)
        assert tuple(crop) == expected


class _OneImage:
    """4 x 5 pixels behind seven other bytes."""

    shapes = np.array([[[4, 5]]])
    offsets = np.array([[7]])
    file_of = np.array([0])


@pytest.mark.parametrize(
    ("symmetry", "expected"),
    [  # by hand, of [[11, 12], [21, 22]]
        (0, [[11, 12], [21, 22]]),
        (1, [[12, 11], [22, 21]]),
        (2, [[21, 22], [11, 12]]),
        (3, [[22, 21], [12, 11]]),
        (4, [[11, 21], [12, 22]]),
        (5, [[12, 22], [11, 21]]),
        (6, [[21, 11], [22, 12]]),
        (7, [[22, 12], [21, 11]]),
    ],
)
def test_eight_symmetries(symmetry: int, expected: list[list[int]]) -> None:
    image: Any = _OneImage()
    levels = [(10 * y + x, 100, 200) for y in range(4) for x in range(5)]
    flat = np.array([*range(7), *sum(levels, ())], np.uint8)
    found = squares(image, np.array([0]), np.array([[1, 1, symmetry]]), side=0, patch=2)
    square = np.empty((2, 2, 3), np.uint8)
    _, origin, down, right = (int(column[0]) for column in found)
    cut(flat, origin, down, right, square)
    assert square[..., 0].tolist() == expected
    assert (square[..., 1:] == [100, 200]).all()
