"""Wherever the decoded images lie, the samples are the same; what does not fit is refused."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from srtrain.data import resident
from srtrain.data.collection import Source
from srtrain.data.resident import Residence
from srtrain.data.sources import Concat, Folder, Synthetic
from srtrain.errors import DataError
from tests.test_data_datamodule import _at, _data
from tests.test_data_golden import _pairs, _unpaired
from tests.training import draw_sets, train


def _spoilt(root: Path) -> Source:
    """A folder of which nothing can be read, between two that are fine."""
    (root / "bad").mkdir(parents=True)
    (root / "bad" / "a.png").write_bytes(b"no image")
    ends = Synthetic(count=3, size=24, seed=1), Synthetic(count=2, size=40, seed=2)
    return Concat(ends[0], Folder(root / "bad"), ends[1])


SOURCES = {"unpaired": _unpaired, "pairs": _pairs, "spoilt": _spoilt}


def _batches(root: Path, source: Source, residence: str, **changes: Any) -> list[Any]:  # noqa: ANN401
    options = {"hr_patch_size": 24, "batch_size": 48, "on_bad": "skip", **changes}
    data = _data(root / "cache", train=source, residence=residence, **options)
    return list(islice(_at(data, step=2).train_dataloader(), 8))


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize(
    ("residence", "workers"), [("disk", 2), ("ram", 0), ("ram", 2), ("device", 0)]
)
def test_same_samples_bit_for_bit(
    tmp_path: Path, kind: str, residence: Residence, workers: int
) -> None:
    source = SOURCES[kind](tmp_path)
    expected = _batches(tmp_path, source, "disk")
    found = _batches(tmp_path, source, residence, num_workers=workers)
    for own, theirs in zip(found, expected, strict=True):
        assert set(own) == set(theirs) == {"hr", "name", "sample", *["lr"] * (kind == "pairs")}
        assert own["name"] == theirs["name"]
        for name in set(own) - {"name"}:
            assert torch.equal(own[name], theirs[name])
            assert own[name].stride() == theirs[name].stride()


@pytest.mark.parametrize("residence", ["disk", "ram", "device"])
@pytest.mark.parametrize("fits", [True, False])
def test_what_does_not_fit_is_refused_before_the_first_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, residence: str, fits: bool
) -> None:
    data = _data(tmp_path, residence=residence)  # 7 images of 48 x 48 x 3: 48 384 bytes
    data.prepare_data()
    free = 48_384 + resident.SPARE_BYTES - (not fits)
    monkeypatch.setattr(resident, "free_memory", lambda: free)
    if fits or residence == "disk":
        _at(data).setup("validate")
        return
    with pytest.raises(DataError, match=r"need 0.0 GB .*1.1 GB are free") as caught:
        _at(data).setup("validate")
    assert caught.value.exit_code == 3
    assert "data.residence=" in caught.value.fix


def test_what_lies_on_the_device_is_not_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole run, before, between and after whose validations there is room for 1.6 sets."""
    images, uploaded = draw_sets(tmp_path / "images"), []

    class Counted(resident.DevicePixels):
        def __init__(self, *given: Any) -> None:  # noqa: ANN401
            super().__init__(*given)
            uploaded.append(len(self.flat))

    size = 3 * 40 * 40 * 3
    monkeypatch.setattr(resident, "SPARE_BYTES", 0)
    monkeypatch.setattr(resident, "DevicePixels", Counted)
    monkeypatch.setattr(resident, "free_memory", lambda: int(1.6 * size) - sum(uploaded))
    train(images, tmp_path / "run", "data.residence=device", "trainer.val_every_n_steps=3")
    assert uploaded == [size]


def test_processes_cannot_cut_on_the_device(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_workers=1"):
        _data(tmp_path, residence="device", num_workers=1)
