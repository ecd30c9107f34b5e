"""What a round of validation makes of the images it was given."""

from __future__ import annotations

import pytest
import torch

from srtrain.batch import Batch
from srtrain.degradation.resize import Bicubic, upscale_rounded
from srtrain.metrics.image_metrics import ImageMetrics
from srtrain.training.validation import Validation


def _validation(names: list[str]) -> Validation:
    return Validation(
        metrics=ImageMetrics(scale=2),
        upscale=lambda lr: upscale_rounded(lr, scale=2),
        names=names,
    )


def _add(validation: Validation, data: int, sample: int) -> None:
    generator = torch.Generator().manual_seed(100 * data + sample)
    hr = torch.rand(1, 3, 24, 24, generator=generator)
    lr = Bicubic(scale=2)(hr)
    sr = (hr + 0.1 * torch.rand(hr.shape, generator=generator)).clamp(0, 1)
    batch: Batch = {"hr": hr, "name": [f"{data}-{sample}"], "sample": torch.tensor([sample])}
    validation.add(data, batch, sr=sr, hr=hr, lr=lr)


def test_an_image_that_two_ranks_measured_counts_once() -> None:
    once, twice = _validation(["a", "b"]), _validation(["a", "b"])
    for validation in (once, twice):
        validation.start(torch.device("cpu"))
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
        validation.start(torch.device("cpu"))
        _add(validation, 0, 0)
        _add(validation, 1, 0)
        validation.finish(step=0)
    kept = dict(validation.bicubic)
    del validation.bicubic["b"]  # as when another set takes the name on resuming
    validation.start(torch.device("cpu"))
    _add(validation, 0, 0)
    _add(validation, 1, 0)
    validation.finish(step=5)
    assert validation.bicubic["a"] == pytest.approx(kept["a"])
    assert validation.bicubic["b"] == pytest.approx(kept["b"])
    assert list(validation.new_bicubic) == ["b"]
