from __future__ import annotations

from itertools import islice

import pytest

from srtrain.data.sampler import EndlessBatches
from srtrain.errors import ConfigError


@pytest.mark.parametrize(
    ("rank", "world_size", "start", "expected"),
    [
        (0, 1, 0, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (0, 2, 0, [[0, 2], [4, 6]]),
        (1, 2, 0, [[1, 3], [5, 7]]),
        (3, 4, 8, [[11], [15]]),
        (1, 2, 5, [[5, 7], [9, 11]]),  # a start that the ranks do not divide: k mod W still rules
    ],
)
def test_rank_reads_its_residue_class(
    rank: int, world_size: int, start: int, expected: list[list[int]]
) -> None:
    batches = EndlessBatches(batch_size=4, rank=rank, world_size=world_size, start_sample=start)
    assert list(islice(batches, 2)) == expected


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_ranks_together_see_every_sample_once(world_size: int) -> None:
    ranks = [EndlessBatches(batch_size=6, rank=r, world_size=world_size) for r in range(world_size)]
    seen = [sample for rank in ranks for batch in islice(rank, 5) for sample in batch]
    assert sorted(seen) == list(range(30))


def test_has_no_length() -> None:
    with pytest.raises(TypeError):
        len(EndlessBatches(batch_size=4))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("batch_size", "world_size", "accumulate", "nearest"),
    [(6, 4, 1, 8), (8, 2, 3, 6), (0, 1, 1, 1), (1, 2, 2, 4)],
)
def test_refuses_uneven_shares(
    batch_size: int, world_size: int, accumulate: int, nearest: int
) -> None:
    with pytest.raises(ConfigError, match=f"data.batch_size={nearest} ") as caught:
        EndlessBatches(batch_size=batch_size, world_size=world_size, accumulate=accumulate)
    assert caught.value.exit_code == 2
