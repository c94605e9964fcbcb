"""Weights in a number format: the nodes that make floats of them, and the opset that has these nodes.

Weights are rounded in a graph that is otherwise done: what neighbours have taken in another order is rounded in that
order. What is unpacked depends on constants alone, so its nodes come first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from onnx_lowrank.errors import ModelError, RuntimeProblem
from onnx_lowrank.graph.model_io import main_opset
from onnx_lowrank.graph.names import Fresh, all_names
from onnx_lowrank.graph.traversal import reads
from onnx_lowrank.options import Runtime
from onnx_lowrank.runtime.runner import Runner, first_line
from onnx_lowrank.types import Array, NumberFormat
from onnx_lowrank.weights.integer_grid import Grid, Integers
from onnx_lowrank.weights.storage import Storage, packed
from onnx_lowrank.weights.transforms import read

LARGEST_OFF = 0.05
"""Some kernels round what they read to 8 bits as well; more than this is no rounding."""
ROWS_OPSET = 13
"""The first opset that has what looks rows of integers up."""
IR_VERSIONS = {13: 7, 21: 10, 25: 13}
"""The first IR version that goes with an opset: 10 has integers of four bits, 13 of two."""
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


@dataclass(frozen=True, slots=True)
class InFormat:
    """How a stored tensor is to be rounded. order: for every axis of it, that of (out, in, *spatial). looked_up: it is
    a table of which rows are looked up, or a factor of one; rows: it is what the rows are looked up in. exact: its
    numbers stand on the grid already.
    """

    number: NumberFormat
    order: tuple[int, ...]
    looked_up: bool = False
    rows: bool = False
    exact: bool = False

    @property
    def blocks(self) -> int:
        """The axis of the stored tensor along which blocks, or channels, lie, from the end."""
        return self.order.index(self.axis) - len(self.order)

    def integers(self, weight: Array) -> Integers:
        """Return the integers and scales of (out, in, *spatial)."""
        grid = Grid.symmetric(self.number, self.axis)
        return grid.recovered(weight) if self.exact else grid.quantised(weight)

    @property
    def axis(self) -> int:
        """The axis of (out, in, *spatial) that has scales: a channel each, or a block of neighbours each."""
        return self.number.axis(looked_up=self.looked_up)


def refused(model: onnx.ModelProto, number: NumberFormat, runtime: Runtime) -> str:
    """Return why a number format does not run here, "" where it does: found out by running it, in the model's opset."""
    opset = max(main_opset(model), number.opset)
    width = 2 * max(number.block, 16)
    weight = np.linspace(-1, 1, width**2, dtype=np.float32).reshape(width, width)
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        number.name,
        [value("x", onnx.TensorProto.FLOAT, [1, width])],
        [value("y", onnx.TensorProto.FLOAT, [1, width])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    tried = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    x = np.linspace(0, 1, width, dtype=np.float32)[None]
    expected = x @ Storage(int(onnx.TensorProto.FLOAT)).in_format(number).rounded(weight.T).T
    try:
        rounded = in_formats(tried, {"w": InFormat(number, (1, 0))})
        found = Runner(rounded, runtime=runtime).run({"x": x})["y"]
        raised(model, number.opset)
    except (ModelError, RuntimeProblem) as error:
        return str(error)
    off = float(np.abs(found - expected).max()) / float(np.abs(expected).max())
    return f"it computes something else ({off:.1%} off)" if off > LARGEST_OFF else ""


def in_formats(model: onnx.ModelProto, chosen: Mapping[str, InFormat]) -> onnx.ModelProto:
    """Return the model with these initializers as integers and scales, and nodes that give floats of their names.

    It is raised to the opset that the formats need. Raises ModelError where onnx cannot do that.
    """
    tables = _looked_up_alone(model, {name for name, how in chosen.items() if how.rows})
    opset = max(ROWS_OPSET if name in tables else each.number.opset for name, each in chosen.items())
    model = raised(model, opset)
    fresh, tensors, nodes = Fresh(all_names(model)), list[onnx.TensorProto](), list[onnx.NodeProto]()
    rows = dict[str, Rows]()
    for tensor in model.graph.initializer:
        how = chosen.get(tensor.name)
        if how is None:
            tensors.append(tensor)
            continue
        if tensor.name in tables:
            rows[tensor.name] = Rows.of(tensor, how, fresh)
            tensors.extend(rows[tensor.name].tensors)
            continue
        made, unpacking = _rounded(tensor, how, fresh)
        tensors.extend(made)
        nodes.extend(unpacking)
    for node in model.graph.node:
        table = rows.get(node.input[0]) if node.op_type == "Gather" else None
        nodes.extend([node] if table is None else table.looked_up(node, fresh))
    others = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    kept = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in tensors]
    for value in [value for value in model.graph.input if value.name in chosen]:  # before IR 4
        model.graph.input.remove(value)
    for entries, new in ((model.graph.node, others), (model.graph.initializer, kept)):
        del entries[:]
        entries.extend(new)
    model.ir_version = max(model.ir_version, IR_VERSIONS[opset])
    return model


def _rounded(
    tensor: onnx.TensorProto, how: InFormat, fresh: Fresh
) -> tuple[list[onnx.TensorProto], list[onnx.NodeProto]]:
    """Return integers and scales, and the nodes that give a tensor of the old name and type."""
    storage = Storage(int(tensor.data_type)).in_format(how.number, looked_up=how.looked_up)
    integers = how.integers(np.transpose(read(tensor), np.argsort(how.order)))
    scale = np.asarray(integers.scale, np.float32)
    attributes, nodes = dict[str, Any](axis=how.order.index(how.axis)), list[onnx.NodeProto]()
    if how.number.block:
        scale = np.ascontiguousarray(np.transpose(scale, how.order)).astype(np.float16)
        attributes["block_size"] = how.number.block
    names = [fresh(f"{tensor.name}.{how.number.name}"), fresh(f"{tensor.name}.scale")]
    stored = [
        packed(np.transpose(integers.q, how.order), how.number.bits, names[0]),
        onnx.numpy_helper.from_array(scale, names[1]),
    ]
    if how.number.block:
        names.append(fresh(f"{tensor.name}.step"))
        nodes.append(_single(names.pop(1), names[-1]))
    single = tensor.name if not storage.casts else fresh(f"{tensor.name}.single")
    nodes.append(onnx.helper.make_node("DequantizeLinear", names, [single], f"{tensor.name}.unpacked", **attributes))
    nodes += [
        onnx.helper.make_node("Cast", [single], [tensor.name], f"{tensor.name}.cast", to=elem) for elem in storage.casts
    ]
    return stored, nodes


def _single(name: str, output: str) -> onnx.NodeProto:
    return onnx.helper.make_node("Cast", [name], [output], name=output, to=onnx.TensorProto.FLOAT)


def _looked_up_alone(model: onnx.ModelProto, names: Collection[str]) -> set[str]:
    """Return the tables of which nothing is done but looking rows up: of those the rows are unpacked, not the whole."""
    others = {
        name for node in model.graph.node for name in (reads(node) if node.op_type != "Gather" else node.input[1:])
    }
    return {node.input[0] for node in model.graph.node if node.op_type == "Gather" and node.input[0] in names} - others


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """A table in a number format, of which rows and their scales are looked up and multiplied.

    integers (rows, width); of fewer than 8 bits (rows, bytes) of q + half a range, a byte with columns of every part
    of a row, the first part in the lowest bits. scales (rows, 1), or (rows, blocks). more: what else nodes read, by
    name: shifts by so many bits, and so on.
    """

    bits: int
    width: int
    integers: onnx.TensorProto
    scales: onnx.TensorProto
    more: Mapping[str, onnx.TensorProto]

    @property
    def tensors(self) -> tuple[onnx.TensorProto, ...]:
        """What goes to the file."""
        return (self.integers, self.scales, *self.more.values())

    @staticmethod
    def of(tensor: onnx.TensorProto, how: InFormat, fresh: Fresh) -> Rows:
        """Return a stored table (rows, width) in a format, under new names."""

        def named(array: Array, what: str) -> onnx.TensorProto:
            return onnx.numpy_helper.from_array(np.ascontiguousarray(array), fresh(f"{tensor.name}.{what}"))

        found = how.integers(read(tensor).T)
        q, scale = found.q.T, np.asarray(found.scale, np.float32)
        bits, width = how.number.bits, q.shape[1]
        if not how.number.block:
            return Rows(8, width, named(q.astype(np.int8), how.number.name), named(scale[:, None], "scale"), {})
        count, middle = 8 // bits, 2 ** (bits - 1)
        filled = np.pad(q + middle, ((0, 0), (0, -width % count)), constant_values=middle).astype(np.uint8)
        parts = np.stack(np.split(filled, count, axis=1), axis=-1) << (bits * np.arange(count, dtype=np.uint8))
        more = {str(by): named(np.array(by, np.uint8), f"shift{by}") for by in range(bits, 8, bits)}
        more["middle"] = named(np.array(middle, np.float32), "middle")
        if width > how.number.block:
            more["block"] = named(np.arange(width, dtype=np.int32) // how.number.block, "block")
        if width % count:
            more |= {what: named(np.array([at]), what) for what, at in (("first", 0), ("end", width), ("axis", -1))}
        integers = named(np.bitwise_or.reduce(parts, axis=-1).astype(np.uint8), how.number.name)
        return Rows(bits, width, integers, named(scale.T.astype(np.float16), "scale"), more)

    def looked_up(self, node: onnx.NodeProto, fresh: Fresh) -> list[onnx.NodeProto]:
        """Return what stands in the place of a Gather from the table."""
        nodes, out = list[onnx.NodeProto](), node.output[0]
        more = {what: tensor.name for what, tensor in self.more.items()}

        def add(op: str, inputs: Sequence[str], what: str, **attributes: Any) -> str:
            name = fresh(f"{out}.{what}")
            nodes.append(onnx.helper.make_node(op, inputs, [name], name, **attributes))
            return name

        rows = add("Gather", [self.integers.name, node.input[1]], "rows", axis=0)
        scales = add("Gather", [self.scales.name, node.input[1]], "scales", axis=0)
        if "block" in more:
            scales = add("Gather", [scales, more["block"]], "spread", axis=-1)
        if self.bits < 8:
            scales = add("Cast", [scales], "step", to=onnx.TensorProto.FLOAT)
            rows = add("Concat", [self._part(rows, place, add) for place in range(8 // self.bits)], "parts", axis=-1)
        if "end" in more:
            rows = add("Slice", [rows, more["first"], more["end"], more["axis"]], "cut")
        wide = add("Cast", [rows], "float", to=onnx.TensorProto.FLOAT)
        if "middle" in more:
            wide = add("Sub", [wide, more["middle"]], "centred")
        product = onnx.helper.make_node("Mul", [wide, scales], [out], name=node.name)
        product.doc_string = node.doc_string
        return [*nodes, product]

    def _part(self, rows: str, place: int, add: Callable[..., str]) -> str:
        """Return a part of the rows' columns: what is above and below its bits is shifted out."""
        above, below = 8 - self.bits * (place + 1), 8 - self.bits
        if above:
            rows = add("BitShift", [rows, self.more[str(above)].name], f"cleared{place}", direction="LEFT")
        return add("BitShift", [rows, self.more[str(below)].name], f"part{place}", direction="RIGHT")
