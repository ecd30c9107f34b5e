"""Small panels LR | bicubic | SR | HR with a zoomed detail, on disk and in the logger.

Of a generator that predicts a band also lower | SR | upper | width.
"""

from __future__ import annotations

import copy
import io
import logging
import re
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image, ImageDraw, ImageFont
from torch.nn import functional

from srtrain.images import Sheet, write_png
from srtrain.metrics.coverage import POINTS, summary
from srtrain.metrics.quality import psnr
from srtrain.process_group import world_size
from srtrain.training.validation import all_ranks
from srtrain.training.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.loggers import Logger
    from torch import Tensor

    from srtrain.networks.heads import Band
    from srtrain.training.run_folder import RunFolder
    from srtrain.training.supervised import SupervisedSR
    from srtrain.training.validation import Panel

COLUMN = 320  # pixels: four columns fit a laptop's screen
CAPTION = 24
GAP = 6
KEPT = 2**26  # bytes of panels that wait for their SR: some 25

log = logging.getLogger("srtrain")


class Pictures(Callback):
    """Draws the first ``max_images`` of each validation set after every validation.

    Each panel has two rows: the whole image, and the HR's busiest square enlarged ``zoom`` times.
    On disk one file per image is kept (``samples/<set>_<name>.png``, the newest, and
    ``…_band.png`` where there is one), so that a long run cannot fill the disk; the logger keeps
    the history.

    A thread draws, encodes and logs while training goes on; the next round waits for it if need be.
    What went wrong there is raised at the end of the next step. Of several ranks each draws its own
    before it goes on: together they are asked for them.
    """

    def __init__(self, folder: RunFolder, *, max_images: int, zoom: int) -> None:
        super().__init__()
        if zoom < 1:
            raise ValueError(f"zoom = {zoom} must be at least 1")
        self.folder = folder
        self.max_images = max_images
        self.zoom = zoom
        self.writer = Writer()
        self.drawn = Drawn(KEPT)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand this round's panels over; rank 0 writes and logs those of all ranks."""
        module: SupervisedSR = pl_module  # type: ignore[assignment]
        if trainer.global_step == 0:
            return
        drawn = self._draw(module.validation.panels)  # when it is iterated over
        if world_size() > 1:
            drawn = iter(all_ranks([*drawn]))
        if trainer.is_global_zero:
            self.writer.start(partial(self._keep, drawn, trainer.loggers, trainer.global_step))
        if trainer.state.fn != "fit" or trainer.global_step >= trainer.max_steps:
            self.writer.flush()  # a run is not finished before its last pictures lie there

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Raise what went wrong."""
        self.writer.check()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for those that are being drawn."""
        self.writer.flush()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """What is being drawn is drawn; what goes wrong there does not replace what broke."""
        try:
            self.writer.flush()
        except Exception as error:
            log.warning("The last pictures are missing: %s", error)

    def _keep(
        self, drawn: Iterator[tuple[str, Image.Image]], loggers: Sequence[Logger], step: int
    ) -> None:
        pictures = {_safe(name): image for name, image in sorted(drawn, key=lambda item: item[0])}
        files = {key: save_png(image, self.folder, key) for key, image in pictures.items()}
        for logger in loggers:
            show = getattr(logger, "log_image", None)  # Weights & Biases has it, TensorBoard not
            if show is not None:
                for key, file in files.items():  # encoded once: W&B copies it
                    show(f"samples/{key}", [str(file)], step=step)

    def _draw(self, panels: Iterable[Panel]) -> Iterator[tuple[str, Image.Image]]:
        for panel in panels:
            key = f"{panel.data}_{panel.name}"
            yield key, draw(panel, zoom=self.zoom, kept=self.drawn)
            if panel.band is not None:
                yield f"{key}_band", draw_band(panel, panel.band, zoom=self.zoom)


def draw(panel: Panel, *, zoom: int, kept: Drawn | None = None) -> Image.Image:
    """The panel of one image as an RGB picture; what ``kept`` has of it is not drawn again."""
    known = None if kept is None else kept.get(panel)
    columns = Columns(panel.hr, zoom=zoom, marked=3) if known is None else known.copy()
    if known is None:
        height, width = panel.hr.shape[-2:]
        lr = functional.interpolate(panel.lr[None], (height, width), mode="nearest-exact")[0]
        columns.add(0, "LR", lr)
        columns.add(1, f"bicubic {_decibel(panel.bicubic, panel.hr)}", panel.bicubic)
        columns.add(3, "HR", panel.hr)
        if kept is not None:
            kept.offer(panel, columns.copy())
    columns.add(2, f"SR {_decibel(panel.sr, panel.hr)}", panel.sr)
    return columns.canvas


def draw_band(panel: Panel, band: Band, *, zoom: int) -> Image.Image:
    """The band of one image; its width, mean over the colours, from black to the widest percent."""
    lower, upper = (bound.clamp(0, 1) for bound in band)
    width = (upper - lower).mean(0)
    widest = max(float(summary(width)[-POINTS // 100]), 1 / 255)
    columns = {
        "lower bound": lower,
        f"SR {_decibel(panel.sr, panel.hr)}": panel.sr,
        "upper bound": upper,
        f"width, white: {255 * widest:.0f} levels": _heat(width / widest),
    }
    drawn = Columns(panel.hr, zoom=zoom, marked=1)
    for number, (caption, image) in enumerate(columns.items()):
        drawn.add(number, caption, image)
    return drawn.canvas


def _heat(values: Tensor) -> Tensor:
    """Shapes: (H, W), shown from 0 to 1 -> RGB (3, H, W)."""
    from matplotlib import colormaps

    coloured = colormaps["magma"](values.clamp(0, 1).numpy())[..., :3]
    return torch.from_numpy(coloured).float().permute(2, 0, 1)


class Columns:
    """Captions, whole images, and the HR's busiest square, outlined in column ``marked``."""

    def __init__(self, hr: Tensor, *, zoom: int, marked: int) -> None:
        height, width = hr.shape[-2:]
        self.marked = marked
        side = min(height, width, max(8, COLUMN // zoom))
        top, left = _busiest(hr, side)
        self.square = (left, top, left + side, top + side)
        self.height = max(1, round(COLUMN * height / width))
        size = (4 * COLUMN + 3 * GAP, CAPTION + self.height + GAP + COLUMN)
        self.canvas = Image.new("RGB", size, "white")

    def add(self, number: int, caption: str, image: Tensor) -> None:
        """Draw column ``number``: ``image`` is (3, H, W), as large as the HR."""
        x = number * (COLUMN + GAP)
        font = ImageFont.load_default(size=16)
        ImageDraw.Draw(self.canvas).text((x + 4, 2), caption, fill="black", font=font)
        whole = _picture(image)
        detail = whole.crop(self.square).resize((COLUMN, COLUMN), Image.Resampling.NEAREST)
        if number == self.marked:
            ImageDraw.Draw(whole).rectangle(self.square, outline=(255, 64, 64), width=2)
        small = whole.resize((COLUMN, self.height), Image.Resampling.LANCZOS, reducing_gap=3)
        self.canvas.paste(small, (x, CAPTION))
        self.canvas.paste(detail, (x, CAPTION + self.height + GAP))

    def copy(self) -> Columns:
        """The same, to be drawn on."""
        twin = copy.copy(self)
        twin.canvas = self.canvas.copy()
        return twin


class Drawn:
    """Panels without their SR, which no round changes, of at most ``most`` bytes together."""

    def __init__(self, most: int) -> None:
        self.room = most
        self._columns: dict[tuple[str, str], tuple[Tensor, Columns]] = {}

    def get(self, panel: Panel) -> Columns | None:
        """What was drawn of this image, from the very same LR."""
        lr, columns = self._columns.get((panel.data, panel.name), (None, None))
        return columns if lr is not None and torch.equal(lr, panel.lr) else None

    def offer(self, panel: Panel, columns: Columns) -> None:
        """Keep it, if there is room and nothing of this image."""
        key, needed = (panel.data, panel.name), 3 * columns.canvas.width * columns.canvas.height
        if key not in self._columns and needed <= self.room:
            self._columns[key] = panel.lr, columns
            self.room -= needed


def save_png(image: Image.Image, folder: RunFolder, key: str) -> Path:
    """Replace ``samples/<key>.png``; returns its path."""
    buffer, pixels = io.BytesIO(), np.asarray(image.convert("RGB"))
    write_png(buffer, Sheet(pixels.shape[:2], 3, 8), [pixels], quick=True)
    path = folder.samples / f"{key}.png"
    folder.write(path, buffer.getvalue())
    return path


def _busiest(hr: Tensor, side: int) -> tuple[int, int]:
    """The corner of the square with the most gradient energy: texture, not one strong edge."""
    gray = hr.mean(0, keepdim=True)[None]
    energy = torch.zeros_like(gray)
    energy[..., 1:, :] += gray.diff(dim=-2).abs()
    energy[..., :, 1:] += gray.diff(dim=-1).abs()
    sums = functional.avg_pool2d(energy.clamp(max=0.1), side, stride=max(1, side // 4))[0, 0]
    row, column = divmod(int(sums.argmax()), sums.shape[1])
    return row * max(1, side // 4), column * max(1, side // 4)


def _picture(image: Tensor) -> Image.Image:
    pixels = image.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(pixels))


def _decibel(image: Tensor, hr: Tensor) -> str:
    return f"{float(psnr(image[None], hr[None])):.2f} dB RGB"


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)[:80]
