"""Where integers have to become numbers, and numbers integers, whatever is chosen: what surely stands around a node.

A convolution in integers whose neighbours compute in integers, too, reads and gives integers, through what onnxruntime
carries them through. Next to an operator that is never in integers it rounds what it reads itself, or numbers are made
of what it gives, and both take time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import onnx

from onnx_lowrank.graph.traversal import reads

FOLDED = ("Relu", "Clip")
"""Part of the operator before."""
PADS, AFFINE = "Pad", "BatchNormalization"
"""Part of a convolution: before it, and directly behind it."""
THROUGH = ("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze")
"""What onnxruntime does to integers as they are."""


@dataclass(frozen=True, eq=False)
class IntegerEdges:
    """Of a model in which some convolutions may compute in integers: their outputs -> what they read."""

    model: onnx.ModelProto
    convolutions: Mapping[str, str]

    def reads_floats(self, data: str) -> bool:
        """Return whether what a convolution reads is surely no integers: it has to round it."""
        return not self._integers(data)

    def gives_floats(self, output: str) -> bool:
        """Return whether what a convolution gives surely has to become numbers: some reader takes no integers."""
        return self._floats_behind(output)

    @cached_property
    def _makers(self) -> Mapping[str, onnx.NodeProto]:
        return {name: node for node in self.model.graph.node for name in node.output if name}

    @cached_property
    def _readers(self) -> Mapping[str, list[onnx.NodeProto]]:
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self.model.graph.node:
            for name in dict.fromkeys(reads(node)):
                found.setdefault(name, []).append(node)
        return found

    def _integers(self, tensor: str) -> bool:
        """Return whether a tensor may be integers: convolutions alone gave it, or sums of what they gave."""
        if tensor in self.convolutions:
            return True
        node = self._makers.get(tensor)
        if node is None:
            return False
        if node.op_type in (*FOLDED, *THROUGH, PADS):
            return self._integers(node.input[0])
        if node.op_type == AFFINE:
            return node.input[0] in self.convolutions
        return node.op_type == "Add" and all(self._integers(name) for name in node.input)

    def _floats_behind(self, tensor: str) -> bool:
        if tensor in {value.name for value in self.model.graph.output}:
            return True
        return any(self._takes_floats(node, tensor) for node in self._readers.get(tensor, ()))

    def _takes_floats(self, node: onnx.NodeProto, tensor: str) -> bool:
        output = node.output[0]
        if output in self.convolutions:
            return self.convolutions[output] != tensor
        behind = node.op_type == AFFINE and tensor in self.convolutions
        if behind or node.op_type in (*FOLDED, *THROUGH, PADS):
            return self._floats_behind(output)
        return not (node.op_type == "Add" and self._integers(output))
