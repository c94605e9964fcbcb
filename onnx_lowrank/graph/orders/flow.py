"""How far an order of channels reaches: from a tensor to all that makes or reads it, and on.

What reads a tensor in another order has to follow, and what makes it has to give it so. Both end where a stored weight
can be rearranged instead. A region is all of that; where one node on the way would see the order, there is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import onnx

from onnx_lowrank.graph.orders.behind import Stored, changes_for
from onnx_lowrank.graph.orders.folding import folded
from onnx_lowrank.graph.orders.region import Edit, Region, Seen, SeenError
from onnx_lowrank.graph.orders.shapes import Dims, stored_dims, tensor_dims
from onnx_lowrank.graph.orders.table import rule_of
from onnx_lowrank.graph.orders.touch import Touch, place, stored_numbers
from onnx_lowrank.graph.traversal import reads
from onnx_lowrank.graph.view import read_graph

SCOPED_IR = 4
"""Before, every initializer is listed as an input, and none can be replaced."""


class OrderFlow:
    """A model whose nodes are in topological order, ready to be asked which orders are free. It is not changed.

    dims: as `tensor_dims` returns them, where they are known already.
    """

    def __init__(self, model: onnx.ModelProto, dims: Mapping[str, Dims] | None = None) -> None:
        graph = model.graph
        self._functions = {(function.domain, function.name) for function in model.functions}
        self._returned = frozenset(value.name for value in graph.output)
        listed = frozenset(value.name for value in graph.input) if model.ir_version >= SCOPED_IR else frozenset()
        known = {**(tensor_dims(model) if dims is None else dims), **stored_dims(model)}
        self._stored = Stored(read_graph(model), known, self._returned | listed)
        self._folded = partial(folded, model, stored_numbers(model))
        self.nodes = {place(node): node for node in graph.node}
        self._makers = {name: node for node in graph.node for name in node.output if name}
        self._readers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        self._inner: set[str] = set()
        self._closed: dict[tuple[str, int], str] = {}
        for node in graph.node:
            for slot, name in enumerate(node.input):
                self._readers.setdefault(name, []).append((node, slot))
            self._inner.update(reads(node)[sum(map(bool, node.input)) :])

    def after(self, tensor: str, axis: int, size: int) -> Region | Seen:
        """Return what follows when the node that makes `tensor` gives its `size` channels in another order.

        axis: of either count. That node is not asked: it is what changes the order.
        """
        return self._region(tensor, axis, size, maker=True)

    def before(self, tensor: str, axis: int, size: int, reader: str) -> Region | Seen:
        """Return what follows when one node (by its first output) wants the channels of `tensor` in another order.

        axis: of either count. What makes the tensor, and all others that read it, are asked.
        """
        return self._region(tensor, axis, size, reader=reader)

    def returned(self, tensor: str) -> bool:
        """Return whether a tensor is an output of the graph, or read in a body."""
        return tensor in self._returned or tensor in self._inner

    def read(self, tensor: str) -> bool:
        """Return whether anything reads a tensor."""
        return tensor in self._readers or self.returned(tensor)

    def _region(self, tensor: str, axis: int, size: int, *, maker: bool = False, reader: str = "") -> Region | Seen:
        walk = _Walk(size)
        try:
            walk.carry(tensor, _from_end(tensor, axis, size, self._stored.dims.get(tensor)))
            while walk.waiting:
                name = walk.waiting.pop()
                first = name == tensor
                if not first and (name, walk.axes[name]) in self._closed:
                    raise SeenError(self._closed[name, walk.axes[name]])
                self._visit(walk, name, maker=maker and first, reader=reader if first else "")
            return Region(walk.axes, frozenset(walk.edits), changes_for(self._stored, self.nodes, walk.edits))
        except SeenError as error:  # who comes by any of these tensors comes to the same end: nobody walks there again
            self._closed.update({place: str(error) for place in walk.axes.items() if place[0] != tensor})
            return Seen(str(error))

    def _visit(self, walk: _Walk, name: str, *, maker: bool, reader: str) -> None:
        """Ask what makes a tensor (`maker`: not asked) and all that read it, but `reader`."""
        if name in self._returned:
            raise SeenError(f"{name!r} is an output of the graph")
        if name in self._inner:
            raise SeenError(f"{name!r} is read in a body")
        if not maker:
            if name not in self._makers:
                raise SeenError(f"{name!r} is an input of the graph")
            self._touch(walk, self._makers[name], None, name)
        for node, slot in self._readers.get(name, ()):
            if not reader or place(node) != reader:
                self._touch(walk, node, slot, name)

    def _touch(self, walk: _Walk, node: onnx.NodeProto, slot: int | None, name: str) -> None:
        rule = None if (node.domain, node.op_type) in self._functions else rule_of(node)
        if rule is None:
            raise SeenError(f"{node.op_type} may see the order of {name!r}")
        if any(self.read(other) for other in node.output[1:] if other):
            raise SeenError(f"a second output of {node.op_type} is read")
        view = self._stored.view
        facts = (self._stored.dims, view.constant.keys(), self._folded, walk.axes)
        effects = rule(Touch(node, slot, walk.axes[name], walk.size, *facts))
        for tensor, axis in effects.carried:
            walk.carry(tensor, axis)
        walk.edits.update(effects.edits)


def _from_end(tensor: str, axis: int, size: int, dims: Dims | None) -> int:
    """Return an axis of either count, from the end. Raises SeenError where `size` channels cannot lie along it."""
    if dims is None:
        if axis >= 0:
            raise SeenError(f"the shape of {tensor!r} is not known")
        return axis
    if not -len(dims) <= axis < len(dims) or dims[axis] not in (size, None):
        raise SeenError(f"{tensor!r} has no {size} channels on axis {axis}")
    return axis if axis < 0 else axis - len(dims)


@dataclass(slots=True, eq=False)
class _Walk:
    """What has been reached: tensors with their axes, edits; and the tensors that wait to be visited."""

    size: int
    axes: dict[str, int] = field(default_factory=dict)
    edits: set[Edit] = field(default_factory=set)
    waiting: list[str] = field(default_factory=list)

    def carry(self, tensor: str, axis: int) -> None:
        """Note that a tensor is in the order. Raises SeenError where it is along another axis already."""
        if tensor not in self.axes:
            self.axes[tensor] = axis
            self.waiting.append(tensor)
        if self.axes[tensor] != axis:
            raise SeenError(f"{tensor!r} has the order on two axes")
