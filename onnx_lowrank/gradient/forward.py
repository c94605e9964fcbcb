"""The forward graph, read once: nodes to differentiate, weights by reference, shapes and element types."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

import onnx
import onnx.inliner
import onnx.shape_inference
import onnx.version_converter
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from onnx_lowrank.gradient.emitter import FLOAT, FLOATS, Dims, NoRule
from onnx_lowrank.graph.constants import constant_value
from onnx_lowrank.graph.mapped import tensor_array
from onnx_lowrank.graph.names import Fresh, all_names
from onnx_lowrank.graph.traversal import fed_inputs
from onnx_lowrank.types import Array

SMALL = 1024
"""Elements up to which a constant takes part in shape inference with its value."""
OPSET = 17
"""The oldest operator set that the rules write; older models are raised to it."""
SAME_FROM = 13
"""From this version to OPSET no operator changed its meaning, but for RoiAlign's default and training batch norms."""
SYMBOL = re.compile(r"[A-Za-z_][\w.:/]*")
VAGUE = frozenset({"none", "unk", "unknown", "dynamic", "any", "dim", "free"})
"""Symbols of inputs that need not stand for one extent."""
STAND_INS = {
    **dict.fromkeys(("Gelu", "QuickGelu", "FastGelu"), "Relu"),
    **dict.fromkeys(("BiasGelu", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization"), "Add"),
    "FusedMatMul": "MatMul",
}
"""Operators that inference does not know -> one of the standard that gives the same shape."""


class Forward:
    """Nodes (copies, in order), weights (references into the source), interface and what is known of every tensor.

    Raises NoRule for a model of an old operator set that onnx cannot raise.
    """

    def __init__(self, model: ModelProto, shapes: Mapping[str, Dims] | None = None) -> None:
        self.source = model
        self.weights: dict[str, TensorProto] = {t.name: t for t in model.graph.initializer}
        self.nodes: list[NodeProto] = []
        self.domains = {entry.domain: int(entry.version) for entry in model.opset_import}
        self.opset = self.domains.get("", self.domains.pop("ai.onnx", onnx.defs.onnx_opset_version()))
        self.observed: dict[str, Dims] = {name: tuple(dims) for name, dims in (shapes or {}).items()}
        self._inferred: dict[str, ValueInfoProto] = {}
        self.inputs = fed_inputs(model)
        self.outputs = list(model.graph.output)
        self.take(_own_domain(node) for node in model.graph.node)
        self.names = Fresh(all_names(model) | set(self.weights))
        if model.functions:
            self._inline_local_functions()
        self._raise_opset()
        self.infer()

    def take(self, nodes: Iterable[NodeProto]) -> None:
        """Append nodes; those that only hold a constant become weights."""
        for node in nodes:
            tensor = constant_value(node, floats=True)
            if tensor is None:
                self.nodes.append(node)
            else:
                self.weights[node.output[0]] = tensor

    def elem(self, name: str) -> int:
        """Return a tensor's element type (float where nothing is known of it)."""
        if name in self.weights:
            return int(self.weights[name].data_type)
        info = self._inferred.get(name)
        return int(info.type.tensor_type.elem_type) if info is not None else FLOAT

    def is_float(self, name: str) -> bool:
        """Whether a tensor can carry a gradient."""
        return bool(name) and self.elem(name) in FLOATS

    def dims(self, name: str) -> Dims | None:
        """Return what is known of a tensor's shape: observed ones first, then inferred ones."""
        if name in self.weights:
            return tuple(int(size) for size in self.weights[name].dims)
        inferred = _dims(self._inferred.get(name))
        observed = self.observed.get(name)
        if observed is None:
            return inferred
        if inferred is None or len(inferred) != len(observed):
            return observed
        return tuple(a if a is not None else b for a, b in zip(observed, inferred, strict=True))

    def elements(self, name: str) -> int:
        """Return how many elements a constant has."""
        return math.prod(self.weights[name].dims)

    def constant(self, name: str) -> Array | None:
        """Return a constant's value, None where the tensor is computed."""
        tensor = self.weights.get(name)
        return None if tensor is None else tensor_array(tensor)

    def skeleton(self) -> ModelProto:
        """Return the model without its large weights (they are inputs): small enough to copy and to analyse."""
        model = ModelProto(ir_version=max(int(self.source.ir_version), 8))
        model.graph.name = self.source.graph.name or "graph"
        model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in self.imports())
        model.graph.node.extend(self.nodes)
        model.graph.input.extend(_with_sound_symbols(value) for value in self.inputs)
        model.graph.output.extend(_without_shape(value) for value in self.outputs)
        for name, tensor in self.weights.items():
            if self.elements(name) <= SMALL:
                model.graph.initializer.add().CopyFrom(tensor)
                model.graph.initializer[-1].name = name
            else:
                model.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
        return model

    def infer(self) -> None:
        """Infer shapes and element types anew (what the file says of intermediate tensors is not trusted)."""
        skeleton = self.skeleton()
        for node in skeleton.graph.node:
            if node.domain == "com.microsoft" and node.op_type in STAND_INS:
                _stand_in(node)
        model = onnx.shape_inference.infer_shapes(skeleton, strict_mode=False, data_prop=True)
        self._inferred = {}
        for values in (model.graph.input, model.graph.output, model.graph.value_info):
            self._inferred.update((value.name, value) for value in values if value.type.HasField("tensor_type"))
        for value in self.source.graph.value_info:
            self._inferred.setdefault(value.name, _without_shape(value))
        self._guess_types()

    def _guess_types(self) -> None:
        """A tensor whose type inference does not know (a contrib operator's) has that of the first float input."""
        for node in self.nodes:
            floats = (self.elem(name) for name in node.input if name and self._typed(name))
            elem = next((elem for elem in floats if elem in FLOATS), None)
            for name in node.output:
                if elem is not None and name and not self._typed(name):
                    self._inferred[name] = helper.make_tensor_value_info(name, elem, None)

    def _typed(self, name: str) -> bool:
        info = self._inferred.get(name)
        return name in self.weights or (info is not None and info.type.tensor_type.elem_type != 0)

    def imports(self) -> list[tuple[str, int]]:
        """Return domain and version of every operator set."""
        return [("", self.opset), *((domain, version) for domain, version in self.domains.items() if domain)]

    def _inline_local_functions(self) -> None:
        model = self.skeleton()
        model.functions.extend(self.source.functions)
        self._replace(onnx.inliner.inline_local_functions(model))

    def _raise_opset(self) -> None:
        if self.opset < SAME_FROM:
            model = onnx.shape_inference.infer_shapes(self.skeleton(), strict_mode=False, data_prop=True)
            try:
                raised = onnx.version_converter.convert_version(model, OPSET)
            except (onnx.version_converter.ConvertError, RuntimeError) as error:
                text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                raise NoRule(f"opset {self.opset} cannot be raised to {OPSET}: {text}") from error
            self._replace(raised)
        for node in self.nodes if self.opset < OPSET else ():
            if node.op_type == "RoiAlign" and not any(a.name.startswith("coord") for a in node.attribute):
                node.attribute.append(helper.make_attribute("coordinate_transformation_mode", "output_half_pixel"))
        self.opset = max(self.opset, OPSET)

    def _replace(self, model: ModelProto) -> None:
        """Take over the nodes of a changed skeleton, and the constants it made."""
        self.nodes = []
        self.take(NodeProto.FromString(node.SerializeToString()) for node in model.graph.node)
        made = {tensor.name: tensor for tensor in model.graph.initializer}
        self.weights.update({name: tensor for name, tensor in made.items() if name not in self.weights})
        self.names.take(all_names(model))
        self.domains.update({e.domain: int(e.version) for e in model.opset_import if e.domain not in ("", "ai.onnx")})
        self.opset = next((int(e.version) for e in model.opset_import if e.domain in ("", "ai.onnx")), self.opset)


def _stand_in(node: NodeProto) -> None:
    """Turn a node, which only inference sees, into its stand-in; a product that transposes has none."""
    if any(a.name.startswith("trans") and a.i for a in node.attribute):
        return
    node.op_type, node.domain = STAND_INS[node.op_type], ""
    del node.attribute[:]
    del node.input[1 if node.op_type == "Relu" else 2 :]
    del node.output[1:]


def _own_domain(node: NodeProto) -> NodeProto:
    """Return a copy of a node to change; a large constant inside is left behind in the original."""
    if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
        return node
    copy = NodeProto()
    copy.CopyFrom(node)
    if copy.domain == "ai.onnx":
        copy.domain = ""
    return copy


def _without_shape(value: ValueInfoProto) -> ValueInfoProto:
    copy = ValueInfoProto()
    copy.CopyFrom(value)
    if copy.type.HasField("tensor_type"):
        copy.type.tensor_type.ClearField("shape")
    return copy


def _with_sound_symbols(value: ValueInfoProto) -> ValueInfoProto:
    """A copy without the symbols that say nothing: exporters write "?" for every free extent, equal or not."""
    copy = ValueInfoProto()
    copy.CopyFrom(value)
    for dim in copy.type.tensor_type.shape.dim:
        if not SYMBOL.fullmatch(dim.dim_param) or dim.dim_param.lower() in VAGUE:
            dim.ClearField("dim_param")
    return copy


def _dims(value: ValueInfoProto | None) -> Dims | None:
    if value is None or not value.type.tensor_type.HasField("shape"):
        return None
    return tuple(
        int(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or None
        for dim in value.type.tensor_type.shape.dim
    )
