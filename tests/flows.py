"""Untrained flows that move: what a sample depends on shows without training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from srtrain.networks.build import build_generator
from srtrain.networks.flow import Flow
from srtrain.networks.spec import Spec
from srtrain.networks.storage import write_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from srtrain.networks.generator import Generator

UNET = {
    "_target_": "srtrain.networks.flow_unet.FlowUNet",
    "channels": 8,
    "multipliers": [1, 2],
    "blocks": 1,
}
BANDS = {
    "_target_": "srtrain.networks.flow_bands.FlowBands",
    "channels": 8,
    "blocks": 1,
    "sigma": 0.3,
    "spread": 0.5,
}
MEAN = {"_target_": "srtrain.networks.edsr.EDSRLite", "num_features": 4, "num_blocks": 1}


def moving(source: str = "mean", *, steps: int = 4, scale: int = 2) -> Generator:
    """A flow whose weights are large enough for seams, batches and noise to be seen.

    ``source``: as of a flow; ``condition`` is around the upsampled LR, by ``FlowBands``.
    """
    kwargs: dict[str, Any] = {
        "scale": scale,
        "velocity": BANDS if source == "condition" else UNET,
        "source": source,
        "condition": "none" if source == "mean" else "lr",
        "sigma": 0.3,
        "steps": steps,
        **({"mean": {**MEAN, "scale": scale}} if source == "mean" else {}),
    }
    torch.manual_seed(3)
    made = build_generator(Spec(_target_="srtrain.networks.flow.Flow", kwargs=kwargs), scale=scale)
    assert isinstance(made.net, Flow)
    for block in made.net.velocity.modules():
        if isinstance(block, nn.Conv2d):
            nn.init.normal_(block.weight, std=0.06)
    return made.eval()


def write_moving(folder: Path, source: str = "mean", *, degradation: str = "") -> Path:
    """The checkpoint of ``moving(source)``, trained with that degradation if one is named."""
    generator = moving(source)
    path = folder / "step-000001.ckpt"
    content = {
        "step": 1,
        "generator": dict(generator.spec),
        "scale": generator.scale,
        "state_dict": generator.net.state_dict(),
        "train_state": {},
        "config": {"degradation": {"_target_": degradation}} if degradation else {},
    }
    write_checkpoint(path, content)
    return path
