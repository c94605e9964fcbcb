"""A gradient graph in onnxruntime: forward, the loss in numpy, backward; the forward runs once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx

from onnx_lowrank.gradient.build import GradientGraph
from onnx_lowrank.gradient.forward_backward_split import split_gradient
from onnx_lowrank.graph.large import fits_protobuf
from onnx_lowrank.options import Runtime
from onnx_lowrank.runtime.runner import DEFAULT, Runner, array_of
from onnx_lowrank.types import Array, Feed

Seeds: TypeAlias = Mapping[str, Array]
"""Differentiated output -> gradient of the loss there; what is left out is zero."""
Head: TypeAlias = Callable[[Mapping[str, Array]], Seeds]
"""(forward values: the model's outputs, the differentiated ones and what is kept) -> seeds. Any loss is one."""


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """What one run found: `values` of the forward graph, and the gradient at every reached target."""

    values: Mapping[str, Array]
    gradients: Mapping[str, Array]


@dataclass(slots=True, eq=False)
class Packed:
    """A gradient graph's two halves as the bytes that sessions read, so that the graph itself can be let go.

    visible: forward tensors that a run returns.
    """

    forward: onnx.ModelProto | bytes
    backward: onnx.ModelProto | bytes
    residuals: tuple[str, ...]
    seeds: Mapping[str, str]
    gradients: Mapping[str, str]
    visible: tuple[str, ...]


def pack(graph: GradientGraph, keep: Sequence[str] = ()) -> Packed:
    """Return both halves; `keep` names forward tensors (a site's input, say) that a run returns as well."""
    split = split_gradient(graph, keep)
    declared = {value.name for value in graph.model.graph.output}
    hidden = set(split.residuals) - set(keep) - set(graph.seeds)
    names = [value.name for value in split.forward.graph.output]
    visible = tuple(name for name in names if name in declared or name not in hidden)
    halves = (_bytes(split.forward), _bytes(split.backward))
    return Packed(*halves, split.residuals, split.seeds, split.gradients, visible)


class GradientRunner:
    """Runs a gradient graph in two halves. `given`: the graph, or what `pack` made of it, which is emptied."""

    def __init__(self, given: GradientGraph | Packed, *, keep: Sequence[str] = (), runtime: Runtime = DEFAULT) -> None:
        packed = pack(given, keep) if isinstance(given, GradientGraph) else given
        self._forward = Runner(packed.forward, runtime=runtime, arena=False)
        packed.forward = b""  # the session has the weights: no second copy stays
        self._backward = Runner(packed.backward, runtime=runtime, arena=False)
        packed.backward = b""
        self._residuals, self._seeds, self._gradients = packed.residuals, packed.seeds, packed.gradients
        self._visible = packed.visible

    def run(self, feed: Feed, head: Head) -> Pass:
        """Return values and gradients for one batch. Raises RuntimeProblem where onnxruntime cannot run it."""
        found = self._forward.run_values(feed)
        values = {name: array_of(found[name]) for name in self._visible}
        seeds = head(values)
        given = {
            seed: np.asarray(seeds[name] if name in seeds else np.zeros_like(values[name]))
            for name, seed in self._seeds.items()
        }
        handed = {name: found.pop(name) for name in self._residuals}
        found.clear()
        gradients = self._backward.run_values({**given, **handed})
        return Pass(values, {t: array_of(gradients[name]) for t, name in self._gradients.items()})


def _bytes(model: onnx.ModelProto) -> onnx.ModelProto | bytes:
    """Return the model as the bytes that a session reads, where protobuf can write so many."""
    return model.SerializeToString() if fits_protobuf(model) else model
