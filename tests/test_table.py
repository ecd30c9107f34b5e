"""The tables of a finished run, in terminals of any width."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from srtrain.cli.table import loss_table


@pytest.mark.parametrize("width", [80, 120])
def test_notes_are_whole_sentences(width: int) -> None:
    console = Console(width=width, file=io.StringIO())
    weights = {"pixel": 1.0, "perceptual_lpips": 0.005}
    latest = {"train/pixel": 0.1, "train/share/pixel": 0.75}
    latest["train/gradient_share/pixel"] = 0.2
    notes = {"perceptual_lpips": "features [vgg]/imagenet"}
    console.print(loss_table(weights, latest, {"perceptual_lpips": 3.63}, notes))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    lines = [line.rstrip() for line in text.splitlines()]
    assert "perceptual_lpips: leads the pixel terms · features [vgg]/imagenet" in lines
    assert any(line.split() == ["pixel", "1", "0.100000", "75.0%", "20.0%", "1"] for line in lines)


def test_without_pixel_terms_there_is_no_ratio_to_them() -> None:
    column = list(loss_table({"perceptual": 1.0, "adversarial": 1.0}, {}, {}, {}).columns)[-1]
    assert list(column.cells) == ["-", "-"]


def test_no_notes_no_lines_below() -> None:
    assert loss_table({"pixel": 1.0}, {}, {}, {}).caption is None
