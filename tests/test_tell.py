"""Which errors are a user's to mend, and how they are told."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from srtrain.cli.tell import expected
from srtrain.errors import ConfigError, DataError


def _caused(error: Exception) -> Exception:
    outer = ValueError("in a batch")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has a total of"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate"
        ),
        MemoryError("Unable to allocate 25.7 GiB for an array"),
        _caused(MemoryError("Unable to allocate 25.7 GiB for an array")),
    ],
)
def test_memory_that_ends_is_no_bug(error: Exception) -> None:
    found = expected(error)
    assert isinstance(found, ConfigError)
    assert str(found).startswith("out of memory · ")
    assert str(found).endswith(
        "smaller batches or patches; trainer.accumulate=2 halves what a batch takes"
    )
    assert "\n" not in str(found)


def test_numpys_own_is_one_of_them() -> None:
    with pytest.raises(MemoryError) as caught:
        np.empty(2**60, np.uint8)
    assert isinstance(expected(caught.value), ConfigError)


def test_ours_comes_through_and_others_are_bugs() -> None:
    ours = DataError("no such image")
    assert expected(_caused(ours)) is ours
    assert expected(RuntimeError("shape mismatch")) is None
