"""A denoiser's model for pictures of any height and width: the graph around its network.

Before the network the picture is padded by reflection at its bottom and right, as the network needs it, and mapped to
the range that the fitted picture had; after it the padding is cut off. All of it is inside the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from dipfast.generators import Card, multiple, smallest_side
from dipfast.tasks.range import Range

SIDES = ("height", "width")  # names of the model's free sides
ANY_SIZE = frozenset(("Div", "Max", "Min", "Mod", "Shape", "Squeeze", "Sub"))  # operators that only these models hold
RULE = (
    "the input is a picture with values in [0, 1], height and width are at least `least` pixels; sides that are no "
    "multiples of `multiple` are padded by reflection at the bottom and the right inside the model, and cut off again"
)


@dataclass(frozen=True)
class Sizes:
    """The heights and widths that a model takes, in pixels."""

    multiple: int  # what the network's own sides must be multiples of
    least: int

    @classmethod
    def of(cls, card: Card) -> Sizes:
        """Return the sizes that the network of ``card`` takes."""
        return cls(multiple(card.generator), smallest_side(card.generator))

    @property
    def example(self) -> tuple[int, int]:
        """Return a height and a width to trace the network with."""
        return self.least + self.multiple, self.least + 2 * self.multiple

    def dimensions(self) -> dict[int, Any]:
        """Return the free sides of the network's input as PyTorch's exporter takes them, by axis."""
        fewest = self.least // self.multiple
        return {2: self.multiple * torch.export.Dim("rows", min=fewest)} | {
            3: self.multiple * torch.export.Dim("columns", min=fewest)
        }

    def to_json(self) -> dict[str, Any]:
        """Return what the model's metadata say of them."""
        return asdict(self) | {"rule": RULE}


def free_sizes(graph: onnx.GraphProto, sizes: Sizes, weights: Mapping[str, Tensor]) -> None:
    """Put padding, range and cutting around the network in ``graph``, which was traced for multiples alone.

    ``weights`` are the generator's, with `low` and `width` where the picture was fitted in a range of its own.
    """
    nodes = list(graph.node)
    for node in nodes:
        node.input[:] = ["shown" if name == "latent" else name for name in node.input]
        node.output[:] = ["padded image" if name == "image" else name for name in node.output]
    graph.ClearField("node")
    graph.node.extend([*_padding(graph, sizes), *_ranging(graph, weights), *nodes, _cutting(graph)])
    for value in (*graph.input, *graph.output):
        for axis, side in enumerate(SIDES, 2):
            value.type.tensor_type.shape.dim[axis].dim_param = side


def _padding(graph: onnx.GraphProto, sizes: Sizes) -> list[onnx.NodeProto]:
    """Return the nodes that pad `latent` to `padded`, each side to the next multiple."""
    multiple = _constant(graph, "sizes.multiple", np.array([sizes.multiple] * 2))
    before = _constant(graph, "sizes.before", np.zeros(6, np.int64))
    return [
        helper.make_node("Shape", ["latent"], ["sides"], "sizes/Shape", start=2, end=4),
        helper.make_node("Mod", ["sides", multiple], ["over"], "sizes/Mod"),
        helper.make_node("Sub", [multiple, "over"], ["lacking"], "sizes/Sub"),
        helper.make_node("Mod", ["lacking", multiple], ["missing"], "sizes/Mod_2"),
        helper.make_node("Concat", [before, "missing"], ["pads"], "sizes/Concat", axis=0),
        helper.make_node("Pad", ["latent", "pads"], ["padded"], "sizes/Pad", mode="reflect"),
    ]


def _ranging(graph: onnx.GraphProto, weights: Mapping[str, Tensor]) -> list[onnx.NodeProto]:
    """Return the nodes that map `padded` to what the network is shown, as `Range.to_unit` does."""
    range = Range.of(weights.get("low"), weights.get("width"))
    low, width, lower, upper = (
        _constant(graph, f"range.{name}", getattr(range, name).float().cpu().numpy())
        for name in ("low", "width", "lower", "upper")
    )
    return [
        helper.make_node("Sub", ["padded", low], ["above low"], "range/Sub"),
        helper.make_node("Div", ["above low", width], ["unit"], "range/Div"),
        helper.make_node("Max", ["unit", lower], ["not below"], "range/Max"),
        helper.make_node("Min", ["not below", upper], ["shown"], "range/Min"),
    ]


def _cutting(graph: onnx.GraphProto) -> onnx.NodeProto:
    """Return the node that cuts `image` out of `padded image`."""
    starts = _constant(graph, "sizes.starts", np.zeros(2, np.int64))
    axes = _constant(graph, "sizes.axes", np.array([2, 3]))
    return helper.make_node("Slice", ["padded image", starts, "sides", axes], ["image"], "sizes/Slice")


def _constant(graph: onnx.GraphProto, name: str, value: np.ndarray) -> str:
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    return name
