"""Functions of spandrel's networks that a trace would freeze, written so that it does not.

A trace records tensors' operations; of Python's ``int()`` and ``if`` it keeps what came out once.
So the batch of the window networks would be that of the example for ever.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# LR pixels a side up to which a trace holds, where something else begins: RGT's recursion deepens.
LARGEST_SIDE = {"spandrel.architectures.RGT.RGT": 1023}


@contextmanager
def traceable() -> Iterator[None]:
    """Within, networks of spandrel that are loaded already compute the same in other words."""
    replaced: list[tuple[Any, str, Callable[..., Tensor]]] = []
    for name, module in list(sys.modules.items()):
        if not name.startswith("spandrel."):
            continue
        for function, ours in _OURS.items():
            if function in vars(module):
                replaced.append((module, function, getattr(module, function)))
                setattr(module, function, ours)
    try:
        yield
    finally:
        for module, function, original in replaced:
            setattr(module, function, original)


def _joined(windows: Tensor, window: tuple[int, int], height: int, width: int) -> Tensor:
    """Shapes: windows (B * number, h, w, C) or (B * number, h * w, C) -> (B, height, width, C)."""
    h, w = window
    channels = windows.shape[-1]
    split = windows.reshape(-1, height // h, width // w, h, w, channels)
    return split.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, channels)


def _window_reverse(windows: Tensor, window_size: Any, *size: Any) -> Tensor:  # noqa: ANN401
    """SwinIR's, Swin2SR's, HAT's, DRCT's, ATD's, DCTLSA's; GRL's gives both sizes as pairs."""
    square = isinstance(window_size, int)
    height, width = size if len(size) == 2 else size[0]
    return _joined(windows, (window_size,) * 2 if square else tuple(window_size), height, width)


def _windows2img(windows: Tensor, height: int, width: int, *size: int) -> Tensor:
    """DAT's, RGT's, CRAFT's."""
    return _joined(windows, (height, width), *size)


_OURS: dict[str, Callable[..., Tensor]] = {
    "window_reverse": _window_reverse,
    "windows2img": _windows2img,
}
