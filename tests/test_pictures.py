"""The panels LR | bicubic | SR | HR."""

from __future__ import annotations

import math
import os
import shutil
import signal
from functools import partial
from threading import Event, Timer
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from srtrain.errors import StorageError
from srtrain.training import pictures as pictures_module
from srtrain.training.guards import RollBack
from srtrain.training.pictures import CAPTION, COLUMN, GAP, Columns, Drawn, Pictures, draw
from srtrain.training.run_folder import RunFolder
from srtrain.training.validation import Panel
from tests.forks import forked
from tests.training import draw_sets, train, words
from tests.wandb_server import said

if TYPE_CHECKING:
    from collections.abc import Iterator
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


def test_what_no_round_changes_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    added: list[str] = []
    add = Columns.add

    def counted(self: Columns, number: int, caption: str, image: torch.Tensor) -> None:
        added.append(caption.split()[0])
        add(self, number, caption, image)

    monkeypatch.setattr(Columns, "add", counted)
    panel, kept = _panel(32, 48), Drawn(2**22)
    later = panel._replace(sr=_flat(32, 48, (0.5, 0, 1)))
    other_lr = later._replace(lr=_flat(8, 12, (0, 0, 0)))
    for number, (shown, drawn) in enumerate(
        [(panel, 4), (later, 1), (panel, 1), (other_lr, 4), (later._replace(name="b"), 4)]
    ):
        added.clear()
        picture = draw(shown, zoom=4, kept=kept)
        assert len(added) == drawn, number
        assert "SR" in added
        assert picture.tobytes() == draw(shown, zoom=4).tobytes()


def test_panels_are_kept_while_there_is_room() -> None:
    panel = _panel(32, 48)
    size = 3 * math.prod(draw(panel, zoom=4).size)
    kept = Drawn(size + size // 2)
    for name in ("a", "b"):
        draw(panel._replace(name=name), zoom=4, kept=kept)
    assert kept.get(panel) is not None
    assert kept.get(panel._replace(name="b")) is None
    assert kept.room == size // 2


class _Logger:
    def __init__(self) -> None:
        self.logged: list[tuple[str, int]] = []

    def log_image(self, key: str, images: list[Any], step: int) -> None:
        for file in images:  # is whole when the logger hears of it
            with Image.open(file) as image:
                image.load()
        self.logged.append((key, step))


def _end_validation(
    pictures: Pictures, step: int, *panels: Panel, rank: int = 0
) -> list[tuple[str, int]]:
    logger = _Logger()
    loggers = [object(), logger]
    trainer: Any = _trainer(step, loggers=loggers, is_global_zero=rank == 0)
    pictures.on_validation_end(trainer, _module(*panels))
    pictures.on_train_end(trainer, _module())
    return logger.logged


def _trainer(step: int, **options: Any) -> Any:  # noqa: ANN401
    own = {"loggers": [], "is_global_zero": True, "state": SimpleNamespace(fn="fit")}
    return SimpleNamespace(global_step=step, **{"max_steps": 100, **own, **options})


def _module(*panels: Panel) -> Any:  # noqa: ANN401
    return SimpleNamespace(validation=SimpleNamespace(panels=list(panels)))


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
    monkeypatch.setattr("srtrain.training.pictures.world_size", lambda: 2)
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


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Event]:
    """No picture is drawn before this is set."""
    event = Event()
    whole = draw

    def wait(panel: Panel, **options: Any) -> Image.Image:  # noqa: ANN401
        assert event.wait(60)
        return whole(panel, **options)

    monkeypatch.setattr("srtrain.training.pictures.draw", wait)
    yield event
    event.set()


def test_training_goes_on_while_pictures_are_drawn(tmp_path: Path, held: Event) -> None:
    folder = RunFolder(tmp_path)
    folder.create()
    pictures = Pictures(folder, max_images=1, zoom=4)
    module = _module(_panel(16, 16))
    pictures.on_validation_end(_trainer(5), module)
    for step in range(6, 9):
        pictures.on_train_batch_end(_trainer(step), module, None, None, 0)
    assert not list(folder.samples.iterdir())
    held.set()
    pictures.on_train_end(_trainer(9), module)
    assert [path.name for path in folder.samples.iterdir()] == ["set_a.png"]


@pytest.mark.parametrize("leave", ["on_exception", "validate", "the last step"])
def test_whoever_leaves_waits_for_the_pictures(tmp_path: Path, held: Event, leave: str) -> None:
    folder = RunFolder(tmp_path)
    folder.create()
    pictures = Pictures(folder, max_images=1, zoom=4)
    module = _module(_panel(16, 16))
    Timer(0.1, held.set).start()
    if leave == "validate":
        pictures.on_validation_end(_trainer(5, state=SimpleNamespace(fn="validate")), module)
    elif leave == "the last step":
        pictures.on_validation_end(_trainer(5, max_steps=5), module)
    else:
        pictures.on_validation_end(_trainer(5), module)
        pictures.on_exception(_trainer(5), module, KeyboardInterrupt())
    assert [path.name for path in folder.samples.iterdir()] == ["set_a.png"]


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_train_end", "on_validation_end"])
def test_what_cannot_be_written_is_told_once(tmp_path: Path, hook: str) -> None:
    folder = RunFolder(tmp_path / "gone")
    folder.create()
    shutil.rmtree(folder.path)
    pictures = Pictures(folder, max_images=1, zoom=4)
    module, trainer = _module(_panel(16, 16)), _trainer(5)
    pictures.on_validation_end(trainer, module)
    if hook == "on_train_batch_end":  # which does not wait
        assert pictures.writer._thread is not None
        pictures.writer._thread.join()
    rest = (None, None, 0) if hook == "on_train_batch_end" else ()
    with pytest.raises(StorageError, match="removed or renamed"):
        getattr(pictures, hook)(trainer, module, *rest)
    pictures.on_train_end(trainer, module)
    assert not folder.path.exists()


@pytest.mark.parametrize(
    "error",
    [StorageError("full", where="a.png", fix="free some"), RuntimeError("no font"), OSError("eio")],
    ids=lambda error: type(error).__name__,
)
def test_what_broke_is_told_and_not_the_pictures(
    error: Exception, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pictures = Pictures(RunFolder(tmp_path), max_images=1, zoom=4)

    def fail() -> None:
        raise error

    pictures.writer.start(fail)
    pictures.on_exception(_trainer(5), _module(), RollBack("diverged", term="loss", step=5))
    assert said(caplog) == [f"The last pictures are missing: {error}"]
    pictures.on_train_end(_trainer(5), _module())  # told once


def _die_at(step: int) -> None:
    """The process is killed when the second picture of the validation at ``step`` is written."""
    keep, save = Pictures._keep, pictures_module.save_png

    def kept(self: Pictures, drawn: Any, loggers: Any, at: int) -> None:  # noqa: ANN401
        seen: list[str] = []

        def saved(image: Image.Image, folder: RunFolder, key: str) -> Path:
            seen.append(key)
            if (len(seen), at) == (2, step):
                os.kill(os.getpid(), signal.SIGKILL)
            return save(image, folder, key)

        pictures_module.save_png = saved
        keep(self, drawn, loggers, at)

    Pictures._keep = kept  # type: ignore[method-assign]


def test_a_run_killed_over_its_pictures_ends_with_all_of_them(tmp_path: Path) -> None:
    images = draw_sets(tmp_path / "images")
    often = ("callbacks.pictures.max_images=2", "trainer.val_every_n_steps=3")
    asked = words(images, tmp_path / "run", *often)
    log = tmp_path / "log"
    for step in (3, 6):
        code = forked(asked, log, prepare=partial(_die_at, step))
        assert code == -signal.SIGKILL, log.read_text()
    assert forked(asked, log) == 0, log.read_text()
    files = sorted(path.name for path in RunFolder(tmp_path / "run").samples.iterdir())
    assert files == ["tiny_image0.png", "tiny_image1.png"]


def test_a_full_disk_ends_the_run_with_4(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise StorageError("cannot write: No space left on device", where="a.png", fix="free some")

    monkeypatch.setattr("srtrain.training.pictures.save_png", full)
    images = draw_sets(tmp_path / "images")
    train(images, tmp_path / "run", "trainer.val_every_n_steps=2", code=4)
    assert "No space left on device · a.png" in capsys.readouterr().err
