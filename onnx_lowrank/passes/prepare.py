"""The passes over a model before its weights are searched for, each checked against what it promises."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from onnx_lowrank.passes.inline_functions import inlined
from onnx_lowrank.passes.lift_body_weights import lifted
from onnx_lowrank.passes.topological_sort import topologically_sorted


class BrokenContractError(AssertionError):
    """A pass did not leave a model as it promises: a bug in the pass, not a fault of the model."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A model whose nodes are in order, whose functions that hold weights are `inlined` (their names), and `moved` of
    whose weights were inside If, Loop or Scan bodies. It computes what the original does.
    """

    model: onnx.ModelProto
    inlined: tuple[str, ...]
    moved: int


def prepared(original: onnx.ModelProto) -> Prepared:
    """Return a model ready to be searched for weights; the original is not changed.

    Requires: onnxruntime loads it. Ensures: inputs, outputs and opsets of the model are the original's, its nodes are
    sorted wherever that is possible, and no function is called that was inlined. Raises BrokenContractError.
    """
    in_order = topologically_sorted(original)
    flat, names = inlined(in_order)
    model, moved = lifted(flat)
    _ensure(original, model, names)
    return Prepared(model, names, moved)


def _ensure(original: onnx.ModelProto, model: onnx.ModelProto, names: tuple[str, ...]) -> None:
    for what in ("input", "output"):
        before, after = ([value.name for value in getattr(proto.graph, what)] for proto in (original, model))
        if before != after:
            raise BrokenContractError(f"the graph's {what}s are {after}, and were {before}")
    left = sorted(set(names) & {function.name for function in model.functions})
    if left:
        raise BrokenContractError(f"functions {left} were inlined, and are still there")
