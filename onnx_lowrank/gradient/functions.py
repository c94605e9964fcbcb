"""Operators that the ONNX schema defines by other operators: their body in place of the node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, helper

from onnx_lowrank.gradient.emitter import Emitter
from onnx_lowrank.gradient.forward import Forward


def function_nodes(node: NodeProto, forward: Forward) -> list[NodeProto] | None:
    """Return the nodes that compute what `node` does under the same output names, None where there are none."""
    body = _body(node, forward)
    if body is None:
        return None
    rename = dict.fromkeys(body.input, "")
    rename.update(zip(body.input, node.input, strict=False))
    outputs = dict(zip(body.output, node.output, strict=False))
    rename.update({formal: name for formal, name in outputs.items() if name})
    attributes = _attributes(node, body, forward.opset)
    emit = Emitter(forward.names, forward.opset, f"{node.op_type}/")
    return [_instance(inner, rename, attributes, emit) for inner in body.node]


def _schema(node: NodeProto, opset: int) -> Any:
    """The operator's schema (its stubs are incomplete), None for an operator outside the standard."""
    if node.domain != "" or not onnx.defs.has(node.op_type, ""):
        return None
    try:
        return onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return None


def _body(node: NodeProto, forward: Forward) -> FunctionProto | None:
    schema = _schema(node, forward.opset)
    if schema is None:
        return None
    plain = [version for version in schema.function_opset_versions if version <= forward.opset]
    if plain:
        return _parsed(schema.get_function_with_opset_version(max(plain)))
    typed = [version for version in schema.context_dependent_function_opset_versions if version <= forward.opset]
    if not typed:
        return None
    types = [_type(forward, name) for name in node.input]
    data = schema.get_context_dependent_function_with_opset_version(max(typed), node.SerializeToString(), types)
    body = _parsed(data)
    return body if body.node else None


def _parsed(data: bytes) -> FunctionProto:
    body = FunctionProto()
    body.ParseFromString(data)
    return body


def _type(forward: Forward, name: str) -> bytes:
    if not name:
        return b""
    dims = forward.dims(name)
    data: bytes = helper.make_tensor_type_proto(forward.elem(name), dims).SerializeToString()
    return data


def _attributes(node: NodeProto, body: FunctionProto, opset: int) -> dict[str, AttributeProto]:
    """What a reference to an attribute stands for: the node's own, else the function's or the schema's default."""
    schema = _schema(node, opset)
    defaults = {} if schema is None else {n: a.default_value for n, a in schema.attributes.items()}
    found = {name: value for name, value in defaults.items() if value.type != AttributeProto.UNDEFINED}
    found.update({attribute.name: attribute for attribute in body.attribute_proto})
    found.update({attribute.name: attribute for attribute in node.attribute})
    return found


def _instance(
    inner: NodeProto, rename: dict[str, str], attributes: Mapping[str, AttributeProto], emit: Emitter
) -> NodeProto:
    node = NodeProto(op_type=inner.op_type, domain=inner.domain, name=emit.fresh(inner.op_type))
    node.input.extend(rename.get(name, name) for name in inner.input)
    for name in inner.output:
        if name and name not in rename:
            rename[name] = emit.fresh(name)
        node.output.append(rename[name] if name else "")
    _fill(node, inner, rename, attributes)
    return node


def _fill(
    node: NodeProto, inner: NodeProto, rename: Mapping[str, str], attributes: Mapping[str, AttributeProto]
) -> None:
    """Copy the attributes of `inner`, references resolved, outer names in subgraphs replaced."""
    for attribute in inner.attribute:
        if attribute.ref_attr_name:
            if attribute.ref_attr_name in attributes:
                node.attribute.add().CopyFrom(attributes[attribute.ref_attr_name])
                node.attribute[-1].name = attribute.name
            continue
        node.attribute.add().CopyFrom(attribute)
        if attribute.HasField("g"):
            _rename_outer(node.attribute[-1].g, rename, attributes)


def _rename_outer(graph: GraphProto, rename: Mapping[str, str], attributes: Mapping[str, AttributeProto]) -> None:
    own = {name for node in graph.node for name in node.output} | {value.name for value in graph.input}
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = name if name in own else rename.get(name, name)
        plain = NodeProto()
        plain.CopyFrom(node)
        del node.attribute[:]
        _fill(node, plain, rename, attributes)
    for value in graph.output:
        if value.name not in own:
            value.name = rename.get(value.name, value.name)
