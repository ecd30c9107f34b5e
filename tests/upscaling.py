"""A tiny network, its checkpoint, and images to make larger."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from srtrain.networks.edsr import EDSRLite
from srtrain.networks.generator import Generator
from srtrain.networks.spec import Spec
from srtrain.networks.storage import write_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

KWARGS = {"scale": 2, "num_features": 4, "num_blocks": 1}


def tiny_generator() -> Generator:
    torch.manual_seed(0)
    spec = Spec(_target_="srtrain.networks.edsr.EDSRLite", kwargs=KWARGS)
    net = EDSRLite(**KWARGS)
    # Its tail starts at zero, which would make it bicubic: indifferent to tiles, flips and turns.
    torch.nn.init.normal_(net.tail.weight, std=0.05)
    return Generator(net, scale=2, spec=spec).eval()


def smooth(height: int, width: int, channels: int = 3) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    phases = np.arange(channels)
    wave = np.sin(rows[..., None] / 5 + phases) * np.cos(columns[..., None] / 7)
    return (127.5 + 100 * wave).astype(np.uint8)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / name)


def write_tiny(folder: Path) -> Path:
    """The checkpoint of ``tiny_generator``."""
    generator = tiny_generator()
    path = folder / "step-000001.ckpt"
    content = {
        "step": 1,
        "generator": dict(generator.spec),
        "scale": 2,
        "state_dict": generator.net.state_dict(),
        "train_state": {},
    }
    write_checkpoint(path, content)
    return path
