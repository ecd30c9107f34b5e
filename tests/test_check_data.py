from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from srtrain.cli.check_data import main
from srtrain.cli.main import main as program
from srtrain.data.check import check_training_data
from srtrain.data.report import LISTED, Report
from srtrain.data.sources import Concat, Folder, Synthetic
from srtrain.degradation.resize import bicubic_uint8
from srtrain.errors import ConfigError, DataError
from tests.data import folder_of, noise, save

if TYPE_CHECKING:
    from pathlib import Path


def _pairs(tmp_path: Path, count: int = 4) -> tuple[Path, Path]:
    hr, lr = tmp_path / "hr", tmp_path / "lr"
    for index in range(count):
        pixels = noise(40, 56, index)
        save(hr / f"{index}.png", pixels)
        small = bicubic_uint8(torch.from_numpy(pixels).permute(2, 0, 1), 4)
        save(lr / f"{index}x4.png", small.permute(1, 2, 0).numpy())
    return hr, lr


def test_good_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hr, lr = _pairs(tmp_path)
    assert main([str(hr), "--lr", str(lr), "--scale", "4", "--bicubic", "--patch", "40"]) == 0
    assert capsys.readouterr().out == "4 images: no problem found\n"


def test_everything_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hr, lr = _pairs(tmp_path, 9)
    (hr / "0.png").write_bytes((hr / "0.png").read_bytes()[:900])  # truncated, header intact
    (hr / "1.png").write_bytes(b"")
    save(lr / "2x4.png", noise(10, 13, 0))  # off by one
    (lr / "3x4.png").unlink()
    save(lr / "stray.png", noise(10, 14, 0))
    save(hr / "4.bmp", noise(40, 56, 4))
    save(hr / "5.png", noise(20, 56, 5))
    save(lr / "5x4.png", noise(5, 14, 5))
    levels = np.asarray(noise(10, 14, 6))
    save(lr / "6x4.png", levels)
    save(tmp_path / "val" / "copy.png", noise(40, 56, 7))
    flags = ["--lr", str(lr), "--patch", "32", "--bicubic", "--val", str(tmp_path / "val")]
    assert main([str(hr), *flags]) == 3
    out = " ".join(capsys.readouterr().out.split())
    for kind, count in {
        "unreadable": 2,
        "LR and HR sizes do not fit": 1,
        "HR without LR": 1,
        "LR without HR": 1,
        "several files for one name": 1,
        "too small": 1,
        "in training and validation": 1,
    }.items():
        assert f"{kind} ({count})" in out
    assert "LR is 13x10, but HR 56x40 / 4 makes 14x10" in out
    assert "56x20, at least 32x32 is needed" in out
    assert "LR is not MATLAB's bicubic of HR (2)" in out  # 5 and 6; 2 is listed with its sizes


def test_exit_code_of_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program(["check-data", str(tmp_path / "nowhere")]) == 3
    assert "no such folder" in capsys.readouterr().out


def test_bicubic_needs_pairs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give --lr LR_DIR · srtrain check-data"):
        main([str(tmp_path), "--bicubic"])


@pytest.mark.parametrize(("flags", "shown"), [([], LISTED), (["--all"], 14)])
def test_long_lists_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], shown: int
) -> None:
    folder = folder_of(tmp_path / "hr", 14, height=20, width=20)
    assert main([str(folder), "--patch", "32", *flags]) == 3
    out = capsys.readouterr().out
    assert out.count("20x20") == shown
    assert ("and 4 more" in out) == (shown < 14)
    assert "too small (14)" in out


def test_same_stem_with_two_suffixes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(tmp_path / "hr", 2)
    save(folder / "001.bmp", noise(8, 8, 0))
    save(folder / "sub" / "001.png", noise(8, 8, 1))  # another folder: another picture
    assert main([str(folder)]) == 3
    assert "several files for one name (1)" in capsys.readouterr().out


def test_headers_only_is_fast_and_blind_to_truncation(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "hr", 1)
    (folder / "000.png").write_bytes((folder / "000.png").read_bytes()[:900])
    assert main([str(folder), "--headers-only"]) == 0
    assert main([str(folder)]) == 3


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_set5_is_matlabs_bicubic(shared: Path, scale: int) -> None:
    lr = shared / f"data/Set5/LR_bicubic/X{scale}"
    flags = ["--lr", str(lr), "--scale", str(scale), "--bicubic"]
    assert main([str(shared / "data/Set5/HR"), *flags]) == 0


def test_report_names_all_kinds_in_one_line() -> None:
    report = Report()
    report.raise_if_any()
    for index in range(12):
        report.add("too small", f"{index}.png", "8x8")
    report.add("HR without LR", "lonely.png")
    with pytest.raises(DataError) as caught:
        report.raise_if_any()
    text = str(caught.value)
    assert "13 problems" in text
    assert "9.png (8x8) and 2 more" in text
    assert "1 HR without LR: lonely.png" in text
    assert "\n" not in text


def test_missing_folders_of_a_run_are_all_named(tmp_path: Path) -> None:
    train = Concat(Folder([tmp_path / "a", tmp_path / "b"]), Folder(tmp_path / "c"))
    val = {"v": Folder(tmp_path / "d"), "leaves": Synthetic(count=1, size=64)}
    report = check_training_data(train, val, scale=4, hr_patch_size=16, progress=False)
    assert [where for where, _ in report.problems["no such folder"]] == [
        str(tmp_path / name) for name in "abcd"
    ]


def test_same_size_is_not_yet_the_same_file(tmp_path: Path) -> None:
    save(tmp_path / "train" / "a.bmp", noise(40, 40, 1))
    save(tmp_path / "val" / "b.bmp", noise(40, 40, 2))

    def problems() -> int:
        sources = Folder(tmp_path / "train"), {"val": Folder(tmp_path / "val")}
        return check_training_data(*sources, scale=2, hr_patch_size=16, progress=False).total

    assert problems() == 0
    shutil.copy(tmp_path / "train" / "a.bmp", tmp_path / "val" / "c.bmp")
    assert problems() == 1
