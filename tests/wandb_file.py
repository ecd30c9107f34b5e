"""Reads back what was logged offline: W&B 0.31 has no public reader of its ``.wandb`` file."""

from __future__ import annotations

import json
import struct
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wandb.proto.wandb_internal_pb2 import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

BLOCK = 32 * 1024
HEADER = struct.Struct("<IHB")  # checksum, length, type
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class Logged:
    """One run: its id, configuration, rows of history, and which metric is the x axis."""

    run_id: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    step_metrics: dict[str, str] = field(default_factory=dict)
    finished: bool = False

    def series(self, name: str) -> dict[int, Any]:
        """Value by generator step."""
        return {row["generator_step"]: row[name] for row in self.rows if name in row}


def read_wandb(path: Path, *, patience: float = 20.0) -> Logged:
    """The content of one ``run-<id>.wandb`` that has ended: W&B's service writes a little later."""
    until = time.monotonic() + patience
    while not (logged := _read(path)).finished and time.monotonic() < until:
        time.sleep(0.1)
    return logged


def _read(path: Path) -> Logged:
    logged = Logged()
    for payload in _payloads(path.read_bytes()):
        record = Record()
        record.ParseFromString(payload)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            logged.run_id = record.run.run_id
            logged.config |= _items(record.run.config.update)
        elif kind == "config":
            logged.config |= _items(record.config.update)
        elif kind == "history":
            logged.rows.append(_items(record.history.item))
        elif kind == "metric":
            metric = record.metric
            logged.step_metrics[metric.name or metric.glob_name] = metric.step_metric
        elif kind == "exit":
            logged.finished = True
    return logged


def _items(items: Iterable[Any]) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def _payloads(data: bytes) -> Iterator[bytes]:
    """The records of LevelDB's log format, behind W&B's header of 7 bytes."""
    assert data[:4] in {b"", b":W&B"}
    position, pieces = HEADER.size, b""
    while position + HEADER.size <= len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER.size:  # padding
            position += left
            continue
        _, length, kind = HEADER.unpack_from(data, position)
        position += HEADER.size
        piece, position = data[position : position + length], position + length
        pieces = piece if kind in {WHOLE, FIRST} else pieces + piece
        if kind in {WHOLE, LAST}:
            yield pieces
