"""The process that makes an ONNX file and checks it: ``python -m …child REQUEST`` (JSON).

It may crash: exporters end some interpreters by signal 11. Then there is no report, which whoever
started it (``program.py``) sees.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import nn

from srtrain.files import write_json
from srtrain.inference.export.agreement import HALF, LARGE, SIZES, Agreement, agreement
from srtrain.inference.export.graph import (
    INSIDE,
    LR,
    OUTSIDE,
    SR,
    UNCLAMPED,
    complete,
    put_in_order,
    with_unclamped,
)
from srtrain.networks.image_only import image_only
from srtrain.networks.loading import load
from srtrain.networks.traceable import LARGEST_SIDE, traceable

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor

    from srtrain.networks.generator import Generator

OPSETS = {"dynamo": 18, "torchscript": 17}
EQUAL = 1e-4  # largest difference of images in [0, 1]


class Request(TypedDict):
    """What to make. ``exporter``: a key of ``OPSETS``; ``out``: the file; a report lies beside."""

    source: str
    trust: list[str]
    exporter: str
    half: bool
    about: dict[str, str]
    out: str


class Report(TypedDict):
    """What came of it. ``failed``: why there is no file, on one line; else empty.

    ``largest``: LR pixels a side up to which the file holds; 0: of any. ``frozen``: how often the
    tracer warned that it keeps what Python computed; the file was then checked at ``LARGE`` too.
    """

    failed: str
    opset: int
    agreement: str
    largest: int
    frozen: int


def report_of(out: Path) -> Path:
    """Where the report of a request lies."""
    return out.with_suffix(".json")


def attempt(request: Request) -> Report:
    """Make the file, check it, and report; what raises is reported too."""
    out = Path(request["out"])
    opset = OPSETS[request["exporter"]]
    warnings.simplefilter("ignore")
    logging.disable()
    try:
        trust = request["trust"]
        generator = image_only(load(Path(request["source"]), trust=trust).generator, trust=trust)
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always", torch.jit.TracerWarning)
            model = _exported(generator, request["exporter"], opset)
        frozen = sum(issubclass(it.category, torch.jit.TracerWarning) for it in heard)
        model = _halved(model) if request["half"] else model
        complete(model, generator, request["about"])
        same = _checked(model, generator, (*SIZES, LARGE) if frozen else SIZES)
        failed = "" if same.within(HALF if request["half"] else EQUAL) else f"differs by {same}"
        largest = LARGEST_SIDE.get(generator.spec["_target_"], 0)
        report = Report(
            failed=failed, opset=opset, agreement=str(same), largest=largest, frozen=frozen
        )
        if not failed:
            out.write_bytes(model.SerializeToString())
    except Exception as error:  # whatever an exporter thinks of
        report = Report(failed=_one_line(error), opset=opset, agreement="", largest=0, frozen=0)
    write_json(report_of(out), report)
    return report


def _exported(generator: Generator, exporter: str, opset: int) -> ModelProto:
    """The network alone, of dynamic sizes."""
    example = torch.rand(2, 3, *_example_size(generator))
    names: dict[str, Any] = {"input_names": [INSIDE], "output_names": [OUTSIDE]}
    net = _Alone(generator.net).eval()  # exporters put back the mode in which they found it
    with traceable():
        if exporter == "dynamo":
            return _by_dynamo(net, example, opset, names)
        return _by_torchscript(net, example, opset, names)


class _Alone(nn.Module):
    """The network, called with a name that all of them share."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, lr: Tensor) -> Tensor:
        sr: Tensor = self.net(lr)
        return sr


def _by_dynamo(net: nn.Module, example: Tensor, opset: int, names: dict[str, Any]) -> ModelProto:
    from srtrain.inference.export.operators import translations

    dynamic = torch.export.Dim.DYNAMIC
    program = torch.onnx.export(
        net,
        (example,),
        dynamo=True,
        dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},),
        opset_version=opset,
        external_data=False,
        verbose=False,
        custom_translation_table=translations(),
        **names,
    )
    if program is None:
        raise RuntimeError("the exporter returned nothing")
    model: ModelProto = program.model_proto
    return model


def _by_torchscript(
    net: nn.Module, example: Tensor, opset: int, names: dict[str, Any]
) -> ModelProto:
    import io

    import onnx

    from srtrain.inference.export.operators import register

    register(opset)
    axes = {0: "batch", 2: "height", 3: "width"}
    stream = io.BytesIO()
    torch.onnx.export(
        net,
        (example,),
        stream,  # type: ignore[arg-type]
        dynamo=False,
        dynamic_axes={INSIDE: axes, OUTSIDE: axes},
        opset_version=opset,
        **names,
    )
    return onnx.load_from_string(stream.getvalue())


def _example_size(generator: Generator) -> tuple[int, int]:
    """Two different sizes that the network takes without padding."""
    step = generator.multiple_of
    if step == 1:
        return 27, 43
    least = -(-max(generator.min_size, 24) // step)
    return least * step, (least + 1) * step


def _halved(model: ModelProto) -> ModelProto:
    """Weights, arithmetic and both ends in fp16."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    halved: ModelProto = convert_float_to_float16(model)
    put_in_order(halved.graph)
    del halved.graph.value_info[:]  # of types before
    return halved


def _checked(
    model: ModelProto, generator: Generator, sizes: tuple[tuple[int, int, int], ...]
) -> Agreement:
    """How far onnxruntime is from torch, before clamping; and that ``sr`` is that, clamped."""
    import onnx
    import onnxruntime

    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 4
    session = onnxruntime.InferenceSession(
        with_unclamped(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def run(lr: Tensor) -> Tensor:
        sr, whole = (torch.from_numpy(it) for it in session.run([SR, UNCLAMPED], {LR: lr.numpy()}))
        if not torch.equal(sr.float(), whole.float().clamp(0, 1)):
            raise RuntimeError("sr is not clamped to [0, 1]")
        return whole

    return agreement(generator, run, sizes)


def _one_line(error: BaseException) -> str:
    """The first line of what it came from, without colours."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    plain = re.sub(r"\x1b\[[\d;]*m", "", lines[0] if lines else "")
    return f"{type(error).__name__}: {plain}"[:300]


if __name__ == "__main__":
    attempt(json.loads(sys.argv[1]))
