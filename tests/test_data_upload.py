"""Copies to a GPU overlap with its work: who waits for what, told by a stand-in for torch.cuda."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from srtrain.data import datamodule
from srtrain.data.upload import Arriving, Upload
from tests.test_data_datamodule import _at, _data


class _Cuda:
    """Writes down what streams are asked to do; its device is torch's, which computes nothing."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []
        self.main, self.side = _Stream(self, "main"), _Stream(self, "side")
        self.entered = self.main

    def Stream(self, _: torch.device) -> _Stream:  # noqa: N802
        return self.side

    def current_stream(self, _: torch.device) -> _Stream:
        return self.entered

    @contextlib.contextmanager
    def stream(self, stream: _Stream) -> Iterator[None]:
        before, self.entered = self.entered, stream
        yield
        self.entered = before


class _Stream:
    def __init__(self, cuda: _Cuda, name: str) -> None:
        self.cuda, self.name, self.events = cuda, name, 0

    def record_event(self) -> str:
        self.events += 1
        self.cuda.told.append((self.name, "records", self.events))
        return f"{self.name} {self.events}"

    def wait_event(self, event: str) -> None:
        self.cuda.told.append((self.name, "waits for", event))


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> _Cuda:
    cuda = _Cuda()
    to = torch.Tensor.to

    def copied(self: torch.Tensor, device: torch.device, *, non_blocking: bool) -> torch.Tensor:
        if self.device != device:
            cuda.told.append((cuda.entered.name, "copies", non_blocking, self.is_pinned()))
        return to(self, device)

    monkeypatch.setattr(torch.Tensor, "to", copied)
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda self: hasattr(self, "pinned"))
    monkeypatch.setattr(
        torch.Tensor, "pin_memory", lambda self: setattr(self, "pinned", True) or self
    )
    monkeypatch.setattr(
        torch.Tensor,
        "record_stream",
        lambda self, stream: cuda.told.append((stream.name, "uses", tuple(self.shape))),
    )
    return cuda


META = torch.device("meta")


def test_a_copy_is_issued_beside_the_step_and_waited_for_by_the_device(cuda: _Cuda) -> None:
    upload = Upload(META, cuda=cuda)
    hr, lr = torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 4, 4)
    hr, sample = hr.contiguous(memory_format=torch.channels_last), torch.arange(2)
    batch: Any = {"hr": hr, "lr": lr, "sample": sample}
    arriving = upload.send(lambda: batch)
    assert cuda.told == [
        ("side", "copies", True, True),
        ("side", "copies", True, True),
        ("side", "records", 1),
    ]
    cuda.told.clear()
    received = arriving.receive()
    assert cuda.told == [
        ("main", "waits for", "side 1"),
        ("main", "uses", (2, 3, 8, 8)),
        ("main", "uses", (2, 3, 4, 4)),
    ]
    assert {name: value.device.type for name, value in received.items()} == {
        "hr": "meta",
        "lr": "meta",
        "sample": "cpu",
    }
    assert received["hr"].is_contiguous(memory_format=torch.channels_last)


def test_what_is_on_the_device_is_not_copied(cuda: _Cuda) -> None:
    batch: Any = {"hr": torch.zeros(2, 3, 8, 8, device=META), "sample": torch.arange(2)}
    Upload(META, cuda=cuda).send(lambda: batch)
    assert cuda.told == [("side", "records", 1)]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_lightning_is_given_images_on_the_device(
    tmp_path: Path, cuda: _Cuda, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    data = _at(_data(tmp_path, num_workers=num_workers))
    loader = data.train_dataloader()
    loader.upload = Upload(META, cuda=cuda)  # type: ignore[attr-defined]
    for number, arriving in enumerate(islice(loader, 3)):
        assert isinstance(arriving, Arriving)
        moved = data.transfer_batch_to_device(arriving, META, 0)
        assert moved["hr"].device == META
        assert moved["sample"].tolist() == list(range(6 * number, 6 * number + 6))


def test_without_a_gpu_nothing_is_paid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datamodule, "Upload", None)
    data = _at(_data(tmp_path))
    batch: Any = next(iter(data.train_dataloader()))
    moved = data.transfer_batch_to_device(batch, torch.device("cpu"), 0)
    assert all(moved[name] is batch[name] for name in batch)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("residence", "num_workers"), [("disk", 0), ("disk", 2), ("device", 0)])
def test_on_a_gpu_the_samples_are_the_same(
    tmp_path: Path, residence: str, num_workers: int
) -> None:
    expected = list(islice(_at(_data(tmp_path)).train_dataloader(), 20))
    data = _at(_data(tmp_path, residence=residence, num_workers=num_workers))
    device = torch.device("cuda", 0)
    data.trainer.strategy.root_device = device  # type: ignore[union-attr]
    for own, theirs in zip(data.train_dataloader(), expected, strict=False):
        moved = data.transfer_batch_to_device(own, device, 0)
        assert moved["hr"].device == device
        assert moved["hr"].is_contiguous(memory_format=torch.channels_last)
        torch.cuda._sleep(10_000_000)  # what is received late must not be overwritten meanwhile
        assert torch.equal(moved["hr"].cpu(), theirs["hr"])
