"""Dead leaves: a pure function of (seed, sample), and statistics like those of photos."""

from __future__ import annotations

import time

import numpy as np
import pytest

from srtrain.data import leaves
from srtrain.data.leaves import dead_leaves


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.stack([dead_leaves(k, size=96, seed=7) for k in range(48)])


def test_form(pictures: np.ndarray) -> None:
    assert pictures.dtype == np.uint8
    assert pictures.shape == (48, 96, 96, 3)
    assert dead_leaves(0, size=33, seed=0).shape == (33, 33, 3)


def test_is_a_pure_function_of_seed_and_sample(pictures: np.ndarray) -> None:
    dead_leaves(0, size=96, seed=8)
    leaves._texture_bank.cache_clear()
    for sample in (41, 3, 17):
        np.testing.assert_array_equal(dead_leaves(sample, size=96, seed=7), pictures[sample])


def test_every_seed_and_sample_differs(pictures: np.ndarray) -> None:
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)
    assert (dead_leaves(3, size=96, seed=8) != pictures[3]).any()


def test_amplitude_spectrum_falls_like_one_over_f(pictures: np.ndarray) -> None:
    """Photos: exponent about 1 to 1.2 (Ruderman & Bialek 1994); white noise 0, a ramp 2."""
    luminance = pictures.mean(axis=3)
    power = np.abs(np.fft.fft2(luminance - luminance.mean(axis=(1, 2), keepdims=True))) ** 2
    frequency = np.hypot(np.fft.fftfreq(96)[:, None], np.fft.fftfreq(96))
    bands = np.geomspace(2 / 96, 0.45, 9)
    ring = np.digitize(frequency, bands)
    amplitude = [np.sqrt(power[:, ring == k].mean()) for k in range(1, len(bands))]
    slope = np.polyfit(np.log(np.sqrt(bands[1:] * bands[:-1])), np.log(amplitude), 1)[0]
    assert -1.5 < slope < -0.8


def test_luminance_dominates_and_the_range_is_used(pictures: np.ndarray) -> None:
    pixels = pictures.reshape(-1, 3) / 255
    spread = (pixels @ leaves.OPPONENT_AXES.T).std(axis=0)
    assert spread[0] > 2 * spread[1] > 2 * spread[2]
    assert 0.35 < pixels.mean() < 0.6
    assert ((pixels == 0) | (pixels == 1)).mean() < 0.12


def test_mix_holds_smooth_and_textured_pictures() -> None:
    """Plain leaves have exactly flat areas, noise pictures have hardly any."""
    flat = [(np.diff(dead_leaves(k, size=64, seed=1).astype(int), axis=0) == 0).all(-1).mean()
            for k in range(100)]  # fmt: skip
    plain, noise = np.mean(np.array(flat) > 0.5), np.mean(np.array(flat) < 0.05)
    assert 0.2 < plain < 0.6
    assert 0.2 < noise < 0.5


def test_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="size=12 must be at least 16"):
        dead_leaves(0, size=12, seed=0)


def test_costs_at_most_150_ms() -> None:
    start = time.process_time()
    for sample in range(8):
        dead_leaves(sample, size=160, seed=7)
    assert (time.process_time() - start) / 8 < 0.15
