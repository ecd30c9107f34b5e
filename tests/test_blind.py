"""The whole blind degradation: who gets which pixels."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest
import torch
from skimage import data as photos

from srtrain.batch import to_float
from srtrain.config.preflight import prepare
from srtrain.degradation.blind import Blind
from srtrain.degradation.parameters import Pass
from srtrain.degradation.sharpen import USM
from tests.test_data_datamodule import _at, _data

if TYPE_CHECKING:
    from pathlib import Path

SECOND = Pass(
    blur_probability=0.8,
    sigma=(0.2, 1.5),
    resize_weights={"up": 0.3, "down": 0.4, "keep": 0.3},
    resize_range=(0.3, 1.2),
    gaussian_sigma=(1.0, 25.0),
    poisson_scale=(0.05, 2.5),
)


def blind(**changes: Any) -> Blind:  # noqa: ANN401
    options: dict[str, Any] = {"scale": 4, "seed": 3, "first": Pass(), "second": SECOND}
    return Blind(**{**options, **changes})


@pytest.fixture(scope="module")
def hr() -> torch.Tensor:
    """Twelve patches of a photo, uint8 from the loader made float."""
    image = torch.from_numpy(photos.astronaut()).permute(2, 0, 1)
    patches = [image[:, 20 * i : 20 * i + 64, 30 * i : 30 * i + 64] for i in range(12)]
    return to_float(torch.stack(patches))


@pytest.fixture(scope="module")
def lr(hr: torch.Tensor) -> torch.Tensor:
    made: torch.Tensor = blind(source=USM())(hr, torch.arange(12))
    return made


def test_output_is_an_8_bit_image(lr: torch.Tensor) -> None:
    assert lr.shape == (12, 3, 16, 16)
    assert lr.dtype == torch.float32
    levels = lr * 255
    assert torch.equal(levels.round().clamp(0, 255) / 255, lr)


@pytest.mark.parametrize("rows", [[0], [7], [3, 4], [11, 2, 5], [0, 2, 4, 6, 8, 10]])
def test_a_sample_is_the_same_in_any_batch(
    hr: torch.Tensor, lr: torch.Tensor, rows: list[int]
) -> None:
    again = blind(source=USM())(hr[rows], torch.tensor(rows))
    assert torch.equal(again, lr[rows])


def test_layout_threads_and_autocast_change_nothing(hr: torch.Tensor, lr: torch.Tensor) -> None:
    degrade = blind(source=USM())
    samples = torch.arange(12)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(2, threads))
        with torch.autocast("cpu", torch.bfloat16):
            again = degrade(hr.contiguous(memory_format=torch.channels_last), samples)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(again, lr)


def test_samples_and_seeds_differ(hr: torch.Tensor) -> None:
    one = hr[:1].expand(6, -1, -1, -1)
    made = blind()(one, torch.arange(6))
    assert len({image.numpy().tobytes() for image in made}) == 6
    assert not torch.equal(blind(seed=4)(one, torch.arange(6)), made)


def test_validation_is_every_runs_and_never_trainings(hr: torch.Tensor) -> None:
    samples = torch.arange(4)
    first, other = blind(seed=3), blind(seed=4)
    trained = first(hr[:4], samples)
    validated = first.eval()(hr[:4], samples)
    assert torch.equal(validated, first(hr[:4], samples))
    assert torch.equal(validated, other.eval()(hr[:4], samples))
    assert not torch.equal(validated, blind(seed=0)(hr[:4], samples))
    assert torch.equal(first.train()(hr[:4], samples), trained)
    assert not torch.equal(blind(val_seed=1).eval()(hr[:4], samples), validated)


def degraded(data: Any, batches: int = 2) -> dict[int, bytes]:  # noqa: ANN401
    degrade = blind()
    made = {}
    for batch in islice(data.train_dataloader(), batches):
        lr = degrade(to_float(batch["hr"]), batch["sample"])
        made |= {int(k): row.numpy().tobytes() for k, row in zip(batch["sample"], lr, strict=True)}
    return made


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")
@pytest.mark.parametrize("num_workers", [0, 1, 2, 3])
def test_same_lr_for_any_workers_and_ranks(tmp_path: Path, num_workers: int) -> None:
    expected = degraded(_data(tmp_path, batch_size=4))
    seen: dict[int, bytes] = {}
    for rank in range(2):
        data = _data(tmp_path, batch_size=4, num_workers=num_workers)
        seen |= degraded(_at(data, rank=rank, world_size=2))
    assert len(seen) == 8
    assert seen == expected


@pytest.mark.parametrize("shape", [(4, 4), (8, 60), (100, 36)])
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_any_size(shape: tuple[int, int], scale: int) -> None:
    hr = torch.rand(3, 3, *shape, generator=torch.Generator().manual_seed(0))
    lr = blind(scale=scale, source=USM())(hr, torch.arange(3))
    assert lr.shape == (3, 3, shape[0] // scale, shape[1] // scale)
    assert lr.isfinite().all()


def test_without_anything_it_is_the_resize(hr: torch.Tensor) -> None:
    """All switched off: area means, then a JPEG that hardly shows."""
    nothing = Pass(
        blur_probability=0.0,
        resize_weights={"keep": 1.0},
        resize_modes={"area": 1.0},
        gaussian_probability=1.0,
        gaussian_sigma=(0.0, 0.0),
        jpeg_quality=(100, 100),
    )
    lr = blind(first=None, second=nothing, sinc_probability=0.0)(hr, torch.arange(12))
    expected = torch.nn.functional.avg_pool2d(hr, 4)
    assert (lr - expected).abs().mean() * 255 < 3  # chroma is halved by JPEG at any quality


def test_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        blind()(torch.zeros(1, 3, 18, 16), torch.zeros(1))
    with pytest.raises(ValueError, match=r"sinc_size must be \[low, high\]"):
        blind(sinc_size=(21, 7))
    with pytest.raises(ValueError, match="resize_modes"):
        blind(resize_modes={"nearest": 1.0})


def test_the_yaml_is_the_paper() -> None:
    """Ranges of Real-ESRGAN's published x4plus training options."""
    from hydra.utils import instantiate

    made = instantiate(prepare(["degradation=real_esrgan"]).config.degradation, _convert_="all")
    assert isinstance(made.source, USM)
    for mine, published in ((made.first, Pass()), (made.second, SECOND)):
        for name, value in vars(published).items():
            own = getattr(mine, name)
            if isinstance(value, tuple):
                assert own == pytest.approx(list(value), abs=1e-7), name
            else:
                assert own == value, name
    assert (made.sinc_probability, made.sinc_first_probability) == (0.8, 0.5)


@pytest.mark.parametrize("part", ["first", "source"])
def test_null_takes_a_part_away(part: str) -> None:
    words = ["degradation=real_esrgan", f"degradation.{part}=null"]
    assert prepare(words).config.degradation[part] is None
