"""What a finished run prints: figures beside bicubic, what each loss term counted, and where."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from srtrain.training.validation import Figures

COLUMNS = {
    "psnr_y": ("PSNR-Y", "{:.2f}"),
    "ssim_y": ("SSIM-Y", "{:.4f}"),
    "psnr_rgb": ("PSNR-RGB", "{:.2f}"),
    "lpips_squeeze": ("LPIPS-sq", "{:.4f}"),
    "lpips_alex": ("LPIPS-alex", "{:.4f}"),
    "lpips_vgg": ("LPIPS-vgg", "{:.4f}"),
    "lr_psnr": ("LR-PSNR", "{:.1f}"),
    "lr_psnr_bicubic": ("LR-PSNR-bic", "{:.1f}"),
    "rtm": ("rtm", "{:.2f}"),
    "hf_ratio": ("hf_ratio", "{:.3f}"),
    "hf_truth": ("hf_truth", "{:.3f}"),
}


def quality_table(val: Figures, bicubic: Figures) -> Table:
    """One row for bicubic, one for the generator, per validation set."""
    measured = {name for figures in val.values() for name in figures}
    columns = {name: shown for name, shown in COLUMNS.items() if name in measured}
    table = Table(
        box=box.SIMPLE_HEAD,
        title="On the validation images",
        title_justify="left",
        pad_edge=False,  # with LPIPS it just fits a terminal of 80 columns
        collapse_padding=True,
    )
    table.add_column("set")
    table.add_column("image")
    for title, _ in columns.values():
        table.add_column(title, justify="right")
    for data, figures in val.items():
        for label, row in (("bicubic", bicubic.get(data, {})), ("SR", figures)):
            cells = [
                shown.format(row[name]) if name in row else "-"
                for name, (_, shown) in columns.items()
            ]
            table.add_row(data, label, *cells, style="bold" if label == "SR" else "dim")
    return table


def band_lines(val: Figures, calibration: Mapping[str, float]) -> list[str]:
    """What the bands of each set hold, as trained and calibrated on the other images."""
    lines = []
    for data, row in val.items():
        held = [f"{row['coverage_raw']:.1%} as trained, {row['band_width_raw']:.1f} levels wide"]
        if "coverage" in row:
            wide = f"{row['band_width']:.1f} levels wide"
            held.append(f"{row['coverage']:.1%} calibrated on the other images, {wide}")
        lines.append(f"The {calibration['level']:.0%} band of {data} holds {'; '.join(held)}")
    return lines


def loss_table(
    weights: Mapping[str, float],
    latest: Mapping[str, float],
    gradient_ratios: Mapping[str, float],
    notes: Mapping[str, str],
) -> Table:
    """Coefficient, raw value, shares of loss and gradient, ratio to the pixel terms; notes below.

    Gradients at the output are measured more rarely than the rest: the latest figures. A note is a
    sentence: in a column of its own it would be folded, or cut, in narrow terminals.
    """
    table = Table(box=box.SIMPLE_HEAD, title="What each loss term counted", title_justify="left")
    titles = "term", "coefficient", "raw value", "share of loss", "of gradient", "÷ pixel's"
    for title in titles:
        table.add_column(title, justify="left" if title == "term" else "right")
    said = []
    for name, weight in weights.items():
        ratio = gradient_ratios.get(name)
        leads = ["leads the pixel terms"] if ratio is not None and ratio > 1 else []
        if own := [*leads, *([notes[name]] if name in notes else [])]:
            said.append(f"{name}: {' · '.join(own)}")
        table.add_row(
            name,
            f"{weight:g}",
            f"{latest.get(f'train/{name}', float('nan')):.6f}",
            f"{latest.get(f'train/share/{name}', float('nan')):.1%}",
            f"{latest.get(f'train/gradient_share/{name}', float('nan')):.1%}",
            f"{ratio:.2f}" if ratio is not None else "1" if name.startswith("pixel") else "-",
        )
    table.caption, table.caption_justify = escape("\n".join(said)) or None, "left"
    return table


def places(console: Console, rows: Sequence[tuple[str, object]]) -> None:
    """Labelled lines; long paths are never folded, so that they can be copied."""
    for label, place in rows:
        console.print(f"[dim]{label:<11}[/dim] {escape(str(place))}", soft_wrap=True)
