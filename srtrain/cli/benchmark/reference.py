"""A loop as BasicSR's documentation describes its own, written from that description alone.

Pairs of PNGs are decoded whole for every sample, by two workers, as floats, then cropped, flipped
and turned; the EMA goes through the parameters one by one, and every loss is fetched at every step.
Those docs advise to cut pictures to sub-images of 480² first: `--peer-side 480` does, outside of
the clock, as srtrain's cache is built outside of it. By default it reads the folder as it is given
to srtrain, pictures of 1000², whole: against that advice.
Source: Wang et al., BasicSR, docs (Datasets, Config, Models; DatasetPreparation.md, DIV2K).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from hydra.utils import instantiate
from PIL import Image
from torch.utils.data import DataLoader, Dataset, RandomSampler

from srtrain.cli import build
from srtrain.cli.benchmark.driven import Turns, ask_for_gpus_as_a_run, synchronize
from srtrain.config.preflight import prepare
from srtrain.training.loop import seed_networks

try:
    import cv2
except ImportError:
    cv2 = None

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    Pair = tuple[Tensor, Tensor]

WORKERS = 2
ENDLESS = 10**9


def decoded(path: Path) -> NDArray[np.float32]:
    """The whole image in [0, 1]; by OpenCV where it is installed (7/8 of the time): then as BGR."""
    if cv2 is not None:
        pixels: NDArray[np.uint8] = cv2.imread(str(path), cv2.IMREAD_COLOR)
    else:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    return pixels.astype(np.float32) / np.float32(255)


class PairedImages(Dataset["Pair"]):
    """Crops of pairs of the same name in ``hr`` and ``lr``."""

    def __init__(self, hr: Path, lr: Path, *, patch: int, scale: int) -> None:
        self.files = [(path, lr / path.name) for path in sorted(hr.glob("*.png"))]
        self.patch, self.scale = patch // scale, scale

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Pair:
        hr, lr = map(decoded, self.files[index])
        top, left = (int(torch.randint(n - self.patch + 1, ())) for n in lr.shape[:2])
        flip, turn = bool(torch.rand(()) < 0.5), int(torch.randint(4, ()))
        return self._cut(lr, top, left, 1, flip, turn), self._cut(
            hr, top, left, self.scale, flip, turn
        )

    def _cut(
        self, image: NDArray[np.float32], top: int, left: int, factor: int, flip: bool, turn: int
    ) -> Tensor:
        side, top, left = self.patch * factor, top * factor, left * factor
        patch = image[top : top + side, left : left + side]
        if cv2 is not None:  # here: to swap the whole image would take a seventh more
            patch = patch[..., ::-1]
        patch = np.rot90(patch[:, ::-1] if flip else patch, turn)
        return torch.from_numpy(np.ascontiguousarray(patch.transpose(2, 0, 1)))


class Reference:
    """Steps on the pairs in ``pictures``, of the network that ``srtrain WORDS`` would train."""

    def __init__(self, words: Sequence[str], pictures: Path) -> None:
        config = prepare(words).config
        options = instantiate(config.trainer)
        self.device = torch.device("cuda" if options.uses_gpu else "cpu")
        ask_for_gpus_as_a_run(uses_gpu=options.uses_gpu)
        seed_networks(config.seed)
        self.net = build.make_generator(config).net.to(self.device)
        self.loss = instantiate(config.loss.terms.pixel)
        rates = {"lr": config.optimizer.lr, "betas": tuple(config.optimizer.betas)}
        self.optimizer = torch.optim.Adam(self.net.parameters(), **rates)
        self.decay = config.callbacks.ema.decay
        self.average = {name: p.detach().clone() for name, p in self.net.named_parameters()}
        images = PairedImages(
            pictures / "hr", pictures / "lr", patch=config.data.hr_patch_size, scale=config.scale
        )
        self.loader: DataLoader[Pair] = DataLoader(
            images,
            config.data.batch_size,
            sampler=RandomSampler(images, replacement=True, num_samples=ENDLESS),
            num_workers=WORKERS,
            pin_memory=self.device.type == "cuda",
        )
        self.logged: dict[str, float] = {}

    def steps(self) -> Iterator[int]:
        """One step each, for ever."""
        for number, (lr, hr) in enumerate(self.loader):
            sr = self.net(lr.to(self.device))
            loss = self.loss(sr, hr.to(self.device))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.logged = {"pixel": loss.item()}
            with torch.no_grad():
                for name, parameter in self.net.named_parameters():
                    kept = self.average[name]
                    kept.mul_(self.decay).add_(parameter, alpha=1 - self.decay)
            yield number


def main(pictures: str, words: Sequence[str]) -> None:
    """Steps, in turns, until it is killed."""
    reference = Reference(words, Path(pictures))
    turns = Turns(synchronize)
    turns.begin(decoder="Pillow" if cv2 is None else "OpenCV")
    for _ in reference.steps():
        turns.stepped()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
