"""Batch augmentations: pairs stay pairs, draws have no history, ranks agree."""

from __future__ import annotations

import inspect
import socket
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from scipy.stats import binom
from torch import Tensor

from srtrain.augmentation.batch import BatchAugmentation
from srtrain.augmentation.partners import circle, partner_rows
from srtrain.augmentation.regions import cutblur_boxes, cutmix_boxes, enlarged, inside
from srtrain.config.location import conf_dir
from srtrain.config.yamlfile import read_config
from srtrain.degradation.resize import Bicubic

if TYPE_CHECKING:
    from pathlib import Path

SCALE = 2
DOWN = Bicubic(scale=SCALE)
make = partial(BatchAugmentation, seed=3, downscale=DOWN)
ALL = {"rgb_permutation": 0.7, "cutblur": 0.7, "cutmix": 0.7, "mixup": 0.7}


def pairs(count: int, side: int = 24, *, blind: bool = True) -> tuple[Tensor, Tensor]:
    """Smooth images, so that a kernel reaches little; ``blind`` LR has noise of 4 levels."""
    source = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 4, 4, generator=source)
    hr = torch.nn.functional.interpolate(coarse, side, mode="bilinear", align_corners=True)
    hr = (hr * 255).round() / 255
    lr = DOWN(hr)
    if blind:
        lr = lr + torch.randn(lr.shape, generator=source) * 4 / 255
    layout = torch.channels_last
    return hr.contiguous(memory_format=layout), lr.contiguous(memory_format=layout)


class Dice:
    """Numbers that were decided beforehand, in place of a generator's."""

    def __init__(self, **numbers: object) -> None:
        self.numbers = numbers

    def beta(self, a: float, b: float, count: int) -> np.ndarray:
        return np.array(self.numbers["beta"])

    def normal(self, mean: float, spread: float, count: int) -> np.ndarray:
        return np.full(count, mean)

    def integers(self, high: object, size: int | None = None) -> np.ndarray:
        return np.array(self.numbers["integers"].pop(0))  # type: ignore[attr-defined]


def test_cutmix_boxes_by_hand() -> None:
    # λ = 3/4 cuts half of each side (8 x 12: 4 x 6), λ = 0 all of it, λ = 1 nothing.
    dice = Dice(beta=[0.75, 0.75, 0.0, 1.0], integers=[[4, 0, 4, 4], [6, 11, 6, 6]])
    boxes = cutmix_boxes(dice, 4, height=8, width=12, alpha=1.0)  # type: ignore[arg-type]
    expected = [[2, 6, 3, 9], [0, 2, 8, 12], [0, 8, 0, 12], [4, 4, 6, 6]]
    assert boxes.tolist() == expected


def test_cutblur_boxes_by_hand() -> None:
    dice = Dice(integers=[[0, 3], [4, 1]])  # 0.7 of 10 and of 13: 7 and 9
    boxes = cutblur_boxes(dice, 2, height=10, width=13, ratio=0.7)  # type: ignore[arg-type]
    assert boxes.tolist() == [[0, 7, 4, 13], [3, 10, 1, 10]]


def test_regions_by_hand() -> None:
    region = inside(torch.tensor([[0, 1, 1, 3], [0, 0, 0, 3]]), height=2, width=3)
    assert region[:, 0].int().tolist() == [[[0, 1, 1], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]]
    assert enlarged(region, 2)[0, 0].int().tolist() == [[0, 0, 1, 1, 1, 1]] * 2 + [[0] * 6] * 2


def test_the_mean_area_of_cutmix_is_that_of_beta() -> None:
    """Centres far from the border: E[1 - λ] = 1/2 at alpha 1, whole pixels cost a little."""
    source = np.random.default_rng(0)
    side = np.sqrt(1 - source.beta(1.0, 1.0, 4000))
    boxes = cutmix_boxes(np.random.default_rng(0), 4000, height=1000, width=1000, alpha=1.0)
    heights = boxes[:, 1] - boxes[:, 0]
    whole = (boxes[:, 0] > 0) & (boxes[:, 1] < 1000)
    np.testing.assert_allclose(heights[whole], side[whole] * 1000, atol=2)
    assert np.mean(side**2) == pytest.approx(0.5, abs=0.02)


def test_nobody_is_its_own_partner() -> None:
    for count in (2, 3, 16):
        partner = circle(np.random.default_rng(count), count)
        assert sorted(partner) == list(range(count))
        assert (partner != np.arange(count)).all()


def test_off_is_off() -> None:
    assert not make().active
    hr, lr = pairs(4)
    same = make()(hr, lr, step=5, first=0)
    assert torch.equal(same[0], hr)
    assert torch.equal(same[1], lr)


def test_channels_change_places_in_both_images() -> None:
    hr, lr = pairs(64, 8, blind=False)
    new_hr, new_lr = make(rgb_permutation=1.0)(hr, lr, step=0, first=0)
    orders = set()
    for image, small, old, old_small in zip(new_hr, new_lr, hr, lr, strict=True):
        order = [next(c for c in range(3) if torch.equal(channel, old[c])) for channel in image]
        orders.add(tuple(order))
        assert torch.equal(small, old_small[order])
    assert len(orders) == 6
    assert torch.equal(DOWN(new_hr), new_lr)


def test_cutmix_cuts_the_same_place_of_both() -> None:
    hr, lr = pairs(8)
    new_hr, new_lr = make(cutmix=1.0)(hr, lr, step=0, first=0)
    cut = 0
    for row in range(8):
        changed = (new_lr[row] != lr[row]).any(dim=0)
        large = enlarged(changed[None, None], SCALE)[0, 0]
        assert torch.equal(new_hr[row][:, ~large], hr[row][:, ~large])
        if changed.any():
            others = [
                other
                for other in range(8)
                if torch.equal(torch.where(changed, lr[other], lr[row]), new_lr[row])
            ]
            assert len(others) == 1
            assert others != [row]
            assert torch.equal(torch.where(large, hr[others[0]], hr[row]), new_hr[row])
            cut += 1
    assert cut >= 6


def test_away_from_the_seam_a_cut_lr_is_the_degraded_hr() -> None:
    hr, lr = pairs(8, 48, blind=False)
    new_hr, new_lr = make(cutmix=1.0)(hr, lr, step=0, first=0)
    changed = (new_lr != lr).any(dim=1, keepdim=True).float()
    grown = torch.nn.functional.max_pool2d(changed, 5, 1, 2)
    shrunk = -torch.nn.functional.max_pool2d(-changed, 5, 1, 2)
    seam = grown != shrunk
    assert 0.02 < seam.float().mean() < 0.6
    error = (DOWN(new_hr) - new_lr).abs() * 255
    assert error[(~seam).expand_as(error)].max() < 0.01


def test_mixup_is_the_degradation_of_the_mixture() -> None:
    hr, lr = pairs(8, blind=False)
    new_hr, new_lr = make(mixup=1.0)(hr, lr, step=0, first=0)
    assert (new_hr - hr).abs().amax(dim=(1, 2, 3)).min() > 0.01
    # Bicubic is linear; only the rounding of its input and of both passes is not: below 3 levels.
    assert (DOWN(new_hr) - new_lr).abs().max() * 255 < 3
    assert (DOWN(new_hr) - new_lr).abs().mean() * 255 < 0.5
    share = [_share(new_hr, hr, row) for row in range(8)]
    for row, (other, value) in enumerate(share):
        assert 0 < value < 1
        expected = value * lr[row] + (1 - value) * lr[other]
        torch.testing.assert_close(new_lr[row], expected, atol=1e-5, rtol=0)


def _share(new: Tensor, old: Tensor, row: int) -> tuple[int, float]:
    """The other image and λ of the mixture that explains ``new[row]``."""
    fits = []
    for other in set(range(len(old))) - {row}:
        delta = (old[row] - old[other]).flatten()
        value = float((new[row] - old[other]).flatten() @ delta / delta.square().sum())
        error = new[row] - value * old[row] - (1 - value) * old[other]
        fits.append((float(error.abs().max()), other, value))
    error, other, value = min(fits)
    assert error < 1e-5
    return other, value


def test_cutblur_pastes_the_clean_lr_and_leaves_hr() -> None:
    hr, lr = pairs(64)
    new_hr, new_lr = make(cutblur=1.0)(hr, lr, step=0, first=0)
    assert torch.equal(new_hr, hr)
    clean = DOWN(hr)
    pasted = (new_lr == clean).all(dim=1)
    kept = (new_lr == lr).all(dim=1)
    assert (pasted ^ kept).all()
    shares = pasted.float().mean(dim=(1, 2))
    # 0.7 of a side of 12 is 8, and the jitter is below 1: 64 of 144 pixels, or the 80 others.
    assert {round(float(share) * 144) for share in shares} == {64, 80}
    assert 16 < int((shares > 0.5).sum()) < 48


def test_cutblur_of_bicubic_changes_nothing() -> None:
    hr, lr = pairs(8, blind=False)
    assert torch.equal(make(cutblur=1.0)(hr, lr, step=0, first=0)[1], lr)


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("rgb_permutation", 5 / 6),  # one order of six is the identity
        ("cutblur", 1.0),
        ("cutmix", 3 / 4),  # of 4 pixels, a side below 1/2 is rounded to none; side² is uniform
        ("mixup", 1.0),
    ],
)
def test_probability_is_the_share_of_changed_pairs(name: str, seen: float) -> None:
    """Within what a binomial law leaves in all but one of 10 000 cases."""
    hr, lr = pairs(200, 8)
    augment, steps, changed = make(**{name: 0.3}), 20, 0
    for step in range(steps):
        made = augment(hr, lr, step=step, first=0)
        differs = [(a != b).flatten(1).any(dim=1) for a, b in zip(made, (hr, lr), strict=True)]
        changed += int((differs[0] | differs[1]).sum())
    law = binom(steps * len(hr), 0.3 * seen)
    assert law.ppf(0.5e-4) <= changed <= law.ppf(1 - 0.5e-4)


def test_no_history() -> None:
    hr, lr = pairs(8)
    before = hr.clone(), lr.clone()
    augment = make(**ALL)
    first = [augment(hr, lr, step=step, first=0) for step in (0, 1, 7)]
    again = make(**ALL)(hr, lr, step=7, first=0)  # as after a resume
    assert all(torch.equal(a, b) for a, b in zip(first[2], again, strict=True))
    assert not torch.equal(first[0][0], first[1][0])
    assert not torch.equal(make(**ALL | {"seed": 4})(hr, lr, step=7, first=0)[0], again[0])
    assert torch.equal(hr, before[0])
    assert torch.equal(lr, before[1])
    assert all(image.is_contiguous(memory_format=torch.channels_last) for image in again)


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"mixup = 1.5 must lie in 0 … 1"):
        make(mixup=1.5)
    with pytest.raises(ValueError, match="cutmix_alpha = 0 must be above 0"):
        make(cutmix_alpha=0)


RANKS = 2
ROWS = 12


def _rank(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=RANKS
    )
    own = [image[rank::RANKS] for image in pairs(ROWS)]
    made = [make(**ALL)(*own, step=step, first=rank) for step in range(3)]
    numbers = torch.arange(ROWS, dtype=torch.float32)[rank::RANKS, None]
    partner = circle(np.random.default_rng(5), ROWS)
    torch.save(
        {"made": made, "rows": partner_rows(numbers, partner, first=rank)}, f"{folder}/{rank}.pt"
    )
    dist.destroy_process_group()


def test_two_ranks_make_the_batches_of_one(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    mp.start_processes(_rank, args=(port, str(tmp_path)), nprocs=RANKS, start_method="fork")
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]
    partner = torch.from_numpy(circle(np.random.default_rng(5), ROWS))
    for step in range(3):
        alone = make(**ALL)(*pairs(ROWS), step=step, first=0)
        for rank in range(RANKS):
            for one, two in zip(alone, ranks[rank]["made"][step], strict=True):
                assert torch.equal(one[rank::RANKS], two)
            assert torch.equal(ranks[rank]["rows"][:, 0].long(), partner[rank::RANKS])


def test_the_configuration_lists_every_parameter_with_its_default() -> None:
    listed = read_config(conf_dir() / "model" / "supervised.yaml").values["augment"]
    parameters = inspect.signature(BatchAugmentation).parameters.values()
    assert listed == {p.name: p.default for p in parameters if p.default is not p.empty}
