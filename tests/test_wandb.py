"""W&B: what an offline run holds, read back; and when a run is offline."""

from __future__ import annotations

import json
from threading import Event
from typing import TYPE_CHECKING

import pytest
from PIL import Image, ImageFile

from srtrain.training import wandb_server
from srtrain.training.pictures import Pictures
from srtrain.training.run_folder import RunFolder
from srtrain.training.wandb_pictures import undecoded
from tests.conftest import ROOT
from tests.training import draw_images, train, words
from tests.wandb_file import Logged, read_wandb
from tests.wandb_server import FAKE_KEY, environment, files_of, logger_in, python

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    draw_images(folder / "train", count=2, size=40, first=10)
    draw_images(folder / "val", count=2, size=72)  # LPIPS wants 64 and more
    return folder


@pytest.fixture
def lpips(shared: Path) -> list[str]:
    weights = shared / "weights" / "squeezenet1_1_features.safetensors"
    if not weights.exists():
        pytest.skip("shared material not found")
    return ["metrics.lpips.net=squeeze", f"metrics.lpips.features={weights}"]


def test_run_read_back(images: Path, lpips: list[str], tmp_path: Path) -> None:
    folder = train(images, tmp_path / "run", "logger=wandb", "seed=3", *lpips)
    (file,) = files_of(folder.path)
    logged = read_wandb(file)
    assert logged.finished
    assert logged.run_id == (folder.path / "wandb" / "run-id").read_text()

    assert logged.config["seed"] == 3
    assert logged.config["generator"]["num_features"] == 8
    assert "${" not in json.dumps(logged.config), "resolved, not as composed"

    assert logged.step_metrics == {"generator_step": "", "*": "generator_step"}
    assert list(logged.series("train/loss")) == [1, 2, 3, 4, 5, 6]
    assert list(logged.series("val/tiny/psnr_y")) == [0, 6]
    assert list(logged.series("bicubic/tiny/psnr_y")) == [0]
    assert 0 < logged.series("val/tiny/lpips_squeeze")[6] < 1
    assert 0 < logged.series("bicubic/tiny/lpips_squeeze")[0] < 1
    for step, name, value in folder.read_metrics():
        assert logged.series(name)[step] == pytest.approx(value), name

    pictures = logged.series("samples/tiny_image0.filenames")
    assert list(pictures) == [6]
    assert (file.parent / "files" / pictures[6][0]).read_bytes().startswith(b"\x89PNG")


def test_each_row_shows_the_pictures_of_its_step(tmp_path: Path) -> None:
    """However far W&B is behind a file that every round replaces."""
    left_by_a_killed_process = tmp_path / "wandb" / "waiting" / "a.png"
    left_by_a_killed_process.parent.mkdir(parents=True)
    left_by_a_killed_process.touch()
    folder = RunFolder(tmp_path)
    folder.create()
    logger = logger_in(tmp_path)
    assert logger is not None
    drawn, behind = {1: (10, 0, 0), 2: (20, 0, 0), 3: (30, 0, 0)}, Event()
    logger._later(lambda: bool(behind.wait(60)))
    pictures = Pictures(folder, max_images=1, zoom=2)
    for step, colour in drawn.items():
        pictures._keep(iter([("a", Image.new("RGB", (8, 8), colour))]), [logger], step)
    behind.set()
    logger.close()
    (file,) = files_of(tmp_path)
    shown = read_wandb(file).series("samples/a.filenames")
    for step, names in shown.items():
        with Image.open(file.parent / "files" / names[0]) as image:
            assert image.getpixel((0, 0)) == drawn[step]
    assert list(shown) == [1, 2, 3]
    assert not (tmp_path / "wandb" / "waiting").exists()


def test_pictures_are_not_decoded_and_described_as_wandb_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    file = str(tmp_path / "a.png")
    Image.new("RGB", (12, 7)).save(file)
    plain = vars(wandb.Image(file))

    def refuse(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
    assert vars(undecoded(file)) == plain


def test_resumed_run_is_the_same_run(images: Path, tmp_path: Path) -> None:
    folder = train(images, tmp_path / "run", "logger=wandb")
    train(images, folder.path, "logger=wandb", "trainer.max_steps=8")  # and in one process
    first, second = sorted((read_wandb(file) for file in files_of(folder.path)), key=_first_step)
    assert first.run_id == second.run_id
    assert first.finished
    assert second.finished
    assert list(first.series("train/loss")) == [1, 2, 3, 4, 5, 6]
    assert list(second.series("train/loss")) == [7, 8]


def _first_step(logged: Logged) -> int:
    return min(logged.series("train/loss"))


def test_runs_of_one_process_are_kept_apart(tmp_path: Path) -> None:
    """As in a sweep; the first was interrupted, so nobody closed it."""
    first, second = logger_in(tmp_path / "first"), logger_in(tmp_path / "second")
    assert first is not None
    assert second is not None
    second.log_metrics({"a": 2.0}, step=2)
    second.close()
    logged = [read_wandb(files_of(tmp_path / name)[0]) for name in ("first", "second")]
    assert logged[0].run_id != logged[1].run_id
    assert [run.rows == [] for run in logged] == [True, False]
    assert all(run.finished for run in logged)


@pytest.mark.slow
def test_command_without_key_is_offline_and_silent(images: Path, tmp_path: Path) -> None:
    command = ["-m", "srtrain", *words(images, tmp_path / "run", "logger=wandb")]
    done = python(command, ROOT, environment(tmp_path))
    assert done.rc == 0, done.stderr
    assert "wandb" not in done.stdout.lower() + done.stderr.lower()
    (file,) = tmp_path.glob("run/wandb/offline-run-*/run-*.wandb")
    assert read_wandb(file).finished


@pytest.mark.parametrize(
    ("variables", "netrc", "expected"),
    [
        ({}, "", "offline"),
        ({"WANDB_API_KEY": FAKE_KEY}, "", "online"),
        ({}, f"machine api.wandb.ai login user password {FAKE_KEY}", "online"),
        (
            {"WANDB_BASE_URL": "https://wandb.example"},
            "machine api.wandb.ai login u password k",
            "offline",
        ),
        ({"WANDB_API_KEY": FAKE_KEY, "WANDB_MODE": "offline"}, "", "offline"),
        ({"WANDB_API_KEY": FAKE_KEY, "WANDB_MODE": "dryrun"}, "", "offline"),
        ({"WANDB_MODE": "online"}, "", "online"),
        ({"WANDB_MODE": "disabled"}, "", "disabled"),
        ({}, "machine without end", "offline"),
    ],
)
def test_mode_auto(
    variables: dict[str, str],
    netrc: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "netrc").write_text(netrc)
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert wandb_server.mode_from_environment() == expected


def test_online_without_a_key_never_asks_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    logger = logger_in(tmp_path, "online")
    assert logger is not None
    assert logger.experiment.offline
    logger.close()
    assert "no API key for https://api.wandb.ai (wandb login)" in caplog.text
