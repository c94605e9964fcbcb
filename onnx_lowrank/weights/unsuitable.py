"""Weights that every operator accepts and that still cannot be factored: unused, or not finite."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeAlias

import numpy as np
import onnx

from onnx_lowrank.graph.traversal import inner_graphs
from onnx_lowrank.graph.view import Use
from onnx_lowrank.ops import first_output
from onnx_lowrank.types import Array, Why

NodePlace: TypeAlias = tuple[str, str]
"""The body that a node is in, as `graph.bodies` calls it, and the node's first output."""


def useful_nodes(model: onnx.ModelProto) -> frozenset[NodePlace]:
    """Return the nodes that the model's outputs depend on; onnxruntime drops the others, and so does a gradient."""
    places: set[NodePlace] = set()
    _walk(model.graph, "", places)
    return frozenset(places)


def _walk(graph: onnx.GraphProto, body: str, places: set[NodePlace]) -> set[str]:
    """Add the nodes of a graph, last first, and of the bodies in them. Return all names that they read."""
    wanted = {value.name for value in graph.output}
    for node in reversed(graph.node):
        if wanted.isdisjoint(node.output):
            continue
        places.add((body, first_output(node)))
        wanted.update(name for name in node.input if name)
        for name, inner in inner_graphs(node, f"{body} > " if body else ""):
            wanted |= _walk(inner, name, places)
    return wanted


def leads_nowhere(uses: Sequence[Use], places: Collection[NodePlace]) -> tuple[Why, str] | None:
    """Return that no output depends on a weight; None where one does. `places`: the result of `useful_nodes`."""
    if not uses or any((use.body, first_output(use.node)) in places for use in uses):
        return None
    return Why.NOWHERE, "no output depends on it"


def not_finite(*forms: Array) -> tuple[Why, str] | None:
    """Return that a weight holds NaN or Inf, and how often; else None. `forms`: as stored, as it arrives."""
    for weight in forms:
        sound = np.isfinite(weight)
        if not sound.all():
            missing = int(np.isnan(weight).sum())
            infinite = int(sound.size - sound.sum()) - missing
            counts = [f"{count:,} {name}" for count, name in ((missing, "NaN"), (infinite, "Inf")) if count]
            return Why.NOT_FINITE, f"{' and '.join(counts)} among {weight.size:,} numbers"
    return None
