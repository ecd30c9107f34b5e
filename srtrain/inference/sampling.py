"""What is asked of a flow: how many of the images it can make, and how they are made."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal

from srtrain.errors import ConfigError

MOST = 10_000
"""Samples of an image, or steps of a sample: beyond it is a slip of the keyboard."""


@dataclass(frozen=True)
class Sampling:
    """Samples 0 … ``samples`` - 1 of ``seed``; what is None is as the checkpoint has it.

    Sample k of a seed is one and the same image however many are asked for. ``steps``: moments at
    which the velocity is asked (``heun``: twice in each step); ``project``: hold every sample to
    the LR image.

    Raises: ConfigError for samples and steps outside 1 … ``MOST``, and seeds outside 64 bits;
        TypeError for what is no integer.
    """

    samples: int = 1
    seed: int = 0
    steps: int | None = None
    sampler: Literal["euler", "heun"] | None = None
    project: bool | None = None

    def __post_init__(self) -> None:
        """Raises: ConfigError as above."""
        usual = {
            "samples": (self.samples, 1, MOST, "8 are usual"),
            "seed": (self.seed, 0, 2**64 - 1, "0 is usual"),
            "steps": (self.steps, 1, MOST, "15 to 25 are usual"),
        }
        for name, (value, least, most, fix) in usual.items():
            if value is None:
                continue
            if not isinstance(value, Integral) or isinstance(value, bool):
                raise TypeError(f"{name} must be an integer, not {value!r}")
            if not least <= value <= most:
                bound = f"{least} or more" if value < least else f"at most {most}"
                raise ConfigError(f"{name} must be {bound}", where=f"{name} = {value}", fix=fix)

    @property
    def how(self) -> dict[str, Any]:
        """The words of ``Flow.sample`` that were given."""
        asked = {"steps": self.steps, "sampler": self.sampler, "project": self.project}
        return {name: value for name, value in asked.items() if value is not None}
