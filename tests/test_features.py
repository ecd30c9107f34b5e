"""The embedded features: what the file holds, how it was fitted, and that it beats random weights.

The ImageNet comparison is in ``scripts/measure_features.py``, whose figures the model card shows.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from srtrain.data.leaves import REVISION, dead_leaves
from srtrain.losses import feature_quality as quality
from srtrain.losses.features import EMBEDDED_CONVS, EMBEDDED_FILE, VGG19, VGG19Features
from srtrain.losses.spherical_kmeans import (
    fit_convolution,
    random_patches,
    spherical_kmeans,
    whitening,
)

CARD = EMBEDDED_FILE.with_name("MODEL_CARD.md")


def test_file_is_small_complete_and_says_what_it_is() -> None:
    assert EMBEDDED_FILE.stat().st_size <= 1_200_000
    with safe_open(EMBEDDED_FILE, framework="pt") as file:
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    convs = [VGG19[name] for name in EMBEDDED_CONVS]
    expected = {f"features.{c.index}.weight": (c.outputs, c.inputs, 3, 3) for c in convs if c}
    expected |= {f"features.{c.index}.bias": (c.outputs,) for c in convs if c}
    assert shapes == expected | {"calibration": (4, 3, 64, 64)}
    assert metadata["name"] == "first5/procedural"
    assert f"revision {REVISION}" in metadata["leaves"]


def test_channels_respond_with_unit_energy_to_leaves() -> None:
    """To other leaves than the fitted ones, and no channel is dead."""
    pictures = np.stack([dead_leaves(k, size=64, seed=99) for k in range(24)])
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255
    for activation in VGG19Features(taps=EMBEDDED_CONVS)(images).values():
        energy = activation.square().mean((0, 2, 3))
        assert 0.5 < energy.mean() < 2
        assert energy.min() > 0.02


@pytest.fixture(scope="module")
def crops() -> list[np.ndarray]:
    """Textured places of bundled photos."""
    from skimage import data

    photos = (data.astronaut(), data.chelsea(), data.coffee(), data.rocket())
    return [photo[120:216, 160:256] for photo in photos]


@pytest.fixture(scope="module")
def sets(crops: list[np.ndarray]) -> list[tuple[np.ndarray, dict[str, np.ndarray]]]:
    return [quality.equal_mse_set(crop) for crop in crops]


@pytest.fixture(scope="module")
def scores(sets: list[tuple[np.ndarray, dict[str, np.ndarray]]]) -> dict[str, float]:
    networks = {f"random {seed}": quality.random_features(seed) for seed in range(3)}
    distances = {name: quality.FeatureDistance(network) for name, network in networks.items()}
    distances["embedded"] = quality.FeatureDistance(VGG19Features(taps=EMBEDDED_CONVS))
    return {name: quality.sign_test(distance, sets)["raw"] for name, distance in distances.items()}


def test_embedded_features_pass_the_sign_test(scores: dict[str, float]) -> None:
    """L2 is at .5 by construction; the card has the figures on more photos."""
    assert scores["embedded"] >= 0.88


def test_random_features_fail_it(scores: dict[str, float]) -> None:
    """Else the threshold above would show nothing."""
    random = [score for name, score in scores.items() if name != "embedded"]
    assert max(random) < 0.88
    assert np.mean(random) < 0.8


def test_all_distortions_have_one_mean_squared_error(
    sets: list[tuple[np.ndarray, dict[str, np.ndarray]]],
) -> None:
    """So MSE itself is at chance, by construction."""
    for reference, distorted in sets:
        assert len(distorted) >= 6
        errors = [float(np.square(picture - reference).mean()) for picture in distorted.values()]
        assert max(errors) < 1.07 * min(errors)


def test_sign_score_by_hand() -> None:
    """One kept distortion nearer than the first harmed, tied with the second, beyond the third."""
    table = {"shift": 2.0, "blur": 3.0, "jpeg": 2.0, "noise": 1.0}
    assert quality.sign_score([table]) == pytest.approx((1 + 0.5 + 0) / 3)


@pytest.mark.parametrize("distort", [f for f, _ in {**quality.KEPT, **quality.HARMED}.values()])
def test_strength_zero_changes_nothing(distort, crops: list[np.ndarray]) -> None:  # noqa: ANN001
    image = crops[0] / 255
    tolerance = {quality.jpeg: 0.1, quality.shift: 1e-3}.get(distort, 1e-6)
    np.testing.assert_allclose(distort(image, 0.0), image, atol=tolerance)


def test_whitening_decorrelates() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(4000, 6, generator=generator) @ torch.randn(6, 6, generator=generator) + 3
    mean, zca = whitening(points, epsilon=0.0)
    white = (points - mean) @ zca
    torch.testing.assert_close(white.T @ white / 4000, torch.eye(6), atol=2e-3, rtol=0)
    torch.testing.assert_close(zca, zca.T, atol=1e-5, rtol=0)


def test_kmeans_finds_planted_directions() -> None:
    """Points on both sides of four orthogonal axes, with noise: the axes come out, up to sign."""
    generator = torch.Generator().manual_seed(1)
    axes = torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q[:4]
    amplitude = torch.randn(2000, 1, generator=generator)
    points = axes[torch.arange(2000) % 4] * amplitude + 0.05 * torch.randn(
        2000, 8, generator=generator
    )
    found = spherical_kmeans(points, count=4, iterations=15, generator=generator)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(4))
    assert ((found @ axes.T).abs().max(0).values > 0.99).all()


def test_fitted_convolution_has_unit_response_and_ignores_the_mean() -> None:
    generator = torch.Generator().manual_seed(2)
    pictures = torch.rand(20, 3, 24, 24, generator=generator).cumsum(3) / 12
    patches = random_patches(pictures, count=2000, generator=generator)
    assert patches.shape == (2000, 27)
    options = {"outputs": 8, "iterations": 5, "epsilon": 0.1}
    weight, bias = fit_convolution(patches, **options, generator=generator)
    response = torch.nn.functional.conv2d(patches.unflatten(1, (3, 3, 3)), weight, bias).relu()
    torch.testing.assert_close(response.square().mean((0, 2, 3)), torch.ones(8))
    at_mean = torch.nn.functional.conv2d(patches.mean(0).view(1, 3, 3, 3), weight, bias)
    torch.testing.assert_close(at_mean, torch.zeros_like(at_mean), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="5 patches must be at least as many as outputs=8"):
        fit_convolution(patches[:5], **options, generator=generator)


def test_random_patches_are_the_convolutions_patches() -> None:
    """In unfold's order: each equals one of the picture's own."""
    picture = torch.rand(1, 2, 5, 5, generator=torch.Generator().manual_seed(3))
    every = torch.nn.functional.unfold(picture, 3)[0].T
    for patch in random_patches(picture, count=6, generator=torch.Generator().manual_seed(4)):
        assert (every == patch).all(1).any()


@pytest.mark.slow
def test_file_is_what_the_script_fits(tmp_path: Path) -> None:
    """Up to the order in which this machine sums: the filters agree in direction."""
    import subprocess
    import sys

    root = Path(__file__).resolve().parents[1]
    output = tmp_path / "again.safetensors"
    subprocess.run(
        [sys.executable, root / "scripts" / "fit_features.py", "-o", output], check=True, cwd=root,
        env={"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    with safe_open(output, "pt") as again, safe_open(EMBEDDED_FILE, "pt") as file:
        assert again.metadata() == file.metadata()
        key = "features.0.weight"
        ours, theirs = (f.get_tensor(key).float().flatten(1) for f in (again, file))
        likeness = torch.nn.functional.cosine_similarity(ours, theirs)
        assert likeness.mean() > 0.9
        assert torch.equal(again.get_tensor("calibration"), file.get_tensor("calibration"))


def test_card_shows_measured_figures_of_this_file() -> None:
    card = CARD.read_text(encoding="utf-8")
    assert "first5/procedural" in card
    assert VGG19Features(taps=EMBEDDED_CONVS).features_sha256 in card
    figures = card.split("<!-- figures -->")[1].split("<!-- end of figures -->")[0]
    assert re.search(r"\| embedded \| 0\.9\d\d \| 0\.9\d\d \|", figures)
    assert re.search(r"25 photos x 8 distortions x 5 levels = 1000 pairs", figures)
