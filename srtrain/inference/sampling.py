"""What is asked of a flow: how many of the images it can make, and how they are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from srtrain.errors import ConfigError


@dataclass(frozen=True)
class Sampling:
    """Samples 0 … ``samples`` - 1 of ``seed``; what is None is as the checkpoint has it.

    Sample k of a seed is one and the same image however many are asked for. ``steps``: moments at
    which the velocity is asked (``heun``: twice in each step); ``project``: hold every sample to
    the LR image.

    Raises: ConfigError for less than one sample or step.
    """

    samples: int = 1
    seed: int = 0
    steps: int | None = None
    sampler: Literal["euler", "heun"] | None = None
    project: bool | None = None

    def __post_init__(self) -> None:
        """Raises: ConfigError as above."""
        usual = {
            "samples": (self.samples, "8 are usual"),
            "steps": (self.steps, "15 to 25 are usual"),
        }
        for name, (value, fix) in usual.items():
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be 1 or more", where=f"{name} = {value}", fix=fix)

    @property
    def how(self) -> dict[str, Any]:
        """The words of ``Flow.sample`` that were given."""
        asked = {"steps": self.steps, "sampler": self.sampler, "project": self.project}
        return {name: value for name, value in asked.items() if value is not None}
