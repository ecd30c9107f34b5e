"""No quality is traded: 200 steps equal a loop that does nothing for speed."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from srtrain.batch import to_float
from srtrain.cli import build
from srtrain.config.preflight import prepare
from srtrain.data.datamodule import SRData
from srtrain.degradation.resize import Bicubic
from tests.training import draw_sets, train, words

if TYPE_CHECKING:
    from pathlib import Path

STEPS, LINE = 200, 50
# bfloat16 rounds by up to 2^-9 of a value, in every layer; found: 0.2, 0.1, 0.3, 0.02 %.
NOISE = 0.01
WORDS = [
    f"trainer.max_steps={STEPS}",
    f"trainer.val_every_n_steps={STEPS}",
    f"trainer.log_every_n_steps={LINE}",
    f"checkpoint.every_n_steps={STEPS}",
    "loss.weights.pixel_l1=0.5",
    "scheduler=constant",
    "scheduler.warmup_share=0",
    "model.clip_norm=null",
    "optimizer.lr=2e-3",
]


def plain(images: Path, run_dir: Path) -> list[float]:
    """Losses: float32, NCHW, one parameter after the other, no Lightning."""
    config: Any = prepare(words(images, run_dir, *WORDS)).config
    torch.manual_seed(config.seed)
    net = build.make_generator(config).net
    data = build.make_data(config, build.instantiate(config.trainer))
    data.prepare_data()
    assert isinstance(data, SRData)
    degradation = Bicubic(scale=config.scale)
    optimizer = torch.optim.Adam(
        net.parameters(), lr=2e-3, betas=(0.9, 0.99), foreach=False, fused=False
    )
    losses = []
    for batch, _ in zip(data.train_dataloader(), range(STEPS), strict=False):
        hr = to_float(batch["hr"]).contiguous()
        sr = net(degradation(hr, batch["sample"]).contiguous())
        loss = nn.functional.mse_loss(sr, hr) + 0.5 * nn.functional.l1_loss(sr, hr)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def trained(images: Path, run_dir: Path, precision: str) -> list[float]:
    folder = train(images, run_dir, *WORDS, f"trainer.precision={precision}")
    return [value for _, name, value in folder.read_metrics() if name == "train/loss"]


def test_two_hundred_steps(tmp_path: Path) -> None:
    """Adam makes whole steps of gradients that are all rounding, so paths part in the end."""
    images = draw_sets(tmp_path / "images")
    losses = plain(images, tmp_path / "plain")
    exact = [statistics.mean(losses[end - LINE : end]) for end in range(LINE, STEPS + 1, LINE)]
    assert exact[-1] < 0.95 * exact[0]  # it learns
    fp32 = trained(images, tmp_path / "fp32", "fp32")
    assert fp32[0] == pytest.approx(exact[0], rel=1e-6)
    assert fp32 == pytest.approx(exact, rel=1e-3)
    bf16 = trained(images, tmp_path / "bf16", "bf16")
    assert bf16 == pytest.approx(exact, rel=NOISE)
    assert bf16 != fp32
