"""A table in a number format: of its rows those that are looked up are unpacked, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from onnx_lowrank.graph.names import Fresh
from onnx_lowrank.graph.traversal import reads
from onnx_lowrank.passes.rounded_tensor import InFormat
from onnx_lowrank.types import Array
from onnx_lowrank.weights.transforms import read


def looked_up_alone(model: onnx.ModelProto, names: Collection[str]) -> set[str]:
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

        weight = read(tensor).T
        found, block = how.integers(weight), how.grid.at(weight.shape).block
        q, scale = found.q.T, np.asarray(found.scale, np.float32)
        bits, width = how.number.bits, q.shape[1]
        if not how.number.block:
            return Rows(8, width, named(q.astype(np.int8), how.number.name), named(scale[:, None], "scale"), {})
        count, middle = 8 // bits, 2 ** (bits - 1)
        filled = np.pad(q + middle, ((0, 0), (0, -width % count)), constant_values=middle).astype(np.uint8)
        parts = np.stack(np.split(filled, count, axis=1), axis=-1) << (bits * np.arange(count, dtype=np.uint8))
        more = {str(by): named(np.array(by, np.uint8), f"shift{by}") for by in range(bits, 8, bits)}
        more["middle"] = named(np.array(middle, np.float32), "middle")
        if block:
            more["block"] = named(np.arange(width, dtype=np.int32) // block, "block")
        if width % count:
            more |= {what: named(np.array([at]), what) for what, at in (("first", 0), ("end", width), ("axis", -1))}
        integers = named(np.bitwise_or.reduce(parts, axis=-1).astype(np.uint8), how.number.name)
        return Rows(bits, width, integers, named(scale.reshape(-1, len(q)).T.astype(np.float16), "scale"), more)

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
