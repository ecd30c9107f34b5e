"""Operators that torch's ONNX exporters do not know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

# Enlarging by Pillow's and MATLAB's cubic; weights beyond the border are left out.
_CUBIC = {"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1}
_NAME = "aten::_upsample_bicubic2d_aa"


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What ``torch.onnx.export(custom_translation_table=…)`` takes."""
    return {torch.ops.aten._upsample_bicubic2d_aa.default: _bicubic}


def register(opset: int) -> None:
    """The same for TorchScript's exporter, in this process."""
    torch.onnx.register_custom_op_symbolic(_NAME, _bicubic_of_a_trace, opset)


def _bicubic(
    image: Any,  # noqa: ANN401 - onnxscript's names for values
    output_size: Any,  # noqa: ANN401
    align_corners: bool,
    scales_h: float,
    scales_w: float,
) -> Any:  # noqa: ANN401
    from onnxscript import opset18 as op

    scales = op.Constant(value_floats=[1.0, 1.0, scales_h, scales_w])
    return op.Resize(image, None, scales, None, **_CUBIC)


def _bicubic_of_a_trace(
    graph: Any,  # noqa: ANN401 - the exporter's, and its values
    image: Any,  # noqa: ANN401
    output_size: Any,  # noqa: ANN401
    align_corners: Any,  # noqa: ANN401
    scale_factors: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    from torch.onnx.symbolic_helper import _get_const

    factors = _get_const(scale_factors, "fs", "scale_factors")
    scales = graph.op("Constant", value_t=torch.tensor([1.0, 1.0, *factors]))
    empty = graph.op("Constant", value_t=torch.tensor([]))
    suffixes = {str: "s", float: "f", int: "i"}
    attributes = {f"{key}_{suffixes[type(value)]}": value for key, value in _CUBIC.items()}
    return graph.op("Resize", image, empty, scales, **attributes)
