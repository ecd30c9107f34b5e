"""What can go wrong between two networks, or with samples: the symptom, its figures, the knob."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from srtrain.metrics.consistency import CONSISTENCY, OF_BICUBIC

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

WON = 0.98
LOST = 0.52
COLLAPSED = 30.0  # dB
FALL = 6.0  # dB
DRIFT = 3 / 255
BLURRED = 0.5  # rtm: half of what the mean lacks is lacking in a sample

COLOURS = "rgb"
ACCURACIES = "d_accuracy_real", "d_accuracy_fake"
CONSISTENCIES = CONSISTENCY, OF_BICUBIC  # a run has one of them
WATCHED = (*ACCURACIES, *(f"colour_drift_{name}" for name in COLOURS))


@dataclass(frozen=True)
class Alarm:
    """One symptom: ``name`` is short and stays, ``says`` holds the figures and the knob."""

    name: str
    says: str


class Window:
    """Means over the last ``steps`` steps or a little more; None until so many were seen."""

    def __init__(self, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"steps = {steps} must be at least 1")
        self.steps = steps
        self.lines: deque[tuple[int, dict[str, float]]] = deque()

    def add(self, steps: int, means: Mapping[str, float]) -> None:
        """One line: the means over ``steps`` steps; the oldest lines go."""
        self.lines.append((steps, dict(means)))
        while self._covered() - self.lines[0][0] >= self.steps:
            self.lines.popleft()

    def clear(self) -> None:
        """Begin again."""
        self.lines.clear()

    def means(self) -> dict[str, float] | None:
        """The mean of every figure, each line weighted by its steps."""
        covered = self._covered()
        if covered < self.steps:
            return None
        names = self.lines[0][1]
        return {name: sum(n * means[name] for n, means in self.lines) / covered for name in names}

    def _covered(self) -> int:
        return sum(steps for steps, _ in self.lines)


def symptoms(means: Mapping[str, float], *, best_lr_psnr: float, settled: bool) -> Iterator[Alarm]:
    """The alarms that ``means`` over many steps give reason for.

    ``lr_psnr`` is ``lr_psnr_bicubic`` where LR is not bicubic: no measure of consistency then, but
    a fall is a fall; ``best_lr_psnr`` is this run's. ``settled``: the discriminator has had time to
    learn something.

    ``WON``: a useful adversary is right about .55 to .95 of all logits. A calibrated one that is
    right about .98 puts typical logits beyond ±log(.98 / .02) = ±3.9, where the slope of
    ``softplus(-fake)`` lies between .98 and 1: every patch is pushed alike, and the discriminator
    no longer says which is worse. ``LOST``: over 100 steps of 16 images a coin's accuracy has a
    standard error of .01 (the logits of one image count as one): .52 is two of them.

    ``DRIFT``: 3 gray levels in one channel of a gray are ΔE*ab 1.1 to 2.6, and 2.3 is just
    noticeable (Mahy et al. 1994); a healthy run kept within 0.3. ``COLLAPSED``: at an LR-PSNR of
    30 dB the LR image is off by 8 gray levels (RMS), which is another image and not another
    texture; ESRGAN keeps 39 dB. Blind degradations may start below that, hence also ``FALL``:
    twice the error of the run's best.
    """
    real, fake = (means[name] for name in ACCURACIES)
    right = f"right about {real:.1%} of the real and {fake:.1%} of the made"
    if (real + fake) / 2 > WON:
        knob = "lower discriminator_optimizer.lr, model.adaptive=true, or raise objective.r1_gamma"
        yield Alarm("discriminator won", f"it is {right} · {knob}")
    elif settled and (real + fake) / 2 < LOST:
        # A rate 1000 times too high ends as one too low: logits jump, then stay where they are.
        knob = "raise discriminator_optimizer.lr; lower it if samples/logits.png shows jumps"
        yield Alarm("discriminator lost", f"no better than a coin, it is {right} · {knob}")
    consistent = means["lr_psnr"]
    if consistent < min(COLLAPSED, best_lr_psnr - FALL):
        knob = "lower loss.weights.adversarial, or start from a trained generator: init_from=FILE"
        fell = f"LR-PSNR fell from {best_lr_psnr:.1f} to {consistent:.1f} dB"
        yield Alarm("collapse", f"SR contradicts its LR: {fell} · {knob}")
    drifts = {name: means[f"colour_drift_{name}"] for name in COLOURS}
    if max(abs(drift) for drift in drifts.values()) > DRIFT:
        shown = ", ".join(f"{name} {255 * drift:+.1f}" for name, drift in drifts.items())
        knob = "raise the pixel terms' loss.weights, lower loss.weights.adversarial, or "
        knob += "discriminator.norm=spectral: instance norm is dull to colour"
        yield Alarm("colour drift", f"SR - HR is {shown} gray levels on average · {knob}")


def fallen_back(rtm: float, *, steps: int) -> Alarm | None:
    """The alarm of samples that lack the energy of photos; None for an ``rtm`` up to ``BLURRED``.

    ``rtm`` is 1 for the mean and 0 for a sample of what it is the mean of. Too few ``steps`` are
    the first cause: each heads for the mean of all that is left open. Too little training is the
    second, a velocity that is smaller than it should be.
    """
    if rtm <= BLURRED:
        return None
    more = f"raise generator.steps ({steps}), then trainer.max_steps"
    says = f"rtm of the samples is {rtm:.2f}; 0 is a photo's, 1 the mean's · {more}"
    return Alarm("samples fall back to the mean", says)
