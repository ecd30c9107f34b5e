"""What the measures of honesty say of flows that were taught a toy, for more and more steps.

``pytest -m slow -rP tests/test_samples_learnt.py | grep '^| '`` prints the table of EVALUATION.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from srtrain.metrics.samples import all_alike, expected, honesty
from tests.test_flow_toys import PHOTOS, UNITS, look, pmrf, posterior

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from srtrain.networks.flow import Flow
    from tests.toys import Gaussian

NUMBER = 8
SHOWN = ("sample_std", "coverage", "law", "law_to_mean", "orthogonality", "cost_db")


@torch.no_grad()
def measured(make: Callable[[], Flow], toy: Gaussian, steps: int) -> dict[str, float]:
    """Of one image of values that know nothing of each other, as 8-bit levels around the middle."""
    hr, lr = look(toy, side=96)

    def image(values: Tensor) -> Tensor:
        return 0.5 + 0.1 * (values - toy.centre) / toy.unit

    drawn = [make().sample(lr, number=number, steps=steps) for number in range(NUMBER)]
    found = honesty(image(torch.cat(drawn)), image(hr)[0], mean=image(toy.best(lr))[0])
    cells = " | ".join(f"{found[name]:.3f}" for name in SHOWN)
    print(f"| {make.__name__} | {steps} | {cells} |")  # noqa: T201
    return found


@pytest.mark.slow
def test_a_posterior_nears_every_law_with_its_steps() -> None:
    rows = [measured(posterior, UNITS, steps) for steps in (1, 5, 25, 100)]
    exact = {name: value for name, value in expected(NUMBER).items() if name in SHOWN}
    assert {name: rows[-1][name] for name in exact} == pytest.approx(exact, rel=0.04)
    for name in ("coverage", "law", "cost_db"):
        apart = [abs(row[name] - exact[name]) for row in rows]
        assert apart == sorted(apart, reverse=True), name
    assert rows[0]["law"] == pytest.approx(all_alike(NUMBER), rel=0.02)


@pytest.mark.slow
def test_a_mean_that_is_moved_is_no_sampler_of_the_posterior() -> None:
    """Its samples are alike, at a fifth of the price: 10 log10(.586 / .5) = .69 dB of 3.01."""
    few, many = (measured(pmrf, PHOTOS, steps) for steps in (1, 25))
    assert few["cost_db"] < 0.2 < many["cost_db"] == pytest.approx(0.69, abs=0.1)
    assert many["law"] > 1.6
    assert many["coverage"] < 0.3
    assert many["orthogonality"] == pytest.approx(1, abs=0.1)
