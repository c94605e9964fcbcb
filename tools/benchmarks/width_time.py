"""Time of part "width": graphs as pairs, interpolative factors and narrower maps would be written, at equal size.

Every place between two maps keeps the same share; the heads of an attention, and all other weights, stay as they are.
What is stored counts for time, not its values; but the narrower model is checked against the one with dense products.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from benchmarks import width_curves
from benchmarks import workbench as wb
from benchmarks.lines import Line
from benchmarks.width_curves import Collection, Curve
from benchmarks.width_units import Array
from benchmarks.wording import percent, table, with_interval
from benchmarks.workbench import Workbench

MULTIPLE, SECONDS, CHECKED = 8, 8.0, 4
KINDS = ("pairs", "interpolative", "width")


def measure(bench: Workbench, share: float) -> Line:
    """Return the time of every kind over the original's, one sample a call."""
    there = bench.once(width_curves.collect)
    timed: dict[str, Any] = {}
    for kind in KINDS:
        model, kept = (
            _narrow(bench, there, share) if kind == "width" else _ranked(there, share, kind == "interpolative")
        )
        timed[kind] = {"parameters": kept, **bench.timed(model, threads=1, seconds=SECONDS)}
    return {"share": share, "kinds": timed}


def section(data: Line) -> list[str]:
    rows = [
        (kind, percent(own["parameters"]), with_interval(own["latency"], 3), str(own["pairs"]))
        for kind, own in data["kinds"].items()
    ]
    return table(("time ÷ the original's, one thread, one sample", "kept there", "ratio", "pairs of runs"), rows)


def _between(there: Collection) -> list[tuple[int, Curve]]:
    """Return the places whose units lie between maps, each with its first form."""
    curves = there.curves["greedy"]
    return [(i, own[0]) for i, own in enumerate(curves) if own[0].form.name != "heads"]


def _narrow(bench: Workbench, there: Collection, share: float) -> tuple[onnx.ModelProto, float]:
    model = onnx.ModelProto()
    model.CopyFrom(there.session.loaded.model)
    graph = _Graph(model)
    size, whole, dense = 0.0, 0.0, dict[str, Array]()
    for i, curve in _between(there):
        place, form = there.places[i], curve.form
        count = min(max(round(share * form.of / form.step), 1) * form.step, form.of - form.step)
        (projection,) = curve.make(count)
        units, write = projection.read[0], projection.write[0]
        *before, last = (there.sites[weight] for weight in place.weights)
        dense |= there.narrowed(i, curve, count)
        d = last.shape[1]
        for site in before:
            node = graph.made[site.id]
            graph.slice(node, d, units)
        for name in place.between:
            graph.slice(graph.made[name], d, units)
        columns = np.einsum("oi...,ik->ok...", there.weight(last.id), write)
        graph.set(graph.made[last.id], last, there, columns)
        size += sum(s * site.parameters for s, site in zip(form.share(count / form.of), (*before, last), strict=True))
        whole += sum(site.parameters for site in (*before, last))
    _check(bench, there, model, dense)
    return model, size / whole


def _check(bench: Workbench, there: Collection, model: onnx.ModelProto, dense: dict[str, Array]) -> None:
    """Raise where the narrower model does not compute what the one with dense products does."""
    from benchmarks.width import with_dense

    first, second = bench.runner(model), bench.runner(with_dense(there, dense))
    for feed in bench.samples(bench.entry.validation).feeds[:CHECKED]:
        for name, value in second.run(feed).items():
            other = first.run(feed)[name]
            if np.linalg.norm(other - value) > 1e-3 * np.linalg.norm(value):
                raise wb.WorkbenchError(f"{name}: the narrower model computes something else")


def _ranked(there: Collection, share: float, identity: bool) -> tuple[onnx.ModelProto, float]:
    """Return every weight around units but grouped ones at one share, so that all keep `share` together."""
    model = onnx.ModelProto()
    model.CopyFrom(there.session.loaded.model)
    graph, rng = _Graph(model), np.random.default_rng(0)
    sites = [there.sites[weight] for i, _ in _between(there) for weight in there.places[i].weights]
    free = [site for site in sites if site.groups == 1 and np.prod(site.shape[2:]) == 1]
    whole = sum(site.parameters for site in sites)
    own = sum(site.parameters for site in free)
    each, size = 1 - (1 - share) * whole / own, float(whole - own)
    for site in free:
        m, n = site.shape[:2]
        goal = each * m * n
        rank = (m + n - np.sqrt((m + n) ** 2 - 4 * goal)) / 2 if identity else goal / (m + n)
        rank = min(max(round(rank / MULTIPLE), 1) * MULTIPLE, min(m, n) - MULTIPLE)
        graph.split(site, rank, identity, rng)
        size += rank * (m + n - (rank if identity else 0))
    return model, size / whole


class _Graph:
    """A model whose nodes and initializers are replaced in place."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.made = {node.output[0]: node for node in model.graph.node}
        self.stored = {tensor.name: tensor for tensor in model.graph.initializer}

    def value(self, name: str) -> Array:
        return np.asarray(onnx.numpy_helper.to_array(self.stored[name]))

    def put(self, name: str, value: Array) -> None:
        tensor = onnx.numpy_helper.from_array(np.ascontiguousarray(value), name)
        if name in self.stored:
            self.stored[name].CopyFrom(tensor)
        else:
            self.graph.initializer.append(tensor)

    def slice(self, node: onnx.NodeProto, size: int, units: Array) -> None:
        """Keep some of the channels that a node makes or passes on."""
        for slot, name in enumerate(node.input):
            if name not in self.stored:
                continue
            value = self.value(name)
            if size not in value.shape:
                continue
            axis = value.ndim - 1 if node.op_type == "MatMul" else value.shape.index(size)
            if node.op_type == "Conv" and slot == 1:
                axis = 0
                for attribute in node.attribute:
                    if attribute.name == "group" and attribute.i > 1:
                        attribute.i = len(units) * attribute.i // size
            self.put(name, np.take(value, units, axis))

    def set(self, node: onnx.NodeProto, site: Any, there: Collection, weight: Array) -> None:
        """Replace a site's weight (out, in, *kernel), whatever its shape."""
        name = site.weight
        old = self.value(name)
        value = (
            weight.T
            if node.op_type == "MatMul" or (node.op_type == "Gemm" and old.shape[1] == site.shape[0])
            else weight
        )
        self.put(name, value.astype(old.dtype))

    def split(self, site: Any, rank: int, identity: bool, rng: np.random.Generator) -> None:
        """Write a node as two: of `rank` rows, then of all rows, or (`identity`) of the others behind the first."""
        node = next(node for node in self.graph.node if node.output[0] == site.id)
        pointwise = node.op_type == "Conv"
        weight = self.value(site.weight)
        rows = site.shape[0]
        left = rows - rank if identity else rows
        first, second = f"{site.id}.first", f"{site.id}.second"
        rest = (rng.standard_normal((left, rank)) / np.sqrt(rank)).astype(np.float32)
        across = pointwise or (node.op_type == "Gemm" and weight.shape[0] == rows)
        self.put(f"{first}.weight", weight[:rank] if across else weight[:, :rank])
        self.put(f"{second}.weight", rest.reshape(*rest.shape, 1, 1) if pointwise else rest if across else rest.T)
        bias = list(node.input[2:])
        made = onnx.NodeProto()
        made.CopyFrom(node)
        own = self.value(bias[0]) if bias else None
        del made.input[1:], made.output[:]
        made.input.append(f"{first}.weight")
        if own is not None and identity:
            self.put(f"{first}.bias", own[:rank])
            made.input.append(f"{first}.bias")
        made.output.append(first)
        end = second if identity else site.id
        inputs = [first, f"{second}.weight"]
        if own is not None:
            self.put(f"{second}.bias", own[rank:] if identity else own)
            inputs.append(f"{second}.bias")
        attributes = (
            {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} if node.op_type == "Gemm" else {}
        )
        nodes = [made, onnx.helper.make_node(node.op_type, inputs, [end], **attributes)]
        if identity:
            axis = 1 if pointwise else -1
            nodes.append(onnx.helper.make_node("Concat", [first, second], [site.id], axis=axis))
        _replace(self.graph, node, nodes)


def _replace(graph: onnx.GraphProto, node: onnx.NodeProto, nodes: Sequence[onnx.NodeProto]) -> None:
    at = next(i for i, other in enumerate(graph.node) if other.output[0] == node.output[0])
    kept = [*graph.node[:at], *nodes, *graph.node[at + 1 :]]
    copies = []
    for each in kept:
        copy = onnx.NodeProto()
        copy.CopyFrom(each)
        copies.append(copy)
    del graph.node[:]
    graph.node.extend(copies)
