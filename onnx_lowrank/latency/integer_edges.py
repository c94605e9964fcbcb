"""Where integers have to become numbers, and numbers integers, whatever is chosen: what surely stands around a node.

A convolution in integers whose neighbours compute in integers, too, reads and gives integers, through what onnxruntime
carries them through. Next to an operator that is never in integers it rounds what it reads itself, or numbers are made
of what it gives, and both take time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import onnx

from onnx_lowrank.graph.constants import fixed_constants
from onnx_lowrank.graph.traversal import readers_of
from onnx_lowrank.passes.integer_arithmetic import FOLDED

AFFINE = ("BatchNormalization", "Mul", "Div", "Add", "Sub")
"""Part of the convolution directly before it where the rest is constant (`passes/taken_in`)."""
THROUGH = (*FOLDED, "Pad", "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze")
"""Part of the operator before or behind, or done by onnxruntime to integers as they are."""


@dataclass(frozen=True, eq=False)
class IntegerEdges:
    """Of a model in which some convolutions may compute in integers: their outputs -> what they read."""

    model: onnx.ModelProto
    convolutions: Mapping[str, str]
    _known: dict[str, bool] = field(default_factory=dict)

    def reads_floats(self, data: str) -> bool:
        """Return whether what a convolution reads is surely no integers: it has to round it."""
        return not self._integers(data)

    def gives_floats(self, output: str) -> bool:
        """Return whether what a convolution gives surely has to become numbers: some reader takes no integers."""
        if output in self._outputs:
            return True
        return any(self._takes_floats(node, output) for node in self._readers.get(output, ()))

    @cached_property
    def _makers(self) -> Mapping[str, onnx.NodeProto]:
        return {name: node for node in self.model.graph.node for name in node.output if name}

    @cached_property
    def _readers(self) -> Mapping[str, list[onnx.NodeProto]]:
        return readers_of(self.model.graph)

    @cached_property
    def _outputs(self) -> set[str]:
        return {value.name for value in self.model.graph.output}

    @cached_property
    def _constants(self) -> set[str]:
        return set(fixed_constants(self.model))

    def _integers(self, tensor: str) -> bool:
        """Return whether a tensor may be integers: convolutions alone gave it, or sums of what they gave."""
        if tensor not in self._known:
            self._known[tensor] = self._made_of_integers(tensor)
        return self._known[tensor]

    def _made_of_integers(self, tensor: str) -> bool:
        node = self._makers.get(tensor)
        if self._convolved(tensor):
            return True
        if node is None:
            return False
        if node.op_type in THROUGH:
            return self._integers(node.input[0])
        return node.op_type == "Add" and all(self._integers(name) for name in node.input)

    def _convolved(self, tensor: str) -> bool:
        """Return whether a convolution gives a tensor, with what stands directly behind it."""
        node = self._makers.get(tensor)
        if tensor in self.convolutions or node is None or node.op_type not in AFFINE:
            return tensor in self.convolutions
        computed = [name for name in node.input if name and name not in self._constants]
        return len(computed) == 1 and self._convolved(computed[0])

    def _takes_floats(self, node: onnx.NodeProto, tensor: str) -> bool:
        output = node.output[0]
        if output in self.convolutions:
            return self.convolutions[output] != tensor
        if node.op_type in THROUGH or self._convolved(output):
            return self.gives_floats(output)
        return not (node.op_type == "Add" and self._integers(output))
