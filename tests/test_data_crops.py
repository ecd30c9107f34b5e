from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from srtrain.data.crops import draw_crop, oriented


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


@pytest.mark.parametrize(
    ("symmetry", "expected"),
    [  # by hand, of [[1, 2], [3, 4]]
        (0, [[1, 2], [3, 4]]),
        (1, [[2, 1], [4, 3]]),
        (2, [[3, 4], [1, 2]]),
        (3, [[4, 3], [2, 1]]),
        (4, [[1, 3], [2, 4]]),
        (5, [[2, 4], [1, 3]]),
        (6, [[3, 1], [4, 2]]),
        (7, [[4, 2], [3, 1]]),
    ],
)
def test_eight_symmetries(symmetry: int, expected: list[list[int]]) -> None:
    square = np.array([[1, 2], [3, 4]])
    assert oriented(square, symmetry).tolist() == expected
