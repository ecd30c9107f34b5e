"""What an exported network gets around it in its ONNX graph: padding, cropping, the range [0, 1].

A network takes sizes of its own (``Generator.multiple_of``, ``min_size``); exporters turn Python's
arithmetic on sizes into constants, or refuse it. So the network alone goes through them, and what
``Generator`` does around it is written here node by node, for any size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

    from srtrain.networks.generator import Generator

LR, SR = "lr", "sr"
INSIDE, OUTSIDE = "lr_padded", "sr_padded"  # what the exporters call the network's own ends
UNCLAMPED = "sr_unclamped"


class Nodes:
    """Nodes in the order in which they are added, and the constants that they need."""

    def __init__(self, prefix: str) -> None:
        self.nodes: list[NodeProto] = []
        self.prefix = prefix

    def add(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:  # noqa: ANN401
        """One node; returns the name of its output. The model's check refuses wrong attributes."""
        output = output or f"{self.prefix}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def integer(self, *values: int, scalar: bool = False) -> str:
        """An int64 constant: a vector, or a number."""
        return self.constant(np.array(values[0] if scalar else values, np.int64))

    def constant(self, array: np.ndarray[Any, Any]) -> str:
        """Its name."""
        name = f"{self.prefix}_{len(self.nodes)}"
        value = numpy_helper.from_array(array, name)
        self.nodes.append(helper.make_node("Constant", [], [name], value=value))
        return name


def complete(model: ModelProto, generator: Generator, about: Mapping[str, str]) -> None:
    """``lr`` (batch, 3, height, width) → ``sr``, both RGB in [0, 1], of any size and number.

    ``model`` is the network alone from ``INSIDE`` to ``OUTSIDE``, of fp16 or float; ``lr`` and
    ``sr`` are float. ``about`` becomes metadata.
    """
    graph = model.graph
    front, back = Nodes("srtrain_pad"), Nodes("srtrain_crop")
    image, larger = LR, OUTSIDE
    if generator.multiple_of > 1 or generator.min_size > 1:
        size = front.add("Slice", front.add("Shape", LR), front.integer(2), front.integer(4))
        for axis in (2, 3):
            image = _padded(front, image, axis, generator)
        ends = back.add("Mul", size, back.integer(generator.scale))
        starts, axes = back.integer(0, 0), back.integer(2, 3)
        larger = back.add("Slice", larger, starts, ends, axes)
    front.add("Cast", image, output=INSIDE, to=graph.input[0].type.tensor_type.elem_type)
    back.add("Cast", larger, output=UNCLAMPED, to=TensorProto.FLOAT)
    limits = [back.constant(np.array(value, np.float32)) for value in (0, 1)]
    back.add("Clip", UNCLAMPED, *limits, output=SR)
    nodes = [*front.nodes, *graph.node, *back.nodes]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    large = f"{generator.scale}*"
    graph.input.append(_image(LR, "height", "width"))
    graph.output.append(_image(SR, f"{large}height", f"{large}width"))
    helper.set_model_props(model, dict(about))


def put_in_order(graph: GraphProto) -> None:
    """Every node after those whose outputs it takes: the fp16 converter adds some at the end."""
    known = {"", *(it.name for it in graph.input), *(it.name for it in graph.initializer)}
    waiting, ordered = list(graph.node), list[Any]()
    while waiting:
        before, later = len(waiting), list[Any]()
        for node in waiting:
            ready = known.issuperset(node.input)
            (ordered if ready else later).append(node)
            known.update(node.output if ready else ())
        waiting = later
        if len(waiting) == before:
            raise ValueError(f"{waiting[0].name} takes what no node gives")
    del graph.node[:]
    graph.node.extend(ordered)


def with_unclamped(model: ModelProto) -> ModelProto:
    """A copy that also gives the image before it is clamped, which hides errors."""
    copy = type(model)()
    copy.CopyFrom(model)
    copy.graph.output.append(helper.make_empty_tensor_value_info(UNCLAMPED))
    return copy


def _padded(nodes: Nodes, image: str, axis: int, generator: Generator) -> str:
    """Reflected as far as the image reaches, then repeated, up to the size that is needed.

    Row ``j`` is row ``max(last - |j - last|, 0)`` of the image.
    """
    length = nodes.add("Gather", nodes.add("Shape", image), nodes.integer(axis, scalar=True))
    wanted = nodes.add("Max", length, nodes.integer(generator.min_size, scalar=True))
    step = nodes.integer(generator.multiple_of, scalar=True)
    more = nodes.add("Add", wanted, nodes.integer(generator.multiple_of - 1, scalar=True))
    wanted = nodes.add("Mul", nodes.add("Div", more, step), step)
    zero, one = nodes.integer(0, scalar=True), nodes.integer(1, scalar=True)
    last = nodes.add("Sub", length, one)
    beyond = nodes.add("Sub", nodes.add("Range", zero, wanted, one), last)
    rows = nodes.add("Max", nodes.add("Sub", last, nodes.add("Abs", beyond)), zero)
    return nodes.add("Gather", image, rows, axis=axis)


def _image(name: str, height: str, width: str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3, height, width])
