"""HR that is no multiple of the scale: cut at the right and bottom; said, and it moves nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from srtrain.cli.check_data import main as check_data
from srtrain.data.collection import Source
from srtrain.data.datamodule import SRData
from srtrain.data.sources import Folder, Paired
from srtrain.degradation.resize import Bicubic, bicubic_uint8
from srtrain.training.examples import Examples
from tests.data import folder_of, noise, save

HEIGHT, WIDTH = 99, 101
CENTRE = (44.3, 52.8)


def _data(cache: Path, train: Source, val: dict[str, Source], *, scale: int) -> SRData:
    return SRData(
        train=train,
        val=val,
        scale=scale,
        hr_patch_size=4 * scale,
        batch_size=1,
        num_workers=0,
        seed=0,
        cache_dir=cache,
        progress=False,
    )


def _pairs(root: Path, sizes: list[tuple[int, int]]) -> Paired:
    """Files whose LR is MATLAB's of what is left of HR at x4."""
    for index, (height, width) in enumerate(sizes):
        hr = noise(height, width, index)
        save(root / "hr" / f"{index}.png", hr)
        save(root / "lr" / f"{index}x4.png", _shrunk(hr, 4))
    return Paired(root / "hr", root / "lr", scale=4)


def _shrunk(hr: np.ndarray, scale: int) -> np.ndarray:
    height, width = (side - side % scale for side in hr.shape[:2])
    kept = torch.from_numpy(hr[:height, :width].copy()).permute(2, 0, 1)
    return bicubic_uint8(kept, scale).permute(1, 2, 0).contiguous().numpy()


def _said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in caplog.messages if "cut" in line]


def test_a_run_says_once_how_many_are_cut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(folder_of(tmp_path / "five", 3, height=50) / "even.png", noise(48, 52, 9))
    val = {"five": Folder(tmp_path / "five"), "even": Folder(folder_of(tmp_path / "even", 2))}
    pairs = _pairs(tmp_path, [(45, 60), (44, 60)])
    said = "no multiple of 4, cut at the right and bottom"
    for _ in range(2):  # decoded, and from the cache
        data = _data(tmp_path / "cache", pairs, dict(val), scale=4)
        data.prepare_data()
        data.prepare_data()
        assert data.train_digest
        assert _said(caplog) == [f"1 of 2 images in train, 3 of 4 images in val five: {said}"]
        caplog.clear()


def test_crops_of_hr_alone_are_not_cut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    odd = Folder(folder_of(tmp_path / "odd", 2, height=50))
    even = Folder(folder_of(tmp_path / "even", 2, seed=1))
    _data(tmp_path / "cache", odd, {"even": even}, scale=4).prepare_data()
    assert _said(caplog) == []


def test_check_data_says_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _pairs(tmp_path, [(45, 60), (44, 60)])
    hr, val = tmp_path / "hr", folder_of(tmp_path / "val", 3, width=51, seed=1)
    assert check_data([str(hr), "--lr", str(tmp_path / "lr"), "--val", str(val)]) == 0
    cut = "no multiple of 4, cut at the right and bottom"
    said = f"1 of 2 images in {hr}, 3 of 3 images in val {val}: {cut}"
    assert capsys.readouterr().out.splitlines() == ["2 images: no problem found", said]
    assert check_data([str(val), "--scale", "3"]) == 0
    assert "3 of 3 images" in capsys.readouterr().out  # 40 is no multiple, 51 is
    assert check_data([str(hr), "--scale", "1"]) == 0
    assert "cut" not in capsys.readouterr().out


def _blob() -> np.ndarray:
    """A dark picture with one bright spot, far from the borders."""
    rows, columns = np.arange(HEIGHT)[:, None], np.arange(WIDTH)[None]
    distance = (rows - CENTRE[0]) ** 2 + (columns - CENTRE[1]) ** 2
    level = np.round(250 * np.exp(-distance / (2 * 7.0**2))).astype(np.uint8)
    return np.repeat(level[..., None], 3, axis=2)


def _centre(image: torch.Tensor, zoom: int) -> torch.Tensor:
    """The spot's centre (row, column) in HR pixels; squares, as rounding moves its dark rim."""
    weight = image[0].double().mean(dim=0).square()
    at = [
        (weight.sum(dim=1 - axis) * torch.arange(weight.shape[axis])).sum() / weight.sum()
        for axis in (0, 1)
    ]
    return torch.stack(at) * zoom + (zoom - 1) / 2


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_what_is_cut_moves_nothing(tmp_path: Path, scale: int, paired: bool) -> None:
    """The spot of LR lies where that of HR does: within a hundredth of an HR pixel."""
    source: Source = Folder(save(tmp_path / "hr" / "a.png", _blob()).parent)
    if paired:
        save(tmp_path / "lr" / f"ax{scale}.png", _shrunk(_blob(), scale))
        source = Paired(tmp_path / "hr", tmp_path / "lr", scale=scale)
    data = _data(tmp_path / "cache", source, {"odd": source}, scale=scale)
    (batch,) = data.val_dataloader()[0]
    assert ("lr" in batch) == paired
    hr, lr = Examples(degradation=Bicubic(scale=scale)).pair(batch)
    assert hr.shape[-2:] == (HEIGHT - HEIGHT % scale, WIDTH - WIDTH % scale)
    assert [side * scale for side in lr.shape[-2:]] == list(hr.shape[-2:])
    shift = _centre(lr, scale) - _centre(hr, 1)
    assert shift.abs().max() < 0.01
