"""A fitted generator as one ONNX model that needs nothing of dipfast, and the check of one that comes back.

PyTorch's exporter traces the graph of an architecture once; it is filled with each generator's weights by name, which
are inside, never in a second file. Only operators of the standard set occur. The height and width are fixed, for the
statistics that are folded in belong to one latent and one size, and the latent is inside too. A denoiser, whose
statistics are frozen, takes pictures of any size and holds none (`dipfast.export.sizes`). The batch is free. A model
carries a digest of itself, so that one whose weights or graph were changed afterwards is refused.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import json
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from torch import Tensor

from dipfast.errors import MachineError, UsageError
from dipfast.export.kind import Kind, unknown_kind
from dipfast.export.sizes import ANY_SIZE, SIDES, Sizes, free_sizes
from dipfast.generators import Card
from dipfast.generators.architecture import Architecture
from dipfast.generators.folded import FoldedNet

FORMAT = "dipfast-onnx/1"
OPSET = 20
ARITHMETIC = ("Add", "Cast", "Concat", "Elu", "LeakyRelu", "Mul", "Relu", "Sigmoid")
SHAPES = ("Pad", "Reshape", "Resize", "Slice", "Split", "Transpose")
OPERATORS = frozenset((*ARITHMETIC, *SHAPES, "AveragePool", "Conv", "MaxPool"))
VALID = "valid for this latent and this size only: the statistics of the fitted picture are folded into the weights"
VALID_DENOISER = "valid for pictures of the camera and noise of the fitted one, whose statistics are folded in"
PLAIN = ("id", "format", "precision", "fit_precision", "valid", "licence", "of", "sha256")  # metadata that is no JSON
LICENCE = "the weights encode the picture that they were fitted to; the rights in that picture apply to this file"


def to_onnx(
    weights: Mapping[str, Tensor],  # the generator's state
    latent: Tensor,  # [1, D, H, W]
    card: Card,
    *,
    precision: str = "fp32",
    bake_latent: bool = False,
    one_size: bool = False,
    fit: Mapping[str, Any] | None = None,
    kind: Kind | None = None,
) -> onnx.ModelProto:
    """Return the generator as a model `latent [batch, D, H, W] float32` → `image [batch, C, H, W] float32`.

    The latent is an input with the fitted one as its default; with ``bake_latent`` it is a constant, and the model
    has no input. The latent of a denoiser is a picture in [0, 1] of any size, without a default, unless it is baked in
    or ``one_size`` is asked for; then it is in the range of the fit. ``precision``: fp32, or fp16 with the head, the
    sigmoid and both ends in float32. ``fit`` and ``kind``: how it was fitted and what it is of, for the model's
    metadata. Raises MachineError for bf16.
    """
    if precision == "bf16":
        raise MachineError(
            "--precision bf16: onnxruntime has no bf16 convolution on the CPU to prove the model with; use fp16 or fp32"
        )
    if precision not in ("fp32", "fp16"):
        raise UsageError(f"--precision {precision}: a model is of fp32 or fp16")
    net = card.folded(weights, latent)
    if precision == "fp16":
        net.half_precision()
    sizes = Sizes.of(card) if card.frozen and not (bake_latent or one_size) else None
    model = _filled(trace(card.architecture, sizes or tuple(latent.shape[1:]), precision), net.state_dict())
    if sizes is None:
        default = numpy_helper.from_array(latent.detach().float().cpu().contiguous().numpy(), "latent")
        model.graph.initializer.append(default)
    else:
        free_sizes(model.graph, sizes, weights)
    if bake_latent:
        model.graph.ClearField("input")
    for name, value in _metadata(card, precision, fit, kind or unknown_kind(card), sizes).items():
        model.metadata_props.add(key=name, value=value)
    model.metadata_props.add(key="dipfast.sha256", value=digest(model))
    onnx.checker.check_model(model, full_check=True)
    return model


@lru_cache(maxsize=16)
def trace(
    architecture: Architecture,
    latent: tuple[int, int, int] | Sizes,  # its channels, height and width; or any that these sizes allow
    precision: str,
) -> onnx.ModelProto:
    """Trace `latent [batch, D, H, W]` → `image [batch, C, H, W]`, with random weights under the generator's names.

    The weights are random because the exporter removes a scale by one and merges equal tensors. The result is cached
    and must not be changed. Raises MachineError without onnxscript.
    """
    if importlib.util.find_spec("onnxscript") is None:
        raise MachineError(
            "onnxscript is not installed, without which PyTorch exports nothing: pip install 'dipfast[cpu]'"
        )
    net = FoldedNet(architecture).in_phases().eval().requires_grad_(False)
    for parameter in net.parameters():
        parameter.uniform_(0.5, 1.5)
    if precision == "fp16":
        net.half_precision()
    free = {0: torch.export.Dim("batch")}
    if isinstance(latent, Sizes):
        free, latent = free | latent.dimensions(), (architecture.latent, *latent.example)
    with _quiet():
        program = torch.onnx.export(
            net,
            (torch.zeros(2, *latent),),
            dynamo=True,
            opset_version=OPSET,
            input_names=["latent"],
            output_names=["image"],
            dynamic_shapes=(free,),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return _cleaned(program.model_proto)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which warns of packages that are not needed here."""
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
    """Remove the exporter's notes, paths of this machine among them, and give names that mean something."""
    graph = model.graph
    graph.name = "generator"
    _name_nodes(graph)
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
    return model


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Name a convolution after its weights, and every other node after its part of the network."""
    seen: Counter[str] = Counter()
    for node in graph.node:
        notes = {note.key: note.value for note in node.metadata_props}
        scopes = ast.literal_eval(notes.get("pkg.torch.onnx.name_scopes", "['']"))
        place = ".".join([scope for scope in scopes[:-1] if scope][-1:])
        weights = [name for name in node.input if name.endswith(".weight")]
        name = weights[0].removesuffix(".weight") if weights else f"{place or 'generator'}/{node.op_type}"
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"


def _filled(model: onnx.ModelProto, weights: Mapping[str, Tensor]) -> onnx.ModelProto:
    """Return a copy of ``model`` with ``weights``, by their names: each is in the graph, and none is left out."""
    filled = onnx.ModelProto()
    filled.CopyFrom(model)
    places = {tensor.name: tensor for tensor in filled.graph.initializer}
    for name, value in weights.items():
        places[name].CopyFrom(numpy_helper.from_array(value.contiguous().numpy(), name))
    return filled


def _metadata(
    card: Card, precision: str, fit: Mapping[str, Any] | None, kind: Kind, sizes: Sizes | None
) -> dict[str, str]:
    """Return what the model says of itself, by keys that begin with `dipfast.`, without paths of this machine."""
    about = {name: value for name, value in card.to_json().items() if name != "precision"}
    about |= {"task": {k: v for k, v in card.task.items() if k != "mask"}} | ({} if fit is None else {"fit": dict(fit)})
    about |= {"fit_precision": card.precision, "precision": precision, "opset": OPSET, "format": FORMAT}
    about |= {"versions": {name: version(name) for name in ("dipfast", "torch", "onnx", "onnxscript")}}
    about |= {"valid": VALID if sizes is None else VALID_DENOISER, "licence": LICENCE}
    about |= {"of": kind.of, "kept_picture_db": kind.kept_picture_db}
    about |= {} if sizes is None else {"sizes": sizes.to_json()}
    return {f"dipfast.{k}": v if k in PLAIN else json.dumps(v, sort_keys=True) for k, v in about.items()}


def metadata(model: onnx.ModelProto) -> dict[str, Any]:
    """Return what `_metadata` wrote: by key, without the `dipfast.`."""
    props = {p.key.removeprefix("dipfast."): p.value for p in model.metadata_props if p.key.startswith("dipfast.")}
    return {key: value if key in PLAIN else json.loads(value) for key, value in props.items()}


def digest(model: onnx.ModelProto) -> str:
    """Return the SHA-256 of the whole model but for the digest that it carries."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    kept = [p for p in model.metadata_props if p.key != "dipfast.sha256"]
    bare.ClearField("metadata_props")
    bare.metadata_props.extend(kept)
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def verified(data: bytes, name: str) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Return the model in ``data`` and its metadata. Raises UsageError with the reason for one that was changed."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
        about = metadata(model)
    except (DecodeError, ValueError) as error:
        raise UsageError(f"{name}: is not an ONNX model that can be read ({error})") from None
    if about.get("format") != FORMAT:
        raise UsageError(f"{name}: is not a model that dipfast exported (its format is {about.get('format')})")
    reason = _altered(model, about)
    if reason is not None:
        raise UsageError(f"{name}: refused, {reason}")
    return model, about


def _altered(model: onnx.ModelProto, about: Mapping[str, Any]) -> str | None:
    """Return why the model is not the one that was exported, or None."""
    graph = model.graph
    attributes = [a for node in graph.node for a in node.attribute]
    if graph.sparse_initializer or any(a.tensors or a.graphs or a.HasField("g") for a in attributes):
        return "it holds tensors or graphs where no export writes any"
    tensors = [*graph.initializer, *(a.t for a in attributes if a.HasField("t"))]
    outside = [t.name for t in tensors if t.external_data or t.data_location == onnx.TensorProto.EXTERNAL]
    if outside:
        return f"its tensor {outside[0]} lies in another file, where all weights should be inside"
    opsets = [(entry.domain, entry.version) for entry in model.opset_import]
    if opsets != [("", about.get("opset"))]:
        return f"its operator sets are {opsets}, where it was exported with {about.get('opset')} of ONNX's own"
    allowed = OPERATORS | ANY_SIZE if "sizes" in about else OPERATORS
    strange = sorted({node.op_type for node in graph.node if node.domain or node.op_type not in allowed})
    if strange or model.functions:
        return f"it holds operators that no export writes: {', '.join(strange) or 'functions'}"
    shapes = [_shape(value) for value in (*graph.input, *graph.output)]
    image = ["batch", about.get("channels"), *(SIDES if "sizes" in about else about.get("padded", ()))]
    if not shapes or shapes[-1] != image or any(shape[2:] != image[2:] for shape in shapes):
        return f"its shapes are {shapes}, where it was exported for pictures {image}"
    if digest(model) != about.get("sha256"):
        return "its weights, graph or metadata were changed after the export (its digest does not hold)"
    return None


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
