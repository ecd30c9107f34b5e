"""One image as every model made it, side by side, and below it the place that tells them apart."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from srtrain.evaluation.shown import Box, disagreement, largest
from srtrain.files import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.ImageFont import FreeTypeFont
    from PIL.ImageFont import ImageFont as BitmapFont

    from srtrain.cli.evaluate.naming import Names
    from srtrain.evaluation.shown import Shown
    from srtrain.images.picture import Pixels

COLUMN = 320  # pixels
TITLE = 26
CAPTION = 44  # two lines
GAP = 6
ZOOM = 4
WIDEST = 6  # models in one picture; the first ones named
_MARK = (255, 64, 64)


def save_picture(folder: Path, shown: Shown, *, baseline: str, names: Names) -> Path:
    """``<set>_<image>.png``, whole or not at all; returns its path. Raises: OSError."""
    stream = io.BytesIO()
    draw(shown, baseline=baseline).save(stream, "PNG", compress_level=1)  # as house pictures are
    path = folder / f"{names.of(shown.data, shown.name)}.png"
    write_atomic(path, stream.getvalue())
    return path


def draw(shown: Shown, *, baseline: str = "bicubic") -> Image.Image:
    """LR | models | HR with names and figures; below, enlarged, where the models differ most.

    ``baseline`` has no say in where that is, unless it is all there is to compare with.
    """
    models = dict(list(shown.sr.items())[:WIDEST])
    box = _where(replace(shown, sr=models), baseline)
    columns = [*_of_lr(shown), *((_caption(shown, name), sr) for name, sr in models.items())]
    size = f"{shown.hr.shape[1]} x {shown.hr.shape[0]}"
    columns.append((["HR", size], shown.hr))
    height, width = shown.hr.shape[:2]
    whole_height = max(1, round(COLUMN * height / width))
    detail_height = max(1, round(COLUMN * box.height / box.width))
    top = TITLE + CAPTION
    lines = top + whole_height + GAP + detail_height
    canvas = Image.new("RGB", (len(columns) * (COLUMN + GAP) - GAP, lines), "white")
    _write(canvas, [f"{shown.name} of {shown.data}: {shown.why}"], 0, 0, canvas.width)
    for index, (caption, image) in enumerate(columns):
        x = index * (COLUMN + GAP)
        _write(canvas, caption, x, TITLE, COLUMN)
        whole = Image.fromarray(image)
        if index == len(columns) - 1:
            corner = (box.left, box.top, box.left + box.width - 1, box.top + box.height - 1)
            ImageDraw.Draw(whole).rectangle(corner, outline=_MARK, width=max(2, width // 160))
        small = whole.resize((COLUMN, whole_height), Image.Resampling.LANCZOS, reducing_gap=3)
        detail = Image.fromarray(np.ascontiguousarray(box.of(image)))
        large = detail.resize((COLUMN, detail_height), Image.Resampling.NEAREST)
        canvas.paste(small, (x, top))
        canvas.paste(large, (x, top + whole_height + GAP))
    return canvas


def _of_lr(shown: Shown) -> list[tuple[list[str], Pixels]]:
    if shown.lr is None:
        return []
    height, width = shown.lr.shape[:2]
    size = (shown.hr.shape[1], shown.hr.shape[0])
    nearest = Image.fromarray(shown.lr).resize(size, Image.Resampling.NEAREST)
    return [(["LR", f"{width} x {height}, enlarged"], np.asarray(nearest))]


def _caption(shown: Shown, model: str) -> list[str]:
    values = shown.values.get(model, {})
    figures = [f"{values[name]:.2f} dB" for name in ("psnr_y",) if name in values]
    figures += [f"SSIM {values[name]:.4f}" for name in ("ssim_y",) if name in values]
    figures += [
        f"LPIPS {value:.3f}" for name, value in values.items() if re.fullmatch("lpips_[a-z]+", name)
    ]
    return [model, "  ".join(figures)]


def _where(shown: Shown, baseline: str) -> Box:
    others = {name: image for name, image in shown.sr.items() if name != baseline}
    compared = others if others else shown.sr
    side = max(8, COLUMN // ZOOM)
    height, width = shown.hr.shape[:2]
    step = max(1, side // 8)
    size = min(side, height), min(side, width)
    apart = disagreement(replace(shown, sr=compared))
    return largest(apart, height=size[0], width=size[1], step=step)


def _write(canvas: Image.Image, lines: list[str], x: int, y: int, width: int) -> None:
    pen = ImageDraw.Draw(canvas)
    for row, (line, size) in enumerate(zip(lines, (16, 14), strict=False)):
        font = ImageFont.load_default(size=size)
        fill = "black" if row == 0 else (90, 90, 90)
        pen.text((x + 4, y + 2 + 21 * row), _fitted(line, pen, font, width), fill=fill, font=font)


def _fitted(
    line: str, pen: ImageDraw.ImageDraw, font: FreeTypeFont | BitmapFont, width: int
) -> str:
    """Its end, if all of it is too wide: names of checkpoints differ there."""
    line = "".join(c if c.isprintable() else "�" for c in line)  # names of files are any bytes
    if pen.textlength(line, font=font) <= width - 8:
        return line
    while line and pen.textlength(f"…{line}", font=font) > width - 8:
        line = line[1:]
    return f"…{line}"
