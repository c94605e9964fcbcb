"""How the factors of a weight are stored: in the weight's own type, behind the same nodes as the weight.

Half precision bounds the range of a factor, integers round relative to what else has the same scale. So before they are
rounded the two sides of every component of a chain are scaled to the same norm, or all of the norm goes to the side
that has a scale for this component alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import onnx

from onnx_lowrank.types import Array, Chain, NumberFormat, Stage
from onnx_lowrank.weights.integer_grid import Grid
from onnx_lowrank.weights.transforms import as_type, tensor_of

ITEMSIZES = {
    int(onnx.TensorProto.FLOAT): 4,
    int(onnx.TensorProto.DOUBLE): 8,
    int(onnx.TensorProto.FLOAT16): 2,
    int(onnx.TensorProto.BFLOAT16): 2,
    int(onnx.TensorProto.INT16): 2,
    int(onnx.TensorProto.INT8): 1,
    int(onnx.TensorProto.UINT8): 1,
}
"""Element type that can be stored -> its bytes."""
ELEMENTS = {
    12: int(onnx.TensorProto.INT16),
    8: int(onnx.TensorProto.INT8),
    4: int(onnx.TensorProto.INT4),
    2: int(onnx.TensorProto.INT2),
}
"""Bits of an integer -> the element type that holds it; of 12 bits two tensors have a part each."""
Laying: TypeAlias = Callable[[Stage], Array]
"""Returns a stage's weight as the operator stores it."""
NARROW = frozenset({int(onnx.TensorProto.FLOAT16), int(onnx.TensorProto.BFLOAT16)})


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A factor in the file: what the operator reads, the tensors, and the nodes in between."""

    name: str
    tensors: tuple[onnx.TensorProto, ...]
    nodes: tuple[onnx.NodeProto, ...] = ()


@dataclass(frozen=True, slots=True)
class Storage:
    """elem: the element type that is stored. casts: the types that Cast nodes make of it, in order.

    grid: of integers; a DequantizeLinear node makes `scale` (an element type) of them, before any cast.
    """

    elem: int
    casts: tuple[int, ...] = ()
    grid: Grid | None = None
    scale: int = 0

    @property
    def arrives(self) -> int:
        """The element type that the operator reads."""
        return self.casts[-1] if self.casts else self.scale or self.elem

    @property
    def itemsize(self) -> int:
        """Bytes of a stored number."""
        return ITEMSIZES[self.elem]

    @property
    def narrow(self) -> bool:
        """Whether rounding to what is stored is more than float32's."""
        return self.grid is not None or not NARROW.isdisjoint((self.elem, *self.casts))

    @property
    def scale_bytes(self) -> int:
        """Bytes of one scale and its zero point."""
        return ITEMSIZES[self.scale] + self.itemsize if self.grid is not None else 0

    def in_format(self, number: NumberFormat, *, looked_up: bool = False, rows: bool = False) -> Storage:
        """Return the storage of the same weight in a format; looked_up, rows: of a table, like `NumberFormat.bytes`."""
        single = int(onnx.TensorProto.FLOAT)
        if number.floating:
            return Storage(int(onnx.TensorProto.FLOAT16), (self.arrives,))
        elem = ELEMENTS[number.bits]
        casts = () if self.arrives == single else (self.arrives,)
        return Storage(elem, casts, Grid.symmetric(number, looked_up=looked_up, rows=rows), single)

    def settled(self, chain: Chain) -> Chain:
        """Return the chain as it is to be stored: balanced where the type is narrow."""
        if not self.narrow:
            return chain
        axis = self.grid.axis if self.grid is not None else None
        if self.grid is not None and self.grid.block and axis is not None:  # blocks run across what one scale is for
            axis = 1 - axis
        return balanced(chain, 0.5 if axis is None else 1.0 - axis)

    def seen(self, chain: Chain) -> Chain:
        """Return the chain that the operators compute with, rounding included, float64."""
        if not self.narrow:
            return chain
        stages = self.settled(chain).stages
        return Chain(tuple(replace(stage, weight=self.rounded(stage.weight).astype(np.float64)) for stage in stages))

    def rounded(self, array: Array) -> Array:
        """Return a stage's numbers as they are once stored and read."""
        if self.grid is not None:
            array = self.grid.seen(array)
        for elem in (self.scale or self.elem, *self.casts):
            array = as_type(array, elem)
        return array

    def store(self, stage: Stage, layout: Laying, hint: str, names: Callable[[str], str]) -> Stored:
        """Return a stage of a settled chain as it goes to the file."""
        if self.grid is not None:
            tensors, nodes = self._integers(self.grid, stage, layout, hint, names)
            name = nodes[-1].output[0]
        else:
            name, nodes = names(hint), []
            tensors = [tensor_of(layout(stage), self.elem, name)]
        for elem in self.casts:
            cast = names(f"{hint}.cast")
            nodes.append(onnx.helper.make_node("Cast", [name], [cast], cast, to=elem))
            name = cast
        return Stored(name, tuple(tensors), tuple(nodes))

    def _integers(
        self, grid: Grid, stage: Stage, layout: Laying, hint: str, names: Callable[[str], str]
    ) -> tuple[list[onnx.TensorProto], list[onnx.NodeProto]]:
        """Return integers, scales and zero points, and the node that makes numbers of them."""
        integers = grid.quantised(stage.weight)
        kind = onnx.helper.tensor_dtype_to_np_dtype(self.elem)
        inputs = [names(hint), names(f"{hint}.scale"), names(f"{hint}.zero")]
        tensors = [
            tensor_of(layout(replace(stage, weight=integers.q)).astype(kind), self.elem, inputs[0]),
            tensor_of(integers.scale, self.scale, inputs[1]),
            tensor_of(integers.zero.astype(kind), self.elem, inputs[2]),
        ]
        attributes: dict[str, Any] = {}
        if grid.axis is not None:  # where the channels are in the operator's own layout
            shape = [2 if axis == grid.axis else 1 for axis in range(stage.weight.ndim)]
            attributes["axis"] = layout(Stage(np.zeros(shape), stage.owns)).shape.index(2)
        output = names(f"{hint}.float")
        return tensors, [onnx.helper.make_node("DequantizeLinear", inputs, [output], output, **attributes)]


def stored_axes(stage: Stage, layout: Laying) -> tuple[int, ...] | None:
    """Return for every axis of what is stored the axis of (out, in, *spatial) that it is; None where one is none."""
    shape, order = stage.weight.shape, list[int]()
    for axis, count in enumerate(shape):
        places = np.arange(count, dtype=np.float32).reshape([-1 if i == axis else 1 for i in range(len(shape))])
        stored = layout(replace(stage, weight=np.broadcast_to(places, shape).copy()))
        if stored.ndim != len(shape):
            return None
        same = [at for at in range(stored.ndim) if stored.shape[at] == count and at not in order]
        found = [at for at in same if bool((np.moveaxis(stored, at, -1) == np.arange(count)).all())]
        if not found:
            return None
        order.append(found[0])
    return tuple(np.argsort(order).tolist())


def packed(integers: Array, bits: int, name: str, *, elem: int = 0) -> onnx.TensorProto:
    """Return a tensor of integers, several in a byte, the first in its lowest bits; elem: the type of unsigned ones."""
    whole = np.ascontiguousarray(integers).astype(np.int8)
    if bits == 8:
        return onnx.numpy_helper.from_array(whole, name)
    count = 8 // bits
    parts = np.append(whole.reshape(-1), np.zeros(-whole.size % count, np.int8)).view(np.uint8) & (2**bits - 1)
    shifted = parts.reshape(-1, count) << (bits * np.arange(count, dtype=np.uint8))
    raw = np.bitwise_or.reduce(shifted, axis=1).astype(np.uint8).tobytes()
    return onnx.helper.make_tensor(name, elem or ELEMENTS[bits], whole.shape, raw, raw=True)


def balanced(chain: Chain, first_share: float) -> Chain:
    """Return the same product with norms evened out: of a component that two stages share, the first has this share.

    In the exponent: with 1/2 both sides have the same norm, with 1 the later side has norm 1.
    """
    weights = [np.asarray(stage.weight, np.float64) for stage in chain.stages]
    for index in range(len(weights) - 1):
        if chain.stages[index].added or chain.stages[index + 1].passed:  # an identity is not scaled
            continue
        groups = chain.stages[index + 1].groups
        first = weights[index]
        last = weights[index + 1]
        blocks = last.reshape(groups, len(last) // groups, last.shape[1], -1)
        before = np.sqrt((first.reshape(len(first), -1) ** 2).sum(1))
        after = np.sqrt((blocks**2).sum((1, 3))).reshape(-1)
        used = (before > 0) & (after > 0)
        scale = np.ones_like(before)
        scale[used] = (before[used] * after[used]) ** first_share / before[used]
        weights[index] = first * scale.reshape(-1, *(1,) * (first.ndim - 1))
        weights[index + 1] = (blocks / scale.reshape(groups, 1, -1, 1)).reshape(last.shape)
    return Chain(tuple(replace(stage, weight=w) for w, stage in zip(weights, chain.stages, strict=True)))
