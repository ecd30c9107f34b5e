"""What a round of validation makes of the images it was given."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from srtrain.batch import Batch
from srtrain.cli import tiled as tiling
from srtrain.degradation.resize import Bicubic, upscale_rounded
from srtrain.metrics.image_metrics import ImageMetrics
from srtrain.networks.edsr import EDSR
from srtrain.networks.generator import Generator
from srtrain.networks.heads import Head, Quantiles
from srtrain.networks.spec import Spec
from srtrain.training.bands import Bands
from srtrain.training.examples import Examples
from srtrain.training.guards import RollBack
from srtrain.training.kept import Kept
from srtrain.training.supervised import SupervisedSR
from srtrain.training.validation import Validation
from tests.flows import moving

if TYPE_CHECKING:
    from collections.abc import Callable

CPU = torch.device("cpu")
SPEC = Spec(_target_="none", kwargs={})


def _validation(names: list[str], *, head: Head | None = None, **options: Any) -> Validation:  # noqa: ANN401
    return Validation(
        metrics=ImageMetrics(scale=2),
        upscale=lambda lr: upscale_rounded(lr, scale=2),
        names=names,
        bands=None if head is None else Bands(head),
        **options,
    )


def _images(data: int, samples: list[int]) -> dict[str, Any]:
    drawn = []
    for sample in samples:
        generator = torch.Generator().manual_seed(100 * data + sample)
        drawn.append(torch.rand(4, 3, 24, 24, generator=generator))
    noise = torch.stack(drawn)
    hr = noise[:, 0]
    sr = (hr + 0.1 * noise[:, 1]).clamp(0, 1)
    maps = torch.cat([sr - 0.1 * noise[:, 2], sr, sr + 0.1 * noise[:, 3]], dim=1)
    return {"sr": sr, "hr": hr, "lr": Bicubic(scale=2)(hr), "maps": maps}


def _add(validation: Validation, data: int, *samples: int, spoil: float | None = None) -> None:
    images = _images(data, list(samples))
    if spoil is not None:
        images["sr"][-1, 0, 0, 0] = spoil
    names = [f"{data}-{sample}" for sample in samples]
    batch: Batch = {"hr": images["hr"], "name": names, "sample": torch.tensor(samples)}
    validation.add(data, batch, **images)


class _Halved:
    """A degradation that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, hr: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return Bicubic(scale=2)(hr) * (1 - 0.1 * sample.view(-1, 1, 1, 1) / 7)


@pytest.mark.parametrize(("room", "calls"), [(2**20, 3), (3 * 12 * 12 * 4, 5), (0, 6)])
def test_lr_is_made_once_where_there_is_room(room: int, calls: int) -> None:
    """Of three batches in two rounds: all, the first alone, none; the same bits in any case."""
    degradation, validation = _Halved(), _validation(["a", "b"])
    validation.kept = Kept(room)
    module: Any = SimpleNamespace(examples=Examples(degradation=degradation), validation=validation)
    batches: list[tuple[int, Batch]] = []
    for data, sample in ((0, 0), (0, 5), (1, 0)):
        hr = (_images(data, [sample])["hr"] * 255).byte()
        batches.append((data, {"hr": hr, "name": ["n"], "sample": torch.tensor([sample])}))
    for _ in range(2):
        for data, batch in batches:
            hr, lr = SupervisedSR.validated(module, data, batch)
            assert torch.equal(hr, batch["hr"] / 255)
            assert torch.equal(lr, _Halved()(hr, batch["sample"]))
    assert degradation.calls == calls


def test_an_image_that_two_ranks_measured_counts_once() -> None:
    once, twice = _validation(["a", "b"]), _validation(["a", "b"])
    for validation in (once, twice):
        validation.start(CPU)
        for data, sample in ((0, 0), (0, 1), (1, 0)):
            _add(validation, data, sample)
    _add(twice, 0, 0)
    for validation in (once, twice):
        validation.finish(step=3)
    assert once.val == twice.val
    assert once.bicubic == twice.bicubic
    assert list(once.val) == ["a", "b"]


def test_the_bicubic_line_is_measured_once_per_set() -> None:
    validation = _validation(["a", "b"])
    for _ in range(2):
        validation.start(CPU)
        _add(validation, 0, 0)
        _add(validation, 1, 0)
        validation.finish(step=0)
    kept = dict(validation.bicubic)
    del validation.bicubic["b"]  # as when another set takes the name on resuming
    validation.start(CPU)
    _add(validation, 0, 0)
    _add(validation, 1, 0)
    validation.finish(step=5)
    assert validation.bicubic["a"] == pytest.approx(kept["a"])
    assert validation.bicubic["b"] == pytest.approx(kept["b"])
    assert list(validation.new_bicubic) == ["b"]


BATCHES = (
    [(0,), (1,), (2,), (3,), (4,)],
    [(0, 1, 2, 3, 4)],
    [(3, 1), (4,), (2, 0)],
)


@pytest.mark.parametrize("head", [None, Quantiles()], ids=["image", "quantiles"])
def test_figures_do_not_depend_on_batches_or_their_order(head: Head | None) -> None:
    found = []
    for batches in BATCHES:
        validation = _validation(["a"], head=head, num_panels=2)
        validation.start(CPU)
        for samples in batches:
            _add(validation, 0, *samples)
        validation.finish(step=1)
        panels = {panel.name: panel for panel in validation.panels}
        assert panels.keys() == {"0-0", "0-1"}
        assert all((panel.band is None) == (head is None) for panel in panels.values())
        found.append((validation.val, validation.bicubic, panels["0-1"].sr.tolist()))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_every_rank_ends_with_the_figures_of_one(
    ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks in turn, each told at the end what all have gathered."""
    own: list[list[list[Any]]] = []
    monkeypatch.setattr("srtrain.training.validation.all_ranks", lambda items: items)
    single, *validations = (
        _validation(["a"], head=Quantiles(), num_panels=0) for _ in range(1 + ranks)
    )
    for validation, samples in zip(
        [single, *validations], [range(5), *(range(5)[r::ranks] for r in range(ranks))], strict=True
    ):
        validation.start(CPU)
        for sample in samples:
            _add(validation, 0, sample)
    single.finish(1)

    def gathered(validation: Validation) -> list[list[Any]]:
        told: list[list[Any]] = []
        monkeypatch.setattr(
            "srtrain.training.validation.all_ranks", lambda items: told.append(items) or items
        )
        validation.finish(1)
        return told

    own = [gathered(validation) for validation in validations]
    for validation in validations:
        asked = iter(zip(*own, strict=True))
        monkeypatch.setattr(
            "srtrain.training.validation.all_ranks",
            lambda _, asked=asked: [item for part in next(asked) for item in part],
        )
        validation.bicubic = {}
        validation.finish(1)
        assert validation.val == single.val
        assert validation.bicubic == single.bicubic


@pytest.mark.parametrize("spoil", [math.nan, math.inf])
def test_an_image_that_is_not_finite_is_named_at_the_end(spoil: float) -> None:
    validation = _validation(["a"])
    validation.start(CPU)
    _add(validation, 0, 0)
    _add(validation, 0, 1, 2, spoil=spoil)
    with pytest.raises(RollBack, match=r"not finite \(0-2\) at step 7"):
        validation.finish(step=7)


class _Fetched(Exception):  # noqa: N818
    pass


def test_within_a_round_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would wait for a device raises here, also without one."""
    validation = _validation(["a"], num_panels=0, head=Quantiles())
    validation.start(CPU)
    images = _images(0, [0, 1])
    batch: Batch = {"hr": images["hr"], "name": ["0", "1"], "sample": torch.arange(2)}
    _add(validation, 0, 2)  # what is made once, tables of weights, is made

    def refuse(*_: object, **__: object) -> None:
        raise _Fetched

    numbers = batch["sample"].tolist()
    batch["sample"] = numbers  # type: ignore[typeddict-item]
    for name in ("item", "tolist", "cpu", "__bool__", "__int__", "__float__"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    validation.add(0, batch, **images)
    with pytest.raises(_Fetched):
        validation.finish(1)


def _generator(head: Head | None, net: Callable[[int], nn.Module]) -> Generator:
    torch.manual_seed(0)
    channels = 3 * (head.num_maps if head else 1)
    return Generator(net(channels), scale=2, spec=SPEC, head=head).eval()


def _edsr(channels: int) -> nn.Module:
    return EDSR(scale=2, num_features=8, num_blocks=2, out_channels=channels)


@pytest.mark.parametrize("head", [None, Quantiles()], ids=["image", "quantiles"])
def test_large_images_in_tiles_are_the_whole(
    head: Head | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiling, "VALIDATION_TILE", 20)
    generator = _generator(head, _edsr)
    made: list[object] = []

    def tiled() -> Callable[[torch.Tensor], torch.Tensor]:
        made.append(None)
        return tiling.in_tiles(generator)

    validation = _validation(["a"], tiled=tiled)
    lr = torch.rand(1, 3, 61, 47)
    with torch.no_grad():
        whole = validation.predict(generator, lr)
        monkeypatch.setattr("srtrain.training.validation.LARGE", 61 * 47 - 1)
        for _ in range(2):
            validation.start(CPU)
            for _ in range(2):
                pieces = validation.predict(generator, lr)
                torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-5)
                assert not torch.equal(pieces, whole)  # it was computed in tiles
    assert len(made) == 2  # once a round
    assert not any(module.training for module in generator.modules())


def test_of_a_flow_hr_pixels_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its velocity works at that size: four times LR's here."""
    generator, lr = moving(scale=2), torch.rand(1, 3, 9, 7)
    for most, whole in ((4 * 9 * 7, True), (4 * 9 * 7 - 1, False)):
        monkeypatch.setattr("srtrain.training.validation.LARGE_MADE", most)
        validation = _validation(["a"], tiled=lambda: torch.zeros_like)
        with torch.no_grad():
            assert bool(validation.predict(generator, lr).any()) == whole


class _Seen(nn.Module):
    """Notes the switches of cuDNN and autocast that a convolution would find."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[bool, ...]] = []

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        self.found.append((*_switches(), torch.is_autocast_enabled("cpu")))
        return nn.functional.interpolate(lr, scale_factor=2)


def _switches() -> tuple[bool, ...]:
    cudnn = torch.backends.cudnn
    return cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("switch", [False, True])
def test_predictions_are_fp32_without_tf32(
    large: bool, switch: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("enabled", "benchmark", "deterministic"):
        monkeypatch.setattr(torch.backends.cudnn, name, switch)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    net = _Seen()
    generator = _generator(None, lambda _: net)
    validation = _validation(["a"], tiled=lambda: generator.raw)
    if large:
        monkeypatch.setattr("srtrain.training.validation.LARGE", 0)
    with torch.autocast("cpu", torch.bfloat16):
        validation.predict(generator, torch.rand(1, 3, 4, 4))
    assert net.found == [(switch, switch, switch, False, False)]
    assert _switches() == (switch, switch, switch, True)


class _Mean(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        larger = nn.functional.interpolate(lr, scale_factor=2)
        return larger - lr.mean(dim=(2, 3), keepdim=True) + self.weight


def test_what_sees_the_whole_image_is_given_it() -> None:
    generator = _generator(None, _Mean)
    lr = torch.rand(1, 3, 40, 40)
    assert torch.equal(tiling.in_tiles(generator)(lr), generator.raw(lr))
