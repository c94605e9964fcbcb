"""Weights in a number format: the nodes that make floats of them, and the opset that has these nodes.

Weights are rounded in a graph that is otherwise done: what neighbours have taken in another order is rounded in that
order. What is unpacked depends on constants alone, so its nodes come first, and onnxruntime runs them once.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from onnx_lowrank.errors import ModelError, RuntimeProblem
from onnx_lowrank.graph.mapped import tensor_array
from onnx_lowrank.graph.model_io import main_opset
from onnx_lowrank.graph.names import Fresh, all_names
from onnx_lowrank.graph.traversal import reads
from onnx_lowrank.options import Runtime
from onnx_lowrank.passes.rounded_tensor import InFormat
from onnx_lowrank.passes.table_rows import Rows, looked_up_alone
from onnx_lowrank.runtime.runner import Runner, first_line
from onnx_lowrank.types import Array, NumberFormat
from onnx_lowrank.types.number_formats import PACKED, SHORT, WHOLE
from onnx_lowrank.weights.integer_grid import Grid
from onnx_lowrank.weights.storage import Storage, packed
from onnx_lowrank.weights.transforms import read, tensor_of

LARGEST_OFF = 0.05
"""Some kernels round what they read to 8 bits as well; more than this is no rounding."""
PLAIN = {"transA": (0, 0.0), "transB": (0, 0.0), "alpha": (0, 1.0), "beta": (0, 1.0)}
"""What a Gemm's attributes hold, whole and real, where onnxruntime multiplies a packed weight."""
ROWS_OPSET = 13
"""The first opset that has what looks rows of integers up."""
EIGHT, LARGEST_EIGHT = int(onnx.TensorProto.FLOAT8E4M3FN), 8
"""The type of scales of eight bits; with the largest below 2 to that it is a number, whatever its digits."""
MANY = 24
"""So few whole numbers have their own type: what makes them of shorter ones takes as many bytes."""
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
    for name in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        setattr(converted, name, getattr(model, name))
    del converted.metadata_props[:]
    converted.metadata_props.extend(model.metadata_props)
    del converted.graph.value_info[:]  # the converter notes every shape that it finds
    converted.graph.value_info.extend(model.graph.value_info)
    return converted


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
    large = any(math.prod(tensor.dims) >= PACKED for tensor in model.graph.initializer)
    off = 0.0
    try:
        for packed_from in (PACKED, 0)[: 1 + large]:
            copy = onnx.ModelProto.FromString(tried.SerializeToString())
            rounded = in_formats(copy, {"w": InFormat(number, (1, 0))}, packed_from=packed_from)
            found = Runner(rounded, runtime=runtime).run({"x": x})["y"]
            off = max(off, float(np.abs(found - expected).max()) / float(np.abs(expected).max()))
        raised(model, number.opset)
    except (ModelError, RuntimeProblem) as error:
        return str(error)
    return f"it computes something else ({off:.1%} off)" if off > LARGEST_OFF else ""


def in_formats(
    model: onnx.ModelProto,
    chosen: Mapping[str, InFormat],
    *,
    orders: Collection[str] = (),
    packed_from: int = PACKED,
) -> onnx.ModelProto:
    """Return the model with these initializers as integers and scales, and nodes that give floats of their names.

    orders: initializers of whole numbers, which few bits hold as well. packed_from: weights of so many
    numbers stay packed when the model is loaded. It is raised to the opset that the formats need. Raises ModelError
    where onnx cannot do that.
    """
    tables = looked_up_alone(model, {name for name, how in chosen.items() if how.rows and not how.number.floating})
    opset = max(ROWS_OPSET if name in tables else each.number.opset for name, each in chosen.items())
    model = raised(model, opset)
    fresh, tensors, rows = Fresh(all_names(model)), list[onnx.TensorProto](), dict[str, Rows]()
    unpacking = _Unpacking(fresh, packed_from, _multiplied_packed(model, chosen))
    for tensor in model.graph.initializer:
        how = chosen.get(tensor.name)
        if tensor.name in orders:
            unpacking.whole_numbers(tensor)
            continue
        if how is None:
            tensors.append(tensor)
            continue
        if tensor.name in tables:
            rows[tensor.name] = Rows.of(tensor, how, fresh)
            tensors.extend(rows[tensor.name].tensors)
            continue
        unpacking.unpack(tensor, how)
    tensors.extend(unpacking.tensors)
    nodes = unpacking.nodes
    for node in model.graph.node:
        table = rows.get(node.input[0]) if node.op_type == "Gather" else None
        nodes.extend([node] if table is None else table.looked_up(node, fresh))
    others = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    kept = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in tensors]
    stored = {tensor.name for tensor in kept}
    replaced = ({*chosen} | {*orders}) - stored
    for value in [value for value in model.graph.input if value.name in replaced]:  # before IR 4
        model.graph.input.remove(value)
    for entries, new in ((model.graph.node, others), (model.graph.initializer, kept)):
        del entries[:]
        entries.extend(new)
    model.ir_version = max(model.ir_version, IR_VERSIONS[opset])
    return model


@dataclass(eq=False)
class _Unpacking:
    """Nodes that make floats of integers, in the place of initializers, and the tensors that they need.

    Of the weights that onnxruntime multiplies packed, those of `packed_from` numbers and more have a DequantizeLinear
    that it takes into the product; those of operators that multiply integers have one as well. Others are unpacked by
    operators that it runs when it loads a model, so that a call takes no longer than with floats. shapes: what is known
    of shapes and indices, by name.
    """

    fresh: Fresh
    packed_from: int
    multiplied: Collection[str]
    tensors: list[onnx.TensorProto] = field(default_factory=list)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    shapes: dict[tuple[str, tuple[int, ...]], str] = field(default_factory=dict)

    def unpack(self, tensor: onnx.TensorProto, how: InFormat) -> None:
        """Write what gives a tensor of the old name and type."""
        if how.number.floating:
            half = tensor_of(
                read(tensor), int(onnx.TensorProto.FLOAT16), self.fresh(f"{tensor.name}.{how.number.name}")
            )
            self.tensors.append(half)
            self._node("Cast", [half.name], tensor.name, to=tensor.data_type)
            return
        weight = np.transpose(read(tensor), np.argsort(how.order))
        number, grid, integers = how.number, how.grid.at(weight.shape), how.integers(weight)
        storage, axis = Storage(int(tensor.data_type)).in_format(number), how.order.index(grid.axis or 0)
        q, scale = np.transpose(integers.q, how.order), np.asarray(integers.scale, np.float64)
        scale = np.ascontiguousarray(np.transpose(scale, how.order)) if grid.block else scale
        names = [self.fresh(f"{tensor.name}.{number.name}"), f"{tensor.name}.scale"]
        single = tensor.name if not storage.casts else self.fresh(f"{tensor.name}.single")
        packs = q.size >= self.packed_from and tensor.name in self.multiplied and not storage.casts
        if number.activations or (packs and not number.split):
            self.tensors.append(packed(q, number.bits, names[0]))
            names[1] = self._scales(scale, grid, names[1])
            attributes = {"axis": axis} | ({"block_size": grid.block} if grid.block else {})
            self._node("DequantizeLinear", names, single, f"{tensor.name}.unpacked", **attributes)
        else:
            whole = self._floats(q, number, tensor.name, names[0])
            self._multiplied(whole, q.shape, scale, axis, grid, names[1], single)
        for elem in storage.casts:
            self._node("Cast", [single], tensor.name, to=elem)

    def _scales(self, scale: Array, grid: Grid, hint: str) -> str:
        """Write the scales, those of a few digits as eight bits and a power of two, and return what gives floats."""
        name = self.fresh(hint)
        if not grid.digits or scale.size < SHORT:
            kind = grid.scale if scale.size >= SHORT else np.float32
            self.tensors.append(onnx.numpy_helper.from_array(scale.astype(kind), name))
            return name if kind is np.float32 else self._node("Cast", [name], to=onnx.TensorProto.FLOAT)
        power = math.frexp(float(np.abs(scale).max()))[1] - LARGEST_EIGHT
        eight = (scale / 2.0**power).astype(onnx.helper.tensor_dtype_to_np_dtype(EIGHT))
        self.tensors.append(onnx.helper.make_tensor(name, EIGHT, eight.shape, eight.tobytes(), raw=True))
        return self._node("Mul", [self._node("Cast", [name], to=onnx.TensorProto.FLOAT), self._power(power)])

    def _floats(self, q: Array, number: NumberFormat, of: str, name: str) -> str:
        """Write integers, and return what has them as floats; where they fill more than a byte, of two parts."""
        if not number.split:
            self.tensors.append(packed(q, number.bits, name))
            return self._node("Cast", [name], to=onnx.TensorProto.FLOAT)
        high, low = np.divmod(q, 2**number.split)
        rest = self.fresh(f"{of}.low.{number.name}")
        self.tensors.append(packed(high, WHOLE, name))
        self.tensors.append(packed(low, number.split, rest, elem=int(onnx.TensorProto.UINT4)))
        parts = [self._node("Cast", [each], to=onnx.TensorProto.FLOAT) for each in (name, rest)]
        return self._node("Add", [self._node("Mul", [parts[0], self._power(number.split)]), parts[1]])

    def _multiplied(
        self, whole: str, shape: Sequence[int], scale: Array, axis: int, grid: Grid, name: str, output: str
    ) -> None:
        """Write integers times their scales, of which each is for a channel, or for a block of neighbours."""
        block = grid.block
        if not block:
            spread = scale.reshape(-1, *(1,) * (len(shape) - axis - 1))
            self._node("Mul", [whole, self._scales(spread, grid, name)], output)
            return
        if shape[axis] % block == 0:
            step = self._scales(np.expand_dims(scale, axis + 1), grid, name)
            parts = self._known("shape", (*shape[:axis], shape[axis] // block, block, *shape[axis + 1 :]))
            product = self._node("Mul", [self._node("Reshape", [whole, parts]), step])
            self._node("Reshape", [product, self._known("shape", tuple(shape))], output)
            return
        step = self._scales(scale, grid, name)
        of_block = self._known("block", tuple(place // block for place in range(shape[axis])))
        self._node("Mul", [whole, self._node("Gather", [step, of_block], axis=axis)], output)

    def _known(self, what: str, numbers: tuple[int, ...]) -> str:
        """Return the tensor of whole numbers, stored once; what names the block of each is one of bytes."""
        if (what, numbers) not in self.shapes:
            name = self.fresh(f"unpack.{what}")
            short = len(numbers) > MANY and max(numbers) < 2**8
            array = np.array(numbers, np.uint8 if short else np.int64)
            self.tensors.append(onnx.numpy_helper.from_array(array, name))
            self.shapes[what, numbers] = self._node("Cast", [name], to=onnx.TensorProto.INT64) if short else name
        return self.shapes[what, numbers]

    def _power(self, exponent: int) -> str:
        """Return the tensor of a power of two, stored once."""
        if ("power", (exponent,)) not in self.shapes:
            name = self.shapes["power", (exponent,)] = self.fresh("unpack.power")
            self.tensors.append(onnx.numpy_helper.from_array(np.array(2.0**exponent, np.float32), name))
        return self.shapes["power", (exponent,)]

    def whole_numbers(self, tensor: onnx.TensorProto) -> None:
        """Write what gives a tensor of whole numbers of its old name: from shorter ones, where these hold them."""
        numbers = tensor_array(tensor)
        kind = next((kind for kind in (np.uint8, np.uint16) if numbers.max(initial=0) <= np.iinfo(kind).max), None)
        if kind is None or numbers.size <= MANY or numbers.min() < 0:
            self.tensors.append(tensor)
            return
        name = self.fresh(f"{tensor.name}.short")
        self.tensors.append(onnx.numpy_helper.from_array(numbers.astype(kind), name))
        self._node("Cast", [name], tensor.name, to=tensor.data_type)

    def _node(self, op: str, inputs: Sequence[str], output: str = "", name: str = "", **attributes: Any) -> str:
        """Write a node and return its output. Short names: a file has many of them."""
        output = output or self.fresh("u")
        self.nodes.append(onnx.helper.make_node(op, inputs, [output], name, **attributes))
        return output


def _multiplied_packed(model: onnx.ModelProto, names: Collection[str]) -> set[str]:
    """Return the weights that onnxruntime multiplies as they are stored: MatMul's, and plain Gemm's.

    For others a DequantizeLinear would run at every call.
    """
    others, taken = set[str](), set[str]()
    for node in model.graph.node:
        plain = all((int(a.i), float(a.f)) == PLAIN[a.name] for a in node.attribute if a.name in PLAIN)
        packed = node.op_type == "MatMul" or (node.op_type == "Gemm" and plain)
        for place, name in enumerate(reads(node)):
            (taken if packed and place == 1 else others).add(name)
    return (taken - others) & set(names)
