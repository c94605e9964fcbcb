"""A gradient graph in onnxruntime: forward, the loss in numpy, backward; the forward runs once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx

from onnx_lowrank.gradient.build import GradientGraph
from onnx_lowrank.gradient.split import split_gradient
from onnx_lowrank.model_io import PROTOBUF_LIMIT
from onnx_lowrank.runtime import Runner, array_of
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


class GradientRunner:
    """Runs a gradient graph in two halves. `keep` names forward tensors (a site's input, say) to return as well.

    release: the graph is not used again, so its weights may go.
    """

    def __init__(
        self,
        graph: GradientGraph,
        *,
        keep: Sequence[str] = (),
        provider: str = "auto",
        threads: int = 0,
        release: bool = False,
    ) -> None:
        split = split_gradient(graph, keep)
        self._residuals, self._seeds, self._gradients = split.residuals, split.seeds, split.gradients
        names, backward = [value.name for value in graph.model.graph.output], _packed(split.backward)
        forward = _packed(split.forward)
        del split
        if release:  # three copies of the weights less while the sessions make their own
            del graph.model.graph.initializer[:]
        self._forward = Runner(forward, provider=provider, threads=threads, arena=False)
        del forward
        self._backward = Runner(backward, provider=provider, threads=threads, arena=False)
        hidden = set(self._residuals) - set(keep) - set(graph.seeds)
        declared = set(names)
        self._visible = [name for name in self._forward.names if name in declared or name not in hidden]

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


def _packed(model: onnx.ModelProto) -> onnx.ModelProto | bytes:
    """Return the model as the bytes that a session reads, where protobuf can write so many."""
    return model.SerializeToString() if model.ByteSize() < PROTOBUF_LIMIT else model
