"""srtrain: train, measure and apply image super-resolution networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from srtrain.inference.upscaler import load_model

__all__ = ["load_model"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562
    # Lazy: `import srtrain` and `srtrain --help` must not pay for torch.
    if name == "load_model":
        from srtrain.inference.upscaler import load_model

        return load_model
    raise AttributeError(f"module 'srtrain' has no attribute {name!r}")
