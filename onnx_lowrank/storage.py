"""How the factors of a weight are stored: in the type that the weight had, behind the nodes that it came through.

Narrow types get factors of one size: rounding is relative to what else is in the tensor (integers) or bounded by its
range (fp16), so the two sides of every component of a chain are scaled to the same norm before they are cast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnx_lowrank.ops import Call, Names, operator
from onnx_lowrank.steps import as_type, tensor_of
from onnx_lowrank.types import Array, Chain, Stage

ITEMSIZES = {
    int(onnx.TensorProto.FLOAT): 4,
    int(onnx.TensorProto.DOUBLE): 8,
    int(onnx.TensorProto.FLOAT16): 2,
    int(onnx.TensorProto.BFLOAT16): 2,
}
"""Element type that can be stored -> its bytes."""
NARROW = frozenset({int(onnx.TensorProto.FLOAT16), int(onnx.TensorProto.BFLOAT16)})


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A factor in the file: what the operator reads, the tensors, and the nodes in between."""

    name: str
    tensors: tuple[onnx.TensorProto, ...]
    nodes: tuple[onnx.NodeProto, ...] = ()


@dataclass(frozen=True, slots=True)
class Storage:
    """elem: the element type that is stored. casts: the types that Cast nodes make of it, in order."""

    elem: int
    casts: tuple[int, ...] = ()

    @property
    def arrives(self) -> int:
        """The element type that the operator reads."""
        return self.casts[-1] if self.casts else self.elem

    @property
    def itemsize(self) -> int:
        """Bytes of a stored number."""
        return ITEMSIZES[self.elem]

    @property
    def narrow(self) -> bool:
        """Whether rounding to what is stored is more than float32's."""
        return not NARROW.isdisjoint((self.elem, *self.casts))

    def settled(self, chain: Chain) -> Chain:
        """Return the chain as it is to be stored: balanced where the type is narrow."""
        return balanced(chain) if self.narrow else chain

    def seen(self, call: Call, chain: Chain) -> Chain:
        """Return the chain that the operators compute with, rounding included, float64."""
        if not self.narrow:
            return chain
        stages = self.settled(chain).stages
        return Chain(tuple(Stage(self._rounded(stage.weight).astype(np.float64), stage.owns) for stage in stages))

    def _rounded(self, array: Array) -> Array:
        for elem in (self.elem, *self.casts):
            array = as_type(array, elem)
        return array

    def store(self, call: Call, stage: Stage, hint: str, names: Names) -> Stored:
        """Return a stage of a settled chain as it goes to the file."""
        name = names(hint)
        tensor = tensor_of(operator(call).stored(call, stage), self.elem, name)
        nodes: list[onnx.NodeProto] = []
        for elem in self.casts:
            made = names(f"{hint}.cast")
            nodes.append(onnx.helper.make_node("Cast", [name], [made], made, to=elem))
            name = made
        return Stored(name, (tensor,), tuple(nodes))


def balanced(chain: Chain) -> Chain:
    """Return the same product with equal norms on both sides of every component that two stages share."""
    weights = [np.asarray(stage.weight, np.float64) for stage in chain.stages]
    for index in range(len(weights) - 1):
        first, last = weights[index : index + 2]
        before = np.sqrt((first.reshape(len(first), -1) ** 2).sum(1))
        after = np.sqrt((np.moveaxis(last, 1, 0).reshape(last.shape[1], -1) ** 2).sum(1))
        used = (before > 0) & (after > 0)
        scale = np.sqrt(np.divide(after, before, out=np.ones_like(before), where=used))
        scale[~used] = 1.0
        weights[index] = first * scale.reshape(-1, *(1,) * (first.ndim - 1))
        weights[index + 1] = last / scale.reshape(1, -1, *(1,) * (last.ndim - 2))
    return Chain(tuple(Stage(w, stage.owns) for w, stage in zip(weights, chain.stages, strict=True)))


def product(stages: Sequence[Stage]) -> Array:
    """Return the kernel (out, in, *spatial) that a chain stands for, float64."""
    result = _kernel_first(stages[0])
    for stage in stages[1:]:
        result = _kernel_first(stage) @ result
    return np.moveaxis(result, (-2, -1), (0, 1))


def _kernel_first(stage: Stage) -> Array:
    return np.moveaxis(np.asarray(stage.weight, np.float64), (0, 1), (-2, -1))
