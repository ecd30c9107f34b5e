"""What is trained: networks by name, and a folder of pictures as large as photos are."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from srtrain.data.leaves import dead_leaves
from srtrain.rng import generator

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SIDE = 1000  # of a picture
GRAIN = 3.0  # standard deviation, in levels: PNGs then take 2 bytes a pixel, as photos' do


@dataclass(frozen=True)
class Network:
    """What says on the command line what is trained; steps of a turn of some CPU-seconds.

    ``flow``: it learns velocities; ``mean``: on the way from, or told of, the image of another.
    """

    words: tuple[str, ...]
    steps: int = 1
    flow: bool = False
    mean: bool = False


_L1 = "experiment=l1"
_PMRF = ("experiment=pmrf", "generator=flow_lite")
_POSTERIOR = ("experiment=posterior", "generator=flow_lite")
_PERCEPTUAL = ("experiment=mse_plus_perceptual", "loss.terms.perceptual.features=embedded")

NETWORKS = {
    "tiny": Network(
        (_L1, "generator=edsr_lite", "generator.num_features=16", "generator.num_blocks=4"), 100
    ),
    "compact": Network((_L1, "generator=compact"), 4),
    "srresnet": Network((_L1, "generator=srresnet")),
    "edsr": Network((_L1, "generator=edsr")),
    "swinir_light": Network((_L1, "generator=swinir_light")),
    "srresnet+vgg": Network((*_PERCEPTUAL, "generator=srresnet")),
    "srresnet+adversary": Network((_L1, "generator=srresnet", "discriminator=patchgan")),
    "pmrf": Network(_PMRF, 8, flow=True, mean=True),
    "posterior": Network(_POSTERIOR, 8, flow=True),
    "posterior+mean": Network(_POSTERIOR, 8, flow=True, mean=True),
}
CUDA_STEPS = 200


def draw_mean(folder: Path, *, scale: int) -> Path:
    """A network for flows to start from, as large as that of small budgets, untrained."""
    from srtrain.cli import build
    from srtrain.config.preflight import prepare
    from srtrain.networks.storage import checkpoint_name, write_checkpoint

    config = prepare(["experiment=mse", "generator=edsr_lite", f"scale={scale}"]).config
    drawn = build.make_generator(config)
    content = {"generator": drawn.spec, "scale": scale, "step": 1}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / checkpoint_name(1)
    write_checkpoint(path, {**content, "state_dict": drawn.net.state_dict()})
    return path


def draw_pictures(folder: Path, *, count: int, scale: int, side: int = SIDE) -> None:
    """PNGs of ``side``² in ``folder/hr``, ÷ ``scale`` in ``folder/lr``, small ones to validate on.

    Each is a mosaic of dead leaves, moved and turned, with grain: to draw leaves of that size would
    take longer than many a measurement.
    """
    half = -(-side // 2)
    leaves = [dead_leaves(k, size=half, seed=0) for k in range(3)]
    for name in ("hr", "lr", "val"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        pixels = _mosaic(leaves, number)[:side, :side]
        picture = Image.fromarray(pixels)
        picture.save(folder / "hr" / f"{number:03}.png")
        small = picture.resize((side // scale,) * 2, Image.Resampling.BICUBIC)
        small.save(folder / "lr" / f"{number:03}.png")
    Image.fromarray(leaves[0][:96, :96]).save(folder / "val" / "one.png")


def cut_pictures(folder: Path, target: Path, *, scale: int, side: int) -> None:
    """The same pictures in ``target``, as sub-images of ``side``² HR pixels that overlap by half.

    The last of a row or column ends where the picture does.
    """
    small = side // scale
    for name, times in (("hr", scale), ("lr", 1)):
        (target / name).mkdir(parents=True)
        for path in sorted((folder / name).glob("*.png")):
            with Image.open(path) as picture:
                last = picture.width // times - small  # in LR pixels, as is all but the cut
                starts = sorted({*range(0, last, max(small // 2, 1)), last})
                for number, (top, left) in enumerate(product(starts, starts)):
                    box = (left, top, left + small, top + small)
                    part = picture.crop(tuple(times * edge for edge in box))
                    part.save(target / name / f"{path.stem}_{number:03}.png")


def _mosaic(leaves: list[NDArray[np.uint8]], number: int) -> NDArray[np.uint8]:
    rng = generator(0, number, "benchmark")
    side = len(leaves[0])

    def tile() -> NDArray[np.uint8]:
        turned = np.rot90(leaves[rng.integers(len(leaves))], int(rng.integers(4)))
        return np.roll(turned, tuple(rng.integers(side, size=2)), (0, 1))

    rows = [np.concatenate([tile(), tile()], 1) for _ in range(2)]
    grain = rng.normal(0.0, GRAIN, (2 * side, 2 * side, 3))
    grainy = np.concatenate(rows) + grain
    return np.clip(np.rint(grainy), 0, 255).astype(np.uint8)
