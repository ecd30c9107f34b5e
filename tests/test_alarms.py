"""Each alarm by figures made up for it; silence otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from srtrain.training.alarms import Window, symptoms

if TYPE_CHECKING:
    pass

HEALTHY = {
    "d_accuracy_real": 0.80,
    "d_accuracy_fake": 0.75,
    "lr_psnr": 41.0,
    "colour_drift_r": 0.002,
    "colour_drift_g": -0.001,
    "colour_drift_b": 0.0,
}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, []),
        ({"d_accuracy_real": 0.95, "d_accuracy_fake": 1.0}, []),
        ({"d_accuracy_real": 0.97, "d_accuracy_fake": 1.0}, ["discriminator won"]),
        ({"d_accuracy_real": 0.06, "d_accuracy_fake": 1.0}, []),  # .53 on average
        ({"d_accuracy_real": 0.0, "d_accuracy_fake": 1.0}, ["discriminator lost"]),
        ({"lr_psnr": 31.0}, []),  # ten dB lost, and still the same image
        ({"lr_psnr": 29.0}, ["collapse"]),
        ({"colour_drift_b": -2.9 / 255}, []),
        ({"colour_drift_b": -3.1 / 255}, ["colour drift"]),
        (
            {"d_accuracy_real": 1.0, "d_accuracy_fake": 1.0, "lr_psnr": 9.0, "colour_drift_r": 0.2},
            ["discriminator won", "collapse", "colour drift"],
        ),
    ],
)
def test_symptoms(changed: dict[str, float], expected: list[str]) -> None:
    found = symptoms({**HEALTHY, **changed}, best_lr_psnr=41.0, settled=True)
    assert [alarm.name for alarm in found] == expected


def test_a_young_discriminator_may_know_nothing() -> None:
    coin = {**HEALTHY, "d_accuracy_real": 0.5, "d_accuracy_fake": 0.5}
    assert not list(symptoms(coin, best_lr_psnr=41.0, settled=False))


def test_blind_degradation_is_no_collapse() -> None:
    """Where the best LR-PSNR is 25 dB, 20 dB is no news and 18 dB is."""
    for consistent, expected in ((20.0, []), (18.0, ["collapse"])):
        found = symptoms({**HEALTHY, "lr_psnr": consistent}, best_lr_psnr=25.0, settled=True)
        assert [alarm.name for alarm in found] == expected


@pytest.mark.parametrize(
    ("changed", "figures", "knob"),
    [
        (
            {"d_accuracy_real": 0.995, "d_accuracy_fake": 1.0},
            "99.5% of the real and 100.0% of the made",
            "model.adaptive=true",
        ),
        (
            {"d_accuracy_real": 0.49, "d_accuracy_fake": 0.51},
            "49.0% of the real and 51.0% of the made",
            "raise discriminator_optimizer.lr",
        ),
        ({"lr_psnr": 12.34}, "from 41.0 to 12.3 dB", "lower loss.weights.adversarial"),
        ({"colour_drift_r": 0.04}, "r +10.2, g -0.3, b +0.0 gray levels", "raise the pixel terms'"),
        ({"colour_drift_r": -0.04}, "r -10.2, g -0.3, b +0.0 gray levels", "discriminator.norm"),
    ],
)
def test_alarms_name_figures_and_knob(changed: dict[str, float], figures: str, knob: str) -> None:
    (alarm,) = symptoms({**HEALTHY, **changed}, best_lr_psnr=41.0, settled=True)
    assert figures in alarm.says
    assert knob in alarm.says
    assert "\n" not in alarm.says


def test_window() -> None:
    window = Window(10)
    window.add(6, {"a": 1.0})
    assert window.means() is None
    window.add(4, {"a": 6.0})
    assert window.means() == {"a": 3.0}  # (6 · 1 + 4 · 6) / 10
    window.add(6, {"a": 0.0})
    assert window.means() == {"a": 2.4}  # 4 · 6 / 10: the first line has left
    window.clear()
    assert window.means() is None
    with pytest.raises(ValueError, match="steps = 0"):
        Window(0)
