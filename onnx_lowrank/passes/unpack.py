"""Weights in a number format: the nodes that make floats of them, and the opset that has these nodes.

What is unpacked depends on constants alone, so its nodes come first. A model of an older opset is raised while what is
unpacked is still missing: as inputs, since the converter does not know integers of four bits.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx

from onnx_lowrank.errors import ModelError, RuntimeProblem
from onnx_lowrank.graph.model_io import main_opset
from onnx_lowrank.graph.names import Fresh, all_names
from onnx_lowrank.options import Runtime
from onnx_lowrank.runtime.runner import Runner, first_line
from onnx_lowrank.types import NumberFormat, Stage
from onnx_lowrank.weights.storage import Storage, Stored

LARGEST_OFF = 0.05
"""Some kernels round what they read to 8 bits as well; more than this is no rounding."""
IR_VERSIONS = {13: 7, 21: 10}
"""The first IR version that goes with an opset: 10 has integers of four bits."""
CONVERTER_ERRORS = (RuntimeError, ValueError, onnx.version_converter.ConvertError)


def raised(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return the model in this opset or a later one. Raises ModelError, one line, where onnx cannot convert it."""
    current = main_opset(model)
    if current >= opset:
        return model
    try:
        converted = onnx.version_converter.convert_version(model, opset)
    except CONVERTER_ERRORS as error:
        raise ModelError(f"onnx cannot bring the model from opset {current} to {opset}: {first_line(error)}") from error
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        setattr(converted, field, getattr(model, field))
    del converted.metadata_props[:]
    converted.metadata_props.extend(model.metadata_props)
    return converted


def refused(model: onnx.ModelProto, number: NumberFormat, runtime: Runtime) -> str:
    """Return why a number format does not run here, "" where it does: found out by running it, in the model's opset."""
    opset = max(main_opset(model), number.opset)
    width = 2 * max(number.block, 16)
    weight = np.linspace(-1, 1, width**2, dtype=np.float32).reshape(width, width)
    storage = Storage(int(onnx.TensorProto.FLOAT)).in_format(number)
    stored = storage.store(Stage(weight), lambda stage: stage.weight, "w", lambda hint: hint)
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [*stored.nodes, onnx.helper.make_node("MatMul", ["x", stored.name], ["y"])],
        number.name,
        [value("x", onnx.TensorProto.FLOAT, [1, width])],
        [value("y", onnx.TensorProto.FLOAT, [1, width])],
        list(stored.tensors),
    )
    opsets = [onnx.helper.make_opsetid("", opset)]
    tried = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSIONS[number.opset])
    x = np.linspace(0, 1, width, dtype=np.float32)[None]
    try:
        found = Runner(tried, runtime=runtime).run({"x": x})["y"]
        raised(model, number.opset)
    except (ModelError, RuntimeProblem) as error:
        return str(error)
    expected = x @ storage.rounded(weight)
    off = float(np.abs(found - expected).max()) / float(np.abs(expected).max())
    return f"it computes something else ({off:.1%} off)" if off > LARGEST_OFF else ""


def unpacked(model: onnx.ModelProto, stored: Sequence[Stored], opset: int) -> onnx.ModelProto:
    """Return the model, in `opset` or later, with the nodes that make `stored` floats in front of all others."""
    missing = [_value(each) for each in stored]
    if main_opset(model) < opset:
        model.graph.input.extend(missing)
        model = raised(model, opset)
        names = {value.name for value in missing}
        for value in [value for value in model.graph.input if value.name in names]:
            model.graph.input.remove(value)
    nodes = [node for each in stored for node in each.nodes]
    nodes += [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(tensor for each in stored for tensor in each.tensors)
    model.ir_version = max(model.ir_version, IR_VERSIONS[opset])
    return _rows_looked_up(model, {each.name for each in stored})


def _value(stored: Stored) -> onnx.ValueInfoProto:
    """Return the type and shape of what a stored factor is unpacked to."""
    kinds = {node.op_type: node for node in stored.nodes}
    cast = kinds.get("Cast")
    elem = int(cast.attribute[0].i) if cast is not None else int(onnx.TensorProto.FLOAT)
    return onnx.helper.make_tensor_value_info(stored.name, elem, list(stored.tensors[0].dims))


def _rows_looked_up(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """Return the model with every Gather of an unpacked table replaced: rows and scales are looked up, then multiplied.

    Else the whole table would be unpacked at every call. names: of what is unpacked here. A table that other nodes read
    as well stays as it is.
    """
    made = {n.output[0]: n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.output[0] in names}
    gathers = [node for node in model.graph.node if node.op_type == "Gather" and node.input[0] in made]
    others = {name for node in model.graph.node if node.op_type != "Gather" for name in node.input}
    tables = {node.input[0] for node in gathers} - others
    if not tables:
        return model
    fresh, nodes = Fresh(all_names(model)), list[onnx.NodeProto]()
    for node in model.graph.node:
        if node.output[0] in tables:
            continue
        table = made.get(node.input[0]) if node.op_type == "Gather" and node.input[0] in tables else None
        nodes.extend([node] if table is None else _looked_up(node, table, fresh))
    scales = {made[table].input[1] for table in tables}
    for tensor in model.graph.initializer:
        if tensor.name in scales:
            tensor.dims.append(1)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return model


def _looked_up(node: onnx.NodeProto, unpacking: onnx.NodeProto, fresh: Fresh) -> list[onnx.NodeProto]:
    (integers, scales), (ids, out) = unpacking.input, (node.input[1], node.output[0])
    rows, steps, wide = (fresh(f"{out}.{what}") for what in ("rows", "scales", "float"))
    make = onnx.helper.make_node
    product = make("Mul", [wide, steps], [out], name=node.name)
    product.doc_string = node.doc_string
    return [
        make("Gather", [integers, ids], [rows], name=rows, axis=0),
        make("Gather", [scales, ids], [steps], name=steps, axis=0),
        make("Cast", [rows], [wide], name=wide, to=onnx.TensorProto.FLOAT),
        product,
    ]
