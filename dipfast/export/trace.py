"""The graph of an architecture, by PyTorch's exporter: traced once, filled with each generator's weights by name."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import json
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

import onnx
import torch

from dipfast.errors import MachineError
from dipfast.export.fold import FoldedNet
from dipfast.generators.architecture import architecture_of

OPSET = 20


@lru_cache(maxsize=16)
def trace(
    config: str,  # the generator's section, as JSON
    latent: tuple[int, int, int],  # its channels, height and width
    image_channels: int,
    precision: str,
) -> onnx.ModelProto:
    """`latent [batch, D, H, W]` → `image [batch, C, H, W]`, with random weights under the generator's names.

    Random, for the exporter removes a scale by one and merges tensors that are equal. Not to be changed: others get
    the same object. Raises MachineError without onnxscript.
    """
    if importlib.util.find_spec("onnxscript") is None:
        raise MachineError(
            "onnxscript is not installed, without which PyTorch exports nothing: pip install 'dipfast[cpu]'"
        )
    net = FoldedNet(architecture_of(json.loads(config), image_channels)).in_phases().eval().requires_grad_(False)
    for parameter in net.parameters():
        parameter.uniform_(0.5, 1.5)
    if precision == "fp16":
        net.half_precision()
    with _quiet():
        program = torch.onnx.export(
            net,
            (torch.zeros(2, *latent),),
            dynamo=True,
            opset_version=OPSET,
            input_names=["latent"],
            output_names=["image"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return _cleaned(program.model_proto)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of packages that are not needed here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _cleaned(model: onnx.ModelProto) -> onnx.ModelProto:
    """Less the exporter's notes (paths of this machine among them), and with names that mean something."""
    graph = model.graph
    graph.name = "generator"
    _name_nodes(graph)
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
    return model


def _name_nodes(graph: onnx.GraphProto) -> None:
    """A convolution gets the name of its weights, every other node that of its part of the network."""
    seen: Counter[str] = Counter()
    for node in graph.node:
        notes = {note.key: note.value for note in node.metadata_props}
        scopes = ast.literal_eval(notes.get("pkg.torch.onnx.name_scopes", "['']"))
        place = ".".join([scope for scope in scopes[:-1] if scope][-1:])
        weights = [name for name in node.input if name.endswith(".weight")]
        name = weights[0].removesuffix(".weight") if weights else f"{place or 'generator'}/{node.op_type}"
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"
