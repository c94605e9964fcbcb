"""Small ONNX models for tests, built with numpy. Nothing here has a default seed, tolerance or size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_lowrank.collection import ObservedPositions, observe_positions, stream_moments
from onnx_lowrank.options import Options, Runtime
from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.samples import Samples
from onnx_lowrank.schemes import SCHEMES, Factors, by_name, interpolated
from onnx_lowrank.schemes.interpolative import sides_of
from onnx_lowrank.types import Array, Chain, Choice, Cost, Feed, Form, Moments, Option, Plan, Ranks, SideName, Site
from onnx_lowrank.weights.find import find_sites
from onnx_lowrank.weights.inventory import Inventory
from onnx_lowrank.weights.transforms import tensor_of

OPSET = 17
IR = 8
ANY = object()
"""In a shape: a dimension of unknown size."""


def value(name: str, shape: Sequence[Any], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, [None if size is ANY else size for size in shape])


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], name: str = "", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), list(outputs), name or None, None, attributes.pop("domain", None),
                            None, **attributes)  # fmt: skip


def constant(name: str, array: Array) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array, f"{name}_value"))


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Mapping[str, Array],
    *,
    opset: int = OPSET,
    ir: int = IR,
    domains: Mapping[str, int] | None = None,
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """Return a model; with IR 3 its initializers are listed as inputs, as they had to be then."""
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    listed = list(inputs)
    if ir < 4:
        listed += [value(t.name, list(t.dims), t.data_type) for t in tensors]
    graph = helper.make_graph(list(nodes), "graph", listed, list(outputs), tensors)
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, v) for d, v in (domains or {}).items())]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir, functions=list(functions))


def weight(shape: tuple[int, ...], seed: int, *, rank: int | None = None) -> Array:
    """Return float32 numbers of variance 1 / fan-in; with `rank` the (out, in · k) matrix has just that."""
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((shape[0], int(np.prod(shape[1:]))))
    if rank is not None:
        matrix = rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, matrix.shape[1])) / np.sqrt(rank)
    return (matrix / np.sqrt(matrix.shape[1])).reshape(shape).astype(np.float32)


def normal(shape: Sequence[int], seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal(tuple(shape)).astype(np.float32)


def correlated(count: int, width: int, seed: int) -> Array:
    """Return (count, width) float32 vectors with a falling spectrum: what whitening is for."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.standard_normal((width, width)))
    return (rng.standard_normal((count, width)) * 0.8 ** np.arange(width) @ basis.T).astype(np.float32)


def linear(W: Array, *, bias: Array | None = None, batch: Any = ANY) -> onnx.ModelProto:
    """y = x W (+ b), one MatMul."""
    columns, rows = W.shape
    nodes = [node("MatMul", ["x", "W"], ["h" if bias is not None else "y"], "fc")]
    weights = {"W": W}
    if bias is not None:
        nodes.append(node("Add", ["h", "b"], ["y"], "add"))
        weights["b"] = bias
    return build(nodes, [value("x", [batch, columns])], [value("y", [batch, rows])], weights)


def mlp(widths: Sequence[int], ranks: Sequence[int | None], seed: int) -> onnx.ModelProto:
    """Gemm, Relu, Gemm, …: `ranks` are those of the weights fc0, fc1, …; input x, output y, both (batch, width)."""
    nodes, weights, current = [], {}, "x"
    for index, rank in enumerate(ranks):
        last = index == len(ranks) - 1
        weights[f"fc{index}"] = weight((widths[index + 1], widths[index]), seed + index, rank=rank)
        weights[f"b{index}"] = 0.1 * normal([widths[index + 1]], seed + 100 + index)
        output = "y" if last else f"h{index}"
        nodes.append(node("Gemm", [current, f"fc{index}", f"b{index}"], [output], f"gemm{index}", transB=1))
        if not last:
            nodes.append(node("Relu", [output], [f"r{index}"]))
        current = f"r{index}"
    return build(nodes, [value("x", ["batch", widths[0]])], [value("y", ["batch", widths[-1]])], weights)


def convnet(channels: Sequence[int], ranks: Sequence[int | None], classes: int, seed: int) -> onnx.ModelProto:
    """3×3 Conv with weights *and biases* in Constant nodes (as Paddle writes them), Relu, pool, Gemm; 8×8 images."""
    nodes, current = [], "x"
    for index, rank in enumerate(ranks):
        shape = (channels[index + 1], channels[index], 3, 3)
        nodes += [
            constant(f"k{index}", weight(shape, seed + index, rank=rank)),
            constant(f"b{index}", normal([channels[index + 1]], seed + 50 + index)),
            node("Conv", [current, f"k{index}", f"b{index}"], [f"c{index}"], f"conv{index}", pads=[1, 1, 1, 1]),
            node("Relu", [f"c{index}"], [f"r{index}"]),
        ]
        current = f"r{index}"
    nodes += [node("GlobalAveragePool", [current], ["pooled"]), node("Flatten", ["pooled"], ["flat"])]
    nodes.append(node("Gemm", ["flat", "head"], ["y"], "head_gemm", transB=1))
    head = weight((classes, channels[-1]), seed + 99)
    return build(nodes, [value("x", ["n", channels[0], 8, 8])], [value("y", ["n", classes])], {"head": head})


def with_depthwise() -> onnx.ModelProto:
    """Return a convolution, a depthwise one whose weight is "D", and a classifier of five classes."""
    tensors = {"W": normal([12, 8, 1, 1], 1), "D": normal([12, 1, 3, 3], 2), "V": 0.3 * normal([12, 5], 3)}
    nodes = [
        node("Conv", ["x", "W"], ["a"], "wide"),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "D"], ["c"], "deep", group=12, pads=[1, 1, 1, 1]),
        node("ReduceMean", ["c"], ["d"], axes=[2, 3], keepdims=0),
        node("MatMul", ["d", "V"], ["y"]),
    ]
    return build(nodes, [value("x", ["batch", 8, 6, 6])], [value("y", ["batch", 5])], tensors, opset=17)


def shared_inputs(
    width: int,
    outs: Sequence[int],
    *,
    rank: int | None,
    together: bool,
    classes: int = 8,
    seed: int = 0,
    linear: bool = False,
) -> onnx.ModelProto:
    """y = Σ_i tanh(x W_i) C_i, `linear` without tanh. W_i = V_i U_i of `rank` (None: full); `together`: of one V."""
    rng = np.random.default_rng(seed)
    inner = width if rank is None else rank
    one = rng.standard_normal((width, inner))
    nodes, weights, ends = [], {}, []
    for index, out in enumerate(outs):
        V = one if together else rng.standard_normal((width, inner))
        weights[f"W{index}"] = (V @ rng.standard_normal((inner, out)) / np.sqrt(width * inner)).astype(np.float32)
        weights[f"C{index}"] = weight((out, classes), seed + 10 + index)
        nodes.append(node("MatMul", ["x", f"W{index}"], [f"h{index}"], f"op{index}"))
        nodes.append(node("Identity" if linear else "Tanh", [f"h{index}"], [f"t{index}"]))
        nodes.append(node("MatMul", [f"t{index}", f"C{index}"], [f"o{index}"], f"end{index}"))
        ends.append(f"o{index}")
    nodes.append(node("Sum", ends, ["y"], "sum"))
    return build(nodes, [value("x", ["n", width])], [value("y", ["n", classes])], weights)


def run(model: onnx.ModelProto, feed: Feed) -> dict[str, Array]:
    return Runner(model, runtime=Runtime(provider="cpu", threads=1)).run(feed)


def feeds_of(array: Array, name: str = "x") -> list[Feed]:
    """Return one feed a row, with its batch axis."""
    return [{name: array[i : i + 1]} for i in range(len(array))]


def samples_of(feeds: Sequence[Feed], labels: Any = None) -> Samples:
    return Samples(feeds, labels, "the test", tuple(map(str, range(len(feeds)))))


def chained(chains: Sequence[Chain]) -> int:
    """Return the parameters of one weight's chain, or of siblings' chains, whose first stage is the same."""
    first, *rest = chains[0].stages
    return sum(stage.weight.size for stage in (first, *rest, *(each.stages[-1] for each in chains[1:])))


def found_in(model: onnx.ModelProto, *, multiple: int = 1) -> Inventory:
    return find_sites(model, multiple=multiple)


def the_site(model: onnx.ModelProto, *, multiple: int = 1) -> tuple[Inventory, Site]:
    found = found_in(model, multiple=multiple)
    (site,) = found.sites
    return found, site


def options(*, threads: int = 1, **changes: Any) -> Options:
    return Options(**{"runtime": Runtime(provider="cpu", threads=threads), "rank_multiple": 1, **changes})


def moments_of(model: onnx.ModelProto, feeds: Sequence[Feed], *, batch: int = 1, seed: int = 0) -> dict[str, Moments]:
    """Return the moments of every site over the feeds."""
    found = found_in(model)
    chosen = options(seed=seed)
    seen = observed(model, found, feeds)
    return {site.id: fit for site, fit, _ in stream_moments(model, found, seen, feeds, feeds[:1], chosen, batch=batch)}


def observed(model: onnx.ModelProto, inventory: Inventory, feeds: Sequence[Feed]) -> ObservedPositions:
    return observe_positions(model, inventory, feeds, options())


def plan_of(picks: Mapping[str, tuple[str, Ranks]], inventory: Inventory, *, interpolative: bool = False) -> Plan:
    """Return a plan: site id -> (scheme, ranks)."""
    weights = {site.id: site.weight for site in inventory.sites}
    forms = {s: Form(scheme, ranks, interpolative=interpolative) for s, (scheme, ranks) in picks.items()}
    return Plan(tuple(Choice(s, weights[s], Option(form, Cost())) for s, form in forms.items()))


def factored(
    model: onnx.ModelProto,
    picks: Mapping[str, tuple[str, int | Ranks]],
    *,
    multiple: int = 1,
    interpolative: bool = False,
) -> onnx.ModelProto:
    """Return the model with sites factored by the plain weight: site id -> (scheme, ranks)."""
    found = found_in(model, multiple=multiple)
    sites = {site.id: site for site in found.sites}
    chosen = {s: (scheme, (ranks,) if isinstance(ranks, int) else ranks) for s, (scheme, ranks) in picks.items()}
    factors: dict[tuple[str, str], Factors] = {
        (s, scheme): by_name(scheme).factor(found.weight(sites[s]), None, None, ranks, sites[s].groups)
        for s, (scheme, ranks) in chosen.items()
    }
    return rewrite(model, found, plan_of(chosen, found, interpolative=interpolative), factors)


def full_rank(scheme: str, shape: tuple[int, ...], groups: int = 1) -> Ranks:
    """Return the ranks at which a scheme is exact: of every cut between stages the smaller of what lies on its sides.

    Rank 1 everywhere tells both: the first stage's outputs are the blocks that have the rank, each with such a share.
    """
    stages = [stage for stage, _ in by_name(scheme).layout(shape, lowest(scheme, shape, groups), groups)]
    sizes = [math.prod(stage) // stages[0][0] for stage in stages]
    return tuple(min(math.prod(sizes[:cut]), math.prod(sizes[cut:])) for cut in range(1, len(sizes)))


def lowest(scheme: str, shape: tuple[int, ...], groups: int = 1) -> Ranks:
    """Return rank 1 at every cut: one a side that the scheme projects, else one."""
    return (1,) * max(len(by_name(scheme).sides(shape, groups)), 1)


def ladder(scheme: str, shape: tuple[int, ...], groups: int = 1) -> list[Ranks]:
    """Return ranks from 1 to full, each at least those before it."""
    full = full_rank(scheme, shape, groups)
    return [tuple(min(k, r) for r in full) for k in range(1, max(full) + 1)]


def fitting(shape: tuple[int, ...], groups: int = 1) -> list[str]:
    """Return the schemes made for a canonical shape: those that save at one as it is, but with many channels."""
    rows, columns, *kernel = shape
    wide = (64 * rows, 64 * columns if columns > 1 else 1, *kernel)
    return [scheme.name for scheme in SCHEMES if scheme.ranks(wide, 1, groups)]


def summed(scheme: str, shape: tuple[int, ...], groups: int = 1) -> bool:
    """Return whether the error of a scheme is a sum, of what the projections of several sides lose by themselves."""
    return len(by_name(scheme).sides(shape, groups)) > 1


def may_rise(scheme: str, shape: tuple[int, ...], groups: int = 1) -> bool:
    """Return whether the true error of a scheme may rise with its rank: no outputs are projected behind a kernel.

    What its components add at the places that a kernel looks at is not orthogonal then.
    """
    return math.prod(shape[2:]) > 1 and "out" not in by_name(scheme).sides(shape, groups)


def fits(site: Site) -> list[str]:
    """Return the schemes made for a site."""
    return [name for name in fitting(site.shape, site.groups) if not (site.whole and by_name(name).splits)]


def elements(model: onnx.ModelProto) -> int:
    """Return the elements of all initializers and Constant nodes of the main graph; whole numbers (int64) are none."""
    values = [
        a.t for each in model.graph.node if each.op_type == "Constant" for a in each.attribute if a.name == "value"
    ]
    tensors = [*model.graph.initializer, *values]
    return sum(int(np.prod(t.dims)) for t in tensors if t.data_type != TensorProto.INT64)


def ops(model: onnx.ModelProto) -> list[str]:
    return [each.op_type for each in model.graph.node]


def relative_squared(expected: Array, got: Array, *, without: Array | float = 0.0) -> float:
    """Return ‖got − expected‖² over ‖expected − without‖² (`without`: the bias), float64."""
    first, second = np.asarray(expected, np.float64), np.asarray(got, np.float64)
    return float(((second - first) ** 2).sum() / ((first - without) ** 2).sum())


def halved(model: onnx.ModelProto, kind: int = TensorProto.FLOAT16) -> onnx.ModelProto:
    """Return a float32 model in half precision, inputs and outputs too."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    constants = [a.t for each in copy.graph.node for a in each.attribute if a.HasField("t")]
    for tensor in (*copy.graph.initializer, *constants):
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(tensor_of(numpy_helper.to_array(tensor), kind, tensor.name))
    for each in (*copy.graph.input, *copy.graph.output, *copy.graph.value_info):
        if each.type.tensor_type.elem_type == TensorProto.FLOAT:
            each.type.tensor_type.elem_type = kind
    return copy


def behind_cast(model: onnx.ModelProto, weights: Sequence[str], kind: int) -> onnx.ModelProto:
    """Return a float32 model that holds some initializers in half precision, with a Cast in front of their use."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    casts = []
    for tensor in copy.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(tensor_of(numpy_helper.to_array(tensor), kind, tensor.name))
            casts.append(node("Cast", [tensor.name], [f"{tensor.name}.single"], f"cast_{tensor.name}",
                              to=TensorProto.FLOAT))  # fmt: skip
    for each in copy.graph.node:
        each.input[:] = [f"{name}.single" if name in weights else name for name in each.input]
    nodes = [*casts, *(onnx.NodeProto.FromString(each.SerializeToString()) for each in copy.graph.node)]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def quantised(
    model: onnx.ModelProto,
    axes: Mapping[str, int | None],
    *,
    kind: type = np.int8,
    symmetric: bool = True,
    scale: type = np.float32,
    activations: Mapping[str, float] | None = None,
) -> onnx.ModelProto:
    """Return a model with weights as 8-bit integers behind DequantizeLinear: name -> axis of the scales, None: one.

    activations: tensors that go through QuantizeLinear and DequantizeLinear, too, with their scales (int8, zero 0).
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in copy.graph.initializer}
    nodes, renamed = [], {}
    for name, axis in axes.items():
        parts = _integers(stored[name].astype(np.float64), axis, kind, symmetric=symmetric, scale=scale)
        copy.graph.initializer.remove(next(t for t in copy.graph.initializer if t.name == name))
        names = [name, f"{name}.scale", f"{name}.zero"]
        copy.graph.initializer.extend(map(numpy_helper.from_array, parts, names))
        attributes = {} if axis is None else {"axis": axis}
        nodes.append(node("DequantizeLinear", names, [f"{name}.dq"], f"dq_{name}", **attributes))
        renamed[name] = f"{name}.dq"
    for each in copy.graph.node:
        each.input[:] = [renamed.get(name, name) for name in each.input]
    nodes += [onnx.NodeProto.FromString(each.SerializeToString()) for each in copy.graph.node]
    for name, step in (activations or {}).items():
        names = [f"{name}.step", f"{name}.middle"]
        copy.graph.initializer.extend(map(numpy_helper.from_array, (np.float32(step), np.int8(0)), names))
        for each in nodes:
            each.input[:] = [f"{name}.seen" if got == name else got for got in each.input]
        at = next((i + 1 for i, each in enumerate(nodes) if name in each.output), 0)
        nodes[at:at] = [
            node("QuantizeLinear", [name, *names], [f"{name}.q"], f"q_{name}"),
            node("DequantizeLinear", [f"{name}.q", *names], [f"{name}.seen"], f"dq_{name}"),
        ]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def _integers(W: Array, axis: int | None, kind: type, *, symmetric: bool, scale: type) -> tuple[Array, Array, Array]:
    ends = np.iinfo(kind)
    others = None if axis is None else tuple(i for i in range(W.ndim) if i != axis)
    if symmetric:
        step = np.abs(W).max(axis=others) / 127
        zero = np.zeros_like(step) if ends.min < 0 else np.full_like(step, 128)
    else:
        low, high = np.minimum(W.min(axis=others), 0), np.maximum(W.max(axis=others), 0)
        step = (high - low) / 255
        zero = np.rint(ends.min - low / step)
    step = np.asarray(step, scale)
    shape = [1] * W.ndim
    if axis is not None:
        shape[axis] = -1
    q = np.clip(np.rint(W / step.reshape(shape)) + zero.reshape(shape), ends.min, ends.max)
    return q.astype(kind), step, zero.astype(kind)


def settled_chain(chain: Chain, able: Sequence[SideName]) -> Chain:
    """Return the chain with an identity on every side that counts, rows chosen freely, plain where there is none."""
    for side in sides_of(chain, able):
        chain = interpolated(chain, side) or chain
    return chain


def classifier_folder(place: Path) -> Path:
    """Write a classifier whose first weight has rank 8, and samples labelled by the model itself; return the place."""
    weights = {"W1": weight((32, 64), 1, rank=8).astype(np.float32), "W2": weight((64, 4), 2).astype(np.float32)}
    nodes = [
        node("MatMul", ["x", "W1"], ["h"], "first"),
        node("Relu", ["h"], ["r"]),
        node("MatMul", ["r", "W2"], ["y"], "second"),
    ]
    model = build(nodes, [value("x", ["n", 32])], [value("y", ["n", 4])], weights)
    onnx.save(model, str(place / "model.onnx"))
    rng = np.random.default_rng(0)
    for name, count in (("cal", 64), ("val", 80)):
        x = rng.normal(size=(count, 32)).astype(np.float32)
        y = np.maximum(x @ weights["W1"], 0) @ weights["W2"]
        np.savez(place / f"{name}.npz", x=x, labels=y.argmax(1))
    return place
