"""Any chain for any operator: stage after stage, each as the node that its operator makes of it.

A stage with an identity block computes the rest alone. Rows that pass are put together with the computed ones along the
channels; inputs that are added are cut out of the data, and their sum with the node's output is the stage's. Both are
pieces of a tensor: neighbours where the chosen rows or columns are neighbours, else a Gather puts them in order. What
the node adds to W x (bias, scale) is folded into the last two stages where it is constant, else it comes after them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx

from onnx_lowrank.ops.op import Call, NamedStages, Names, StageSite, Written
from onnx_lowrank.types import Array, SideName, Stage

SPLIT_BY_INPUT = 13
"""The opset from which Split has the sizes as an input."""


@dataclass(slots=True, eq=False)
class _Draft:
    """What is being written: nodes in order, tensors they need, Gathers that only restore an order."""

    call: Call
    names: Names
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    extra: dict[str, Array] = field(default_factory=dict)
    orders: list[str] = field(default_factory=list)

    def add(self, written: Written) -> None:
        self.nodes.extend(written.nodes)
        self.extra |= written.extra

    def node(self, kind: str, operands: Sequence[str], outputs: Sequence[str], **attributes: object) -> str:
        """Write a node and return its first output."""
        made = onnx.helper.make_node(kind, operands, outputs, outputs[0], None, None, None, **attributes)
        self.nodes.append(made)
        return outputs[0]

    def constant(self, hint: str, values: Sequence[int] | Array) -> str:
        name = self.names(hint)
        self.extra[name] = np.asarray(values, np.int64)
        return name

    def gather(self, tensor: str, rows: Sequence[int] | Array, axis: int, hint: str) -> str:
        indices = self.constant(f"{hint}.rows", rows)
        return self.node("Gather", [tensor, indices], [self.names(hint)], axis=axis)

    def split(self, tensor: str, sizes: Sequence[int], axis: int, hint: str) -> list[str]:
        """Return the pieces of a tensor; an empty one is left out as ""."""
        kept = [size for size in sizes if size]
        outputs = [self.names(f"{hint}.piece") for _ in kept]
        if len(kept) == 1:
            outputs = [tensor]
        elif self.call.opset < SPLIT_BY_INPUT:
            self.node("Split", [tensor], outputs, axis=axis, split=kept)
        else:
            self.node("Split", [tensor, self.constant(f"{hint}.sizes", kept)], outputs, axis=axis)
        pieces = iter(outputs)
        return [next(pieces) if size else "" for size in sizes]

    def concat(self, tensors: Sequence[str], axis: int, output: str) -> str:
        return self.node("Concat", [tensor for tensor in tensors if tensor], [output], axis=axis)


def write_chain(
    call: Call,
    stages: NamedStages,
    names: Names,
    *,
    bias: Array | None = None,
    free: Collection[SideName] = (),
    inner: str = "",
) -> Written:
    """Return nodes that compute the call's output from its data through `stages`.

    bias: (out,) what the node adds to W x, where that is constant (`Op.constant_bias`). free: the sides on which
    neighbours will take the channels in another order: one Gather there gives the old order, named in `Written.orders`.
    inner: a tensor that holds what the first stage gives; then that stage is not written. Raises ValueError where a
    stage has an identity and the operator has no tensor along which its channels lie.
    """
    call, stages, before = call.op.prepare(call, stages, names)
    draft = _Draft(call, names, list(before))
    biases = _folded(call, stages, bias)
    outside = bool(stages[-1][0].passed) and not biases and (bool(call.op.adds(call)) or call.op.scale(call) != 1)
    current = inner or call.data
    for index, (stage, weight) in enumerate(stages):
        if index == 0 and inner:
            continue
        last = index == len(stages) - 1
        output = call.output if last and not outside else names(f"{call.output}.inner{index}")
        at = StageSite(index, len(stages), current, weight, output, linear=bool(biases) or (last and outside))
        current = _write_stage(draft, stage, _with_bias(draft, at, biases.get(index)), free)
        inner = inner or current
    if outside:
        draft.add(call.op.finish(call, current, names))
    return Written(tuple(draft.nodes), draft.extra, tuple(draft.orders), inner)


def _folded(call: Call, stages: NamedStages, bias: Array | None) -> dict[int, Array]:
    """Return the bias of the last two stages: of the chosen outputs b_J, and b_Jc − C b_J of the others."""
    stage = stages[-1][0]
    if bias is None or not stage.passed or len(stages) < 2 or stages[-2][0].identity:
        return {}
    chosen = np.asarray(stage.passed)
    own, rest = bias[chosen], bias[np.setdiff1d(np.arange(stage.rows), chosen)]
    coefficients = np.asarray(stage.weight, np.float64).reshape(stage.groups, -1, stage.weight.shape[1])
    through = np.einsum("gmr,gr->gm", coefficients, own.reshape(stage.groups, -1)).reshape(-1)
    return {len(stages) - 2: own, len(stages) - 1: rest - through}


def _with_bias(draft: _Draft, at: StageSite, bias: Array | None) -> StageSite:
    """Return the stage with its part of the bias; what the node multiplies W x by is the chosen outputs' own."""
    if bias is None:
        return at
    name = draft.names(f"{at.weight}.bias")
    draft.extra[name] = draft.call.op.laid_bias(draft.call, bias)
    return replace(at, bias=name, scaled=not at.last)


def _write_stage(draft: _Draft, stage: Stage, at: StageSite, free: Collection[SideName]) -> str:
    """Write one stage and return its output."""
    call, names = draft.call, draft.names
    if not stage.identity:
        draft.add(call.op.node(call, stage, at, names))
        return at.output
    axis = call.op.channel_axis(call, at) if stage.passed else call.op.input_axis(call, at)
    if axis is None:
        kind = "rows can pass through" if stage.passed else "inputs can be added in"
        raise ValueError(f"{call.name or call.output}: no {kind} stage {at.index} of {call.op_type}")
    if stage.passed:
        return _passed(draft, stage, at, axis, gathered="out" in free)
    return _added(draft, stage, at, axis, gathered="in" in free)


def _passed(draft: _Draft, stage: Stage, at: StageSite, axis: int, *, gathered: bool) -> str:
    """Write the computed rows, and put them and the passing ones together in the rows' order."""
    call, names = draft.call, draft.names
    rest = names(f"{at.output}.rest")
    draft.add(call.op.node(call, stage, at.giving(rest), names))
    start = None if gathered else _run(stage.passed)
    if start is not None:
        before, after = draft.split(rest, (start, len(stage.weight) - start), axis, f"{at.output}.rest")
        return draft.concat([before, at.input, after], axis, at.output)
    joined = draft.concat([at.input, rest], axis, names(f"{at.output}.joined"))
    ordered = draft.node(
        "Gather", [joined, draft.constant(f"{at.weight}.order", row_order(stage))], [at.output], axis=axis
    )
    if gathered:
        draft.orders.append(ordered)
    return ordered


def _added(draft: _Draft, stage: Stage, at: StageSite, axis: int, *, gathered: bool) -> str:
    """Write the stage on the inputs that are not added, and the sum with those that are."""
    call, names, hint = draft.call, draft.names, f"{at.output}.in"
    others = np.setdiff1d(np.arange(stage.columns), stage.added)
    start = None if gathered else _run(stage.added)
    if start is not None:
        sizes = (start, len(stage.added), len(others) - start)
        before, chosen, after = draft.split(at.input, sizes, axis, hint)
        rest = draft.concat([before, after], axis, names(f"{hint}.rest")) if before and after else before or after
    elif gathered:
        ordered = draft.gather(at.input, np.concatenate([stage.added, others]), axis, f"{hint}.ordered")
        draft.orders.append(ordered)
        chosen, rest = draft.split(ordered, (len(stage.added), len(others)), axis, hint)
    else:
        chosen = draft.gather(at.input, stage.added, axis, f"{hint}.chosen")
        rest = draft.gather(at.input, others, axis, f"{hint}.rest")
    computed = names(f"{at.output}.computed")
    draft.add(call.op.node(call, stage, at.giving(computed, rest), names))
    return draft.node("Add", [chosen, computed], [at.output])


def _run(chosen: Sequence[int]) -> int | None:
    """Return where neighbouring numbers in rising order start, None where the chosen ones are no such run."""
    start = chosen[0]
    return start if tuple(chosen) == tuple(range(start, start + len(chosen))) else None


def row_order(stage: Stage) -> Array:
    """Return (out,) which of [passing rows, computed rows] is at every row, int64."""
    order = np.empty(stage.rows, np.int64)
    passed = np.asarray(stage.passed, np.int64)
    order[passed] = np.arange(len(passed))
    order[np.setdiff1d(np.arange(stage.rows), passed)] = np.arange(len(passed), stage.rows)
    return order
