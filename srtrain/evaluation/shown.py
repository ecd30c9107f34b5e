"""An image as each model made it, for people to look at; and where to look."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from srtrain.evaluation.results import Values
    from srtrain.images.picture import Pixels


@dataclass(frozen=True)
class Shown:
    """One image of a data set, and ``why`` it is shown ("worst", "models differ most" …).

    ``values``: MODEL → what was measured of the whole image. ``extra``: pictures beside the
    models' answers, by name: further samples, bounds, maps; they have no say in where models
    differ.

    Shapes: hr, every sr and extra (H, W, 3), lr (h, w, 3), uint8.
    Raises: ValueError for other shapes or types.
    """

    data: str
    name: str
    why: str
    lr: Pixels | None
    hr: Pixels
    sr: dict[str, Pixels]
    values: dict[str, Values]
    extra: dict[str, Pixels] = field(default_factory=dict)

    def __post_init__(self) -> None:
        images = {"hr": self.hr, **self.sr, **({} if self.lr is None else {"lr": self.lr})}
        images |= self.extra
        for name, image in images.items():
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                got = f"{image.dtype} {image.shape}"
                raise ValueError(f"{name} of {self.name} must be uint8 (H, W, 3), got {got}")
        for name, image in {**self.sr, **self.extra}.items():
            if image.shape != self.hr.shape:
                raise ValueError(f"{name} of {self.name}: {image.shape}, HR: {self.hr.shape}")


class Box(NamedTuple):
    """A rectangle of HR pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, image: Pixels, *, shrunk: int = 1) -> Pixels:
        """This part of an image that is ``shrunk`` times smaller than HR."""
        top, left, height, width = (side // shrunk for side in self)
        return image[top : top + height, left : left + width]


def scale_of(shown: Shown) -> int | None:
    """How often LR fits into HR; None where there is no LR, or it does not fit."""
    if shown.lr is None:
        return None
    scale = max(1, shown.hr.shape[0] // shown.lr.shape[0])
    fits = (shown.lr.shape[0] * scale, shown.lr.shape[1] * scale) == shown.hr.shape[:2]
    return scale if fits else None


def disagreement(shown: Shown) -> NDArray[np.float32]:
    """How far apart the models are at each pixel, mean of the colours; of one, how far from HR.

    Shapes: -> (H, W), gray levels.
    """
    images = list(shown.sr.values())
    if len(images) < 2:
        images = [*images, shown.hr]
    spread = np.maximum.reduce(images).astype(np.float32) - np.minimum.reduce(images)
    mean: NDArray[np.float32] = spread.mean(axis=2, dtype=np.float32)
    return mean


def largest(values: NDArray[np.float32], *, height: int, width: int, step: int = 1) -> Box:
    """The box of this size with the largest sum; its corner lies on multiples of ``step``.

    Shapes: values (H, W), at least (height, width).
    """
    sums = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
    sums[1:, 1:] = values.cumsum(0, dtype=np.float64).cumsum(1)
    inside = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width]
    inside = (inside + sums[:-height, :-width])[::step, ::step]
    row, column = divmod(int(inside.argmax()), inside.shape[1])
    return Box(row * step, column * step, height, width)


def telling(shown: Shown, side: int, *, baseline: str = "") -> Box:
    """The box of at most ``side`` × ``side`` pixels where models differ most.

    ``baseline`` has no say in it where two others are there.
    """
    others = {name: image for name, image in shown.sr.items() if name != baseline}
    compared = replace(shown, sr=others) if len(others) > 1 else shown
    height, width = shown.hr.shape[:2]
    size = min(side, height), min(side, width)
    step = max(1, side // 8)
    return largest(disagreement(compared), height=size[0], width=size[1], step=step)


def cropped(shown: Shown, side: int) -> tuple[Shown, Box]:
    """At most ``side`` × ``side`` pixels of it, where the models differ most; LR is cut alike.

    ``values`` stay those of the whole image. An LR that does not fit into HR is left out.
    """
    scale = scale_of(shown) or 1
    lr = shown.lr if scale_of(shown) else None
    height, width = shown.hr.shape[:2]
    cut_to = max(scale, side // scale * scale)
    size = min(height, cut_to), min(width, cut_to)
    if size == (height, width):
        return replace(shown, lr=lr), Box(0, 0, height, width)
    box = largest(disagreement(shown), height=size[0], width=size[1], step=scale)
    part = replace(
        shown,
        lr=None if lr is None else box.of(lr, shrunk=scale),
        hr=box.of(shown.hr),
        sr={name: box.of(image) for name, image in shown.sr.items()},
        extra={name: box.of(image) for name, image in shown.extra.items()},
    )
    return part, box
