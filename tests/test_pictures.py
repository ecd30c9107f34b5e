"""The panels LR | bicubic | SR | HR."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from srtrain.training.pictures import CAPTION, COLUMN, GAP, Pictures, draw
from srtrain.training.run_folder import RunFolder
from srtrain.training.validation import Panel

if TYPE_CHECKING:
    from pathlib import Path


def _panel(height: int, width: int, *, scale: int = 4, data: str = "set", name: str = "a") -> Panel:
    """Flat red LR, green bicubic, blue SR, white HR."""
    return Panel(
        data,
        name,
        _flat(max(1, height // scale), max(1, width // scale), (1, 0, 0)),
        _flat(height, width, (0, 1, 0)),
        _flat(height, width, (0, 0, 1)),
        _flat(height, width, (1, 1, 1)),
    )


def _flat(height: int, width: int, colour: tuple[int, int, int]) -> torch.Tensor:
    return torch.tensor(colour, dtype=torch.float32).view(3, 1, 1).expand(3, height, width)


@pytest.mark.parametrize(
    ("height", "width"), [(480, 320), (320, 480), (64, 64), (8, 8), (3, 5), (1, 700), (900, 40)]
)
@pytest.mark.parametrize("zoom", [1, 4, 100])
def test_layout(height: int, width: int, zoom: int) -> None:
    panel = draw(_panel(height, width), zoom=zoom)
    whole = max(1, round(COLUMN * height / width))
    assert panel.size == (4 * COLUMN + 3 * GAP, CAPTION + whole + GAP + COLUMN)
    pixels = np.asarray(panel)
    below = CAPTION + whole + GAP + COLUMN // 2  # in the enlarged detail
    colours = [pixels[below, column * (COLUMN + GAP) + COLUMN // 2] for column in range(4)]
    assert [tuple(map(int, colour)) for colour in colours] == [
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (255, 255, 255),
    ]


def test_detail_is_the_busiest_square_enlarged_without_smoothing() -> None:
    hr = torch.full((3, 160, 160), 0.5)
    hr[:, 80:120, 40:80] = (torch.arange(40) % 2).float()  # stripes
    panel = Panel("set", "a", hr[:, ::4, ::4], hr, hr, hr)
    pixels = np.asarray(draw(panel, zoom=8))  # 320 / 8: a square of 40 pixels, 8 times enlarged
    detail = pixels[CAPTION + COLUMN + GAP :, -COLUMN:]
    stripes = np.repeat(np.arange(40) % 2 * 255, 8)
    assert np.array_equal(detail[160, :, 0], stripes)
    assert np.array_equal(detail[..., 0], np.broadcast_to(stripes, (COLUMN, COLUMN)))


class _Logger:
    def __init__(self) -> None:
        self.logged: list[tuple[str, int]] = []

    def log_image(self, key: str, images: list[Any], step: int) -> None:
        assert all(isinstance(image, Image.Image) for image in images)
        self.logged.append((key, step))


def _end_validation(
    pictures: Pictures, step: int, *panels: Panel, rank: int = 0
) -> list[tuple[str, int]]:
    logger = _Logger()
    loggers = [object(), logger]
    trainer: Any = SimpleNamespace(global_step=step, loggers=loggers, is_global_zero=rank == 0)
    module: Any = SimpleNamespace(validation=SimpleNamespace(panels=list(panels)))
    pictures.on_validation_end(trainer, module)
    return logger.logged


def test_files_are_replaced_and_loggers_told(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.create()
    pictures = Pictures(folder, max_images=2, zoom=4)
    panels = [_panel(16, 16, name="a"), _panel(16, 16, name="b")]
    assert _end_validation(pictures, 0, *panels) == []  # step 0 shows nothing but noise
    for step in (10, 20):
        assert _end_validation(pictures, step, *panels) == [
            ("samples/set_a", step),
            ("samples/set_b", step),
        ]
    assert sorted(path.name for path in folder.samples.iterdir()) == ["set_a.png", "set_b.png"]


def test_rank_0_logs_the_images_of_all_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path)
    folder.create()
    other = ("set_b", Image.new("RGB", (8, 8)))
    monkeypatch.setattr("srtrain.training.pictures.all_ranks", lambda drawn: [other, *drawn])
    pictures = Pictures(folder, max_images=2, zoom=4)
    assert _end_validation(pictures, 10, _panel(16, 16, name="a"), rank=1) == []
    assert not list(folder.samples.iterdir())
    logged = _end_validation(pictures, 10, _panel(16, 16, name="a"))
    assert logged == [("samples/set_a", 10), ("samples/set_b", 10)]
    assert sorted(path.name for path in folder.samples.iterdir()) == ["set_a.png", "set_b.png"]


@pytest.mark.parametrize(
    ("data", "name", "file"),
    [
        ("set", "nested/stairs 1.png", "set_nested_stairs_1.png.png"),
        ("my/set", "..", "my_set_...png"),
        ("set", "写真", "set_写真.png"),
    ],
)
def test_names_become_file_names(data: str, name: str, file: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.create()
    _end_validation(Pictures(folder, max_images=1, zoom=4), 5, _panel(16, 16, data=data, name=name))
    assert [path.name for path in folder.samples.iterdir()] == [file]


def test_long_names_fit_the_file_system(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.create()
    _end_validation(Pictures(folder, max_images=1, zoom=4), 5, _panel(16, 16, name="写" * 255))
    (path,) = folder.samples.iterdir()
    assert path.name.endswith("写.png")
    with Image.open(path) as image:
        image.load()


def test_zoom_below_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="zoom = 0 must be at least 1"):
        Pictures(RunFolder(tmp_path), max_images=1, zoom=0)
