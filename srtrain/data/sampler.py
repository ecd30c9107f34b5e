"""Which samples of the run a rank reads next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.utils.data import Sampler

from srtrain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator


class EndlessBatches(Sampler[list[int]]):
    """Batch i of rank r = the samples k of ``[start + i·B, start + (i + 1)·B)`` with k mod W = r.

    Samples are numbered over the whole run and mean the same to everybody, so the state of the
    loader is one integer: to resume, start at ``steps done · batch_size``. There is no ``__len__``:
    a run ends by its number of steps, and Lightning reads a missing length as endless.

    Raises: ConfigError if the global batch cannot be shared evenly by ranks × micro-batches.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
        start_sample: int = 0,
    ) -> None:
        shares = world_size * accumulate
        if batch_size < 1 or batch_size % shares:
            nearest = max(shares, round(batch_size / shares) * shares)
            raise ConfigError(
                f"batch_size {batch_size} cannot be split over {world_size} rank(s) "
                f"x {accumulate} micro-batch(es)",
                where="data.batch_size, trainer.devices, trainer.accumulate",
                fix=f"data.batch_size={nearest} (the global batch) is a multiple of {shares}",
            )
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.start_sample = start_sample

    def __iter__(self) -> Iterator[list[int]]:
        """Never ends."""
        first = self.start_sample
        while True:
            own = first + (self.rank - first) % self.world_size
            yield list(range(own, first + self.batch_size, self.world_size))
            first += self.batch_size
