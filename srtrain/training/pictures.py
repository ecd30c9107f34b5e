"""Small panels LR | bicubic | SR | HR with a zoomed detail, on disk and in the logger.

Of a generator that predicts a band also lower | SR | upper | width.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image, ImageDraw, ImageFont
from torch.nn import functional

from srtrain.metrics.coverage import POINTS, summary
from srtrain.metrics.quality import psnr
from srtrain.training.validation import all_ranks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

    from srtrain.networks.heads import Band
    from srtrain.training.run_folder import RunFolder
    from srtrain.training.supervised import SupervisedSR
    from srtrain.training.validation import Panel

COLUMN = 320  # pixels: four columns fit a laptop's screen
CAPTION = 24
GAP = 6


class Pictures(Callback):
    """Draws the first ``max_images`` of each validation set after every validation.

    Each panel has two rows: the whole image, and the HR's busiest square enlarged ``zoom`` times.
    On disk one file per image is kept (``samples/<set>_<name>.png``, the newest, and
    ``…_band.png`` where there is one), so that a long run cannot fill the disk; the logger keeps
    the history.
    """

    def __init__(self, folder: RunFolder, *, max_images: int, zoom: int) -> None:
        super().__init__()
        if zoom < 1:
            raise ValueError(f"zoom = {zoom} must be at least 1")
        self.folder = folder
        self.max_images = max_images
        self.zoom = zoom

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Every rank draws its own images; rank 0 writes and logs them all."""
        module: SupervisedSR = pl_module  # type: ignore[assignment]
        if trainer.global_step == 0:
            return
        drawn = dict(all_ranks([*self._draw(module.validation.panels)]))
        if not trainer.is_global_zero:
            return
        drawn = {_safe(name): drawn[name] for name in sorted(drawn)}
        for key, image in drawn.items():
            save_png(image, self.folder, key)
        for logger in trainer.loggers:
            log = getattr(logger, "log_image", None)  # Weights & Biases has it, TensorBoard not
            if log is not None and drawn:
                for key, image in drawn.items():
                    log(f"samples/{key}", [image], step=trainer.global_step)

    def _draw(self, panels: Iterable[Panel]) -> Iterator[tuple[str, Image.Image]]:
        for panel in panels:
            key = f"{panel.data}_{panel.name}"
            yield key, draw(panel, zoom=self.zoom)
            if panel.band is not None:
                yield f"{key}_band", draw_band(panel, panel.band, zoom=self.zoom)


def draw(panel: Panel, *, zoom: int) -> Image.Image:
    """The panel of one image as an RGB picture."""
    height, width = panel.hr.shape[-2:]
    lr = functional.interpolate(panel.lr[None], (height, width), mode="nearest-exact")[0]
    columns = {
        "LR": lr,
        f"bicubic {_decibel(panel.bicubic, panel.hr)}": panel.bicubic,
        f"SR {_decibel(panel.sr, panel.hr)}": panel.sr,
        "HR": panel.hr,
    }
    return _columns(columns, panel.hr, zoom=zoom, marked=3)


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
    return _columns(columns, panel.hr, zoom=zoom, marked=1)


def _heat(values: Tensor) -> Tensor:
    """Shapes: (H, W), shown from 0 to 1 -> RGB (3, H, W)."""
    from matplotlib import colormaps

    coloured = colormaps["magma"](values.clamp(0, 1).numpy())[..., :3]
    return torch.from_numpy(coloured).float().permute(2, 0, 1)


def _columns(columns: Mapping[str, Tensor], hr: Tensor, *, zoom: int, marked: int) -> Image.Image:
    """Captions, whole images, and the HR's busiest square, outlined in column ``marked``."""
    height, width = hr.shape[-2:]
    side = min(height, width, max(8, COLUMN // zoom))
    top, left = _busiest(hr, side)
    whole_height = max(1, round(COLUMN * height / width))
    canvas = Image.new(
        "RGB",
        (4 * COLUMN + 3 * GAP, CAPTION + whole_height + GAP + COLUMN),
        "white",
    )
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=16)
    for index, (caption, image) in enumerate(columns.items()):
        x = index * (COLUMN + GAP)
        pen.text((x + 4, 2), caption, fill="black", font=font)
        whole = _picture(image)
        corner = (left, top, left + side, top + side)
        detail = whole.crop(corner).resize((COLUMN, COLUMN), Image.Resampling.NEAREST)
        if index == marked:
            ImageDraw.Draw(whole).rectangle(corner, outline=(255, 64, 64), width=2)
        canvas.paste(whole.resize((COLUMN, whole_height), Image.Resampling.LANCZOS), (x, CAPTION))
        canvas.paste(detail, (x, CAPTION + whole_height + GAP))
    return canvas


def save_png(image: Image.Image, folder: RunFolder, key: str) -> None:
    """Replace ``samples/<key>.png``."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    folder.write(folder.samples / f"{key}.png", buffer.getvalue())


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
