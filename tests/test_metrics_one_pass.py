"""One pass over the pixels finds what the separate metrics find, also where float32 would not."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import skimage.data
import torch
from torch import Tensor

from srtrain.color import LUMA, luma
from srtrain.metrics.frequency import high_band
from srtrain.metrics.image_metrics import FINITE, ImageMetrics
from srtrain.metrics.mean_meter import bias, rtm_sums
from srtrain.metrics.one_pass import compare
from srtrain.metrics.quality import levels, psnr, ssim

if TYPE_CHECKING:
    from collections.abc import Callable

HEIGHT, WIDTH = 70, 117


def flat(*colour: float) -> Tensor:
    return torch.tensor(colour).float().view(1, 3, 1, 1).expand(1, 3, HEIGHT, WIDTH).contiguous()


def noise(sigma: float, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return sigma * torch.randn((1, 3, HEIGHT, WIDTH), generator=source)


def whole(image: Tensor) -> Tensor:
    return image.round().clamp(0, 255)


def photo() -> Tensor:
    pixels = torch.from_numpy(skimage.data.astronaut().copy()).permute(2, 0, 1)[None].float()
    return pixels[..., 60 : 60 + HEIGHT, 150 : 150 + WIDTH]


def one_pixel() -> Tensor:
    image = flat(255, 255, 255)
    image[0, 1, 33, 44] = 254
    return image


BRIGHT = flat(250, 250, 250)
BOARD = ((torch.arange(HEIGHT)[:, None] + torch.arange(WIDTH)) % 2 * 255.0).expand(1, 3, -1, -1)
HALVES = torch.where(torch.arange(WIDTH) < 50, 0.0, 255.0).expand(1, 3, HEIGHT, -1)
HARD: dict[str, tuple[Tensor, Tensor]] = {
    "photo": (whole(photo() + noise(13)), photo()),
    "almost the photo": (whole(photo() + noise(0.3)), photo()),
    "the photo": (photo(), photo()),
    "flat": (flat(100, 100, 100), flat(101, 101, 101)),
    "flat colours": (flat(100, 20, 30), flat(10, 120, 33)),
    "black": (flat(1, 0, 0), flat(0, 0, 0)),
    "white, one pixel": (one_pixel(), flat(255, 255, 255)),
    "dark noise": (whole(flat(2, 2, 2) + noise(1)), whole(flat(2, 2, 2) + noise(1, 1))),
    "bright noise": (whole(BRIGHT + noise(2)), whole(BRIGHT + noise(2, 1))),
    # In float32, where no constant is taken off, SSIM of this one misses by 1e-4.
    "opposite noise on bright": (whole(240 + noise(5.4)), whole(240 - noise(5.4).round())),
    "opposite boards": (BOARD.clone(), 255 - BOARD),
    "an edge": (whole(HALVES + noise(1)), HALVES.clone()),
    "only colour is wrong": (photo().flip(1), photo()),
    "gray": (whole(photo() + noise(9)), photo()[:, :1].expand(-1, 3, -1, -1).contiguous()),
    "gray on gray": (whole(photo()[:, :1] + noise(9)[:, :1]).expand(-1, 3, -1, -1),
                     photo()[:, :1].expand(-1, 3, -1, -1)),
}  # fmt: skip


def separately(sr: Tensor, hr: Tensor, scale: int) -> dict[str, Tensor]:
    sr, hr = sr.double() / 255, hr.double() / 255
    gray = bool((hr == hr[:, :1]).all())
    sr_y, hr_y = ((luma(i) * 255 - 16) / 219 if gray else luma(i) for i in (sr, hr))
    gap, squared_error = rtm_sums(sr, hr)
    band = high_band(sr_y, hr_y, scale=scale)
    return {
        "psnr_y": psnr(sr_y, hr_y),
        "ssim_y": ssim(sr_y, hr_y),
        "psnr_rgb": psnr(sr, hr),
        "ssim_rgb": ssim(sr, hr),
        "energy_gap": gap,
        "squared_error": squared_error,
        "bias": bias(sr, hr),
        "hf_ratio": band.ratio,
        "hf_truth": band.truth,
    }


def together(sr: Tensor, hr: Tensor, scale: int) -> dict[str, Tensor]:
    found = compare(sr, hr, scale=scale)._asdict()
    band = found.pop("band")
    return {**found, "hf_ratio": band.ratio, "hf_truth": band.truth}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-7, atol=1e-9, equal_nan=True, msg=lambda m, n=name: n + m
        )


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("name", HARD)
def test_one_pass_is_the_separate_metrics(name: str, scale: int) -> None:
    sr, hr = HARD[name]
    assert_equal(together(sr, hr, scale), separately(sr, hr, scale))


@pytest.mark.parametrize(
    "size", [(11, 11), (11, 300), (300, 11), (26, 27), (42, 43), (59, 800), (173, 131)]
)
def test_every_size_is_covered_once(size: tuple[int, int]) -> None:
    """Bands and blocks end where they like: 16 outputs each, 26 pixels."""
    source = torch.Generator().manual_seed(0)
    sr, hr = whole(255 * torch.rand((2, 1, 3, *size), generator=source))
    assert_equal(together(sr, hr, 2), separately(sr, hr, 2))


def test_bands_of_any_height(monkeypatch: pytest.MonkeyPatch) -> None:
    sr, hr = HARD["photo"]
    found = together(sr, hr, 2)
    for pixels in (1, 5000, 10**9):  # two blocks of 16 rows at least
        monkeypatch.setattr("srtrain.metrics.one_pass.CACHED", pixels)
        assert_equal(together(sr, hr, 2), found)


def test_images_of_a_batch_do_not_meet() -> None:
    """The workspace is used again; what one image leaves there, NaN too, harms no other."""
    names = ["photo", "gray", "flat"]
    spoilt = (photo() * math.nan, photo())
    pairs = [HARD["photo"], spoilt, *(HARD[name] for name in names[1:])]
    found = together(*(torch.cat(side) for side in zip(*pairs, strict=True)), scale=2)
    assert found["psnr_rgb"][1].isnan()
    kept = {name: value[[0, 2, 3]] for name, value in found.items()}
    alone = [together(*HARD[name], scale=2) for name in names]
    assert_equal(kept, {key: torch.cat([one[key] for one in alone]) for key in kept})


def test_identical_images_are_identical() -> None:
    found = together(photo(), photo(), 4)
    assert found["psnr_y"].isinf().all()
    assert found["psnr_rgb"].isinf().all()
    assert found["squared_error"].item() == found["energy_gap"].item() == 0
    assert sum(LUMA) == pytest.approx(219)


def test_sizes_below_the_window_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 11 x 11 pixels"):
        compare(torch.rand(1, 3, 10, 64), torch.rand(1, 3, 10, 64), scale=2)


@pytest.mark.parametrize("spoil", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_told_image_by_image(spoil: float) -> None:
    sr = torch.rand(3, 3, 24, 24)
    sr[1, 2, 3, 4] = spoil
    values = ImageMetrics(scale=2).measure(sr, torch.rand(3, 3, 24, 24))
    assert values[FINITE].tolist() == [1, 0, 1]
    assert values["psnr_y"].isfinite().tolist()[::2] == [True, True]


@pytest.mark.parametrize(
    "make",
    [lambda: torch.arange(256) / 255, lambda: (torch.arange(256) / 255).double(),
     lambda: torch.tensor([-1.0, 0.4 / 255, 0.5 / 255, 1.5 / 255, 2.0])],
)  # fmt: skip
def test_levels_are_round8(make: Callable[[], Tensor]) -> None:
    from srtrain.metrics.quality import round8

    image = make().float()
    assert torch.equal(levels(image).double() / 255, round8(image))
