"""Repair without training (docs/method.md, section 5): the last factors refitted in closed form, once, front to back.

After truncation the later sites see shifted inputs. A site computes y' = α L v with v = first · x' (rank channels, x'
from the compressed prefix); its L is refitted so that y' meets the original's y (without the bias), by ridge least
squares towards the factor it has: L + Δ, Δ = argmin Σ‖y − (L + Δ) α v‖² + λ‖Δ‖² = D (G + λ)⁻¹, G = Σ α² v vᵀ (rank,
rank), D = Σ (y − α L v) α vᵀ (out, rank), λ = ridge · tr G / rank. G and D add over samples, positions and the calls
that share the weight; nothing is kept a sample. The ridge is the one whose Δ, fitted on one half of the samples, takes
most off the squared error on the other (and the other way round); where none does, the factor stays.

Biases stay as they are: many are Add nodes of their own, and a chain has no place for one. A constant shift is repaired
as far as v carries it. Kernel-last sites stay: their last stage is a kernel, and its Gram would be k² as wide. So do
tables that are tied to an output layer: there the last factor is the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import onnx

from onnx_lowrank.errors import PlanError
from onnx_lowrank.graph.model_io import main_opset
from onnx_lowrank.graph.scratch import move_out
from onnx_lowrank.graph.traversal import reads
from onnx_lowrank.numerics.ridge import Products, RidgeSums, refitted_factor
from onnx_lowrank.ops import Call, call_of
from onnx_lowrank.options import REFITTED, Runtime
from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.pipeline.loaded_model import LoadedModel
from onnx_lowrank.runtime.batching import batch_size, batches, join
from onnx_lowrank.runtime.front_to_back import FrontToBack
from onnx_lowrank.samples import Split
from onnx_lowrank.schemes import Factors, Refitted
from onnx_lowrank.types import Array, Chain, FactorKey, Feed, Plan, Ranks, Stage
from onnx_lowrank.weights.inventory import Inventory
from onnx_lowrank.weights.storage import Storage

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Shares of the mean energy of a middle channel; all above 0."""


@dataclass(frozen=True, slots=True, eq=False)
class _Target:
    """A site to refit: its chain at the plan's ranks, as it is stored, and the calls that share its weight."""

    key: FactorKey
    ranks: Ranks
    chain: Chain
    calls: tuple[Call, ...]
    storage: Storage

    @property
    def last(self) -> Array:
        """The last factor, (out, rank), float64."""
        weight = self.chain.stages[-1].weight
        return weight.reshape(weight.shape[:2]).astype(np.float64)


def refit(
    model: onnx.ModelProto,
    inventory: Inventory,
    plan: Plan,
    factors: Mapping[FactorKey, Factors],
    feeds: Sequence[Feed],
    runtime: Runtime,
    *,
    ridges: Sequence[float] = RIDGES,
    batch: int = 1,
    memory: int = 2**30,
    progress: Callable[[int], None] | None = None,
) -> dict[FactorKey, Factors]:
    """Return `factors` with those of the plan's refitted sites replaced: `rewrite` makes the repaired model of them.

    Both models run once over the feeds, group by group: a group is sites that do not feed each other. What later groups
    read is kept, in at most `memory` bytes: samples that do not fit are left out from there on. A factor stays where
    its sums are not finite, where the candidate has other shapes than the original, or where no ridge helps (so with
    one sample). `progress` gets the samples of every group.
    Raises PlanError for a site that is not in `inventory`, ModelError or RuntimeProblem where onnxruntime refuses.
    """
    refitted = dict(factors)
    plan = plan.plain.own
    candidate = rewrite(model, inventory, plan, factors)
    groups = _groups(model, inventory, plan, factors)
    walk = _Walk.over(feeds, batch, runtime, memory, progress)
    for place, group in enumerate(groups):
        ends = _ends(candidate, group)
        halves = walk.collect(model, candidate, groups[place:], ends)
        for target in group:
            last = refitted_factor(target.last, [half[target.key] for half in halves], ridges)
            if last is None:
                continue
            old = target.chain.stages[-1]
            stage = Stage(last.reshape(old.weight.shape).astype(old.weight.dtype), old.owns, old.groups)
            chain = Chain((*target.chain.stages[:-1], stage))
            refitted[target.key] = Refitted(factors[target.key], target.ranks, chain)
            if not target.storage.narrow:
                _put(candidate, ends[target.calls[0].output], stage)
        if any(target.storage.narrow for target in group):  # both factors change where they are balanced and rounded
            candidate = rewrite(model, inventory, plan, refitted)
    return refitted


def _groups(
    model: onnx.ModelProto, inventory: Inventory, plan: Plan, factors: Mapping[FactorKey, Factors]
) -> list[list[_Target]]:
    """Return the sites to refit, front to back by their first call; in a group none comes after another.

    Only of a weight that several nodes share can a later call come after its own group, or after later ones.
    """
    place = {node.output[0]: index for index, node in enumerate(model.graph.node) if node.output}
    targets = sorted(_targets(inventory, plan, factors), key=lambda t: min(place[call.output] for call in t.calls))
    own = {call.output: 1 << bit for bit, target in enumerate(targets) for call in target.calls}
    before: dict[str, int] = {}  # tensor -> the targets it depends on, a bit each
    above = [0] * len(targets)
    for node in model.graph.node:
        mask = 0
        for name in reads(node):
            mask |= before.get(name, 0)
        bit = own.get(node.output[0], 0) if node.output else 0
        if bit:
            above[bit.bit_length() - 1] |= mask
        before.update(dict.fromkeys(node.output, mask | bit))
    depths: list[int] = []
    for mask in above:
        depths.append(1 + max((depth for j, depth in enumerate(depths) if mask >> j & 1), default=-1))
    return [[t for t, d in zip(targets, depths, strict=True) if d == depth] for depth in sorted(set(depths))]


def _targets(inventory: Inventory, plan: Plan, factors: Mapping[FactorKey, Factors]) -> Iterator[_Target]:
    """Yield the plan's sites whose last stage is a matrix or 1×1, in one group."""
    for choice in plan.factored:
        if choice.site not in inventory.calls:
            raise PlanError(f"the plan factors {choice.weight!r}, which cannot be factored in this model")
        key = (choice.site, choice.option.scheme)
        calls, storage = inventory.calls[choice.site], inventory.sources[choice.site].storage
        if choice.site in inventory.bodies:  # tensors in bodies cannot be observed
            continue
        if choice.option.shared_input and storage.narrow:  # a shared first factor is balanced for all members at once
            continue
        chain = storage.seen(factors[key].chain(choice.option.ranks))
        last = chain.stages[-1]
        tied = any(call.transposed for call in calls)
        if not last.owns and last.groups == 1 and calls[0].observable != "inputs" and not tied:
            yield _Target(key, choice.option.ranks, chain, calls, storage)


def _ends(candidate: onnx.ModelProto, group: Sequence[_Target]) -> dict[str, Call]:
    """Return the call of the last stage for every output of the group's sites."""
    calls = {call.output: call for target in group for call in target.calls}
    opset = main_opset(candidate)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in candidate.graph.initializer}
    for node in candidate.graph.node:  # the nodes that unpack factors of narrow types
        if node.op_type in ("Cast", "DequantizeLinear") and node.input[0] in shapes:
            shapes[node.output[0]] = shapes[node.input[0]]
    ends = {}
    for node in candidate.graph.node:
        if node.output and node.output[0] in calls:
            call = calls[node.output[0]]  # where the last stage is another operator, it has its weight second
            slot = call.slot if node.op_type == call.op_type else 1
            ends[call.output] = call_of(node, slot, opset, shapes[node.input[slot]])
    return ends


@dataclass(slots=True, eq=False)
class _Walk:
    """The original and the candidate, run front to back over the same samples. halves: which half each run is of."""

    original: FrontToBack
    compressed: FrontToBack
    runs: Sequence[Sequence[Feed]]
    halves: list[int]
    memory: int
    progress: Callable[[int], None] | None

    @staticmethod
    def over(
        feeds: Sequence[Feed], batch: int, runtime: Runtime, memory: int, progress: Callable[[int], None] | None
    ) -> _Walk:
        """Return the walk over samples, even and odd ones in turns."""
        turns = zip_longest(*(list(batches((feeds[i] for i in range(h, len(feeds), 2)), batch)) for h in range(2)))
        runs = [(half, run) for turn in turns for half, run in enumerate(turn) if run is not None]
        joined = [join(run) for _, run in runs]
        original, compressed = FrontToBack(joined, runtime), FrontToBack(joined, runtime)
        return _Walk(original, compressed, [run for _, run in runs], [half for half, _ in runs], memory, progress)

    def collect(
        self,
        model: onnx.ModelProto,
        candidate: onnx.ModelProto,
        groups: Sequence[Sequence[_Target]],
        ends: Mapping[str, Call],
    ) -> list[dict[FactorKey, RidgeSums]]:
        """Return the sums of every site in the first of these groups over the even samples and over the odd ones."""
        group, behind = groups[0], [call for group in groups[1:] for target in group for call in target.calls]
        calls = [call for target in group for call in target.calls]
        written = _written(model, candidate, (target for left in groups for target in left))
        original = self.original.part(model, _read(calls), _read(behind), {call.output for call in behind})
        later = [call.data for call in behind]
        compressed = self.compressed.part(candidate, [end.data for end in ends.values()], later, written)
        sums = [{target.key: Products.none(target.last) for target in group} for _ in range(2)]
        held = [original.bytes(i) + compressed.bytes(i) for i in range(len(self.halves))]
        for i, half in enumerate(self.halves):
            values = {**self.original.feeds[i], **original.run(i)}
            inner = {**self.compressed.feeds[i], **compressed.run(i)}
            for target in group:
                for call in target.calls:
                    kernel = target.chain.stages[-1].weight.shape[2:]
                    sums[half][target.key].add(*_seen(call, ends[call.output], kernel, values, inner))
            if self.progress:
                self.progress(len(self.runs[i]))
            held[i] = original.bytes(i) + compressed.bytes(i)
            if sum(held) > self.memory and i % 2 and i + 1 < len(self.halves):
                del self.halves[i + 1 :]
                break
        last = {target.key: target.last for target in group}
        return [{key: RidgeSums.towards(last[key], made) for key, made in each.items()} for each in sums]


def _read(calls: Sequence[Call]) -> list[str]:
    """Return the tensors of the original that the sums of these calls are made of."""
    return [name for call in calls for name in (call.output, call.input(2)) if name]


def _written(model: onnx.ModelProto, candidate: onnx.ModelProto, targets: Iterable[_Target]) -> set[str]:
    """Return the first outputs of the nodes that stand for the targets' calls in the candidate."""
    original = {name for node in model.graph.node for name in node.output}
    makers = {name: node for node in candidate.graph.node for name in node.output}
    found, ahead = set[str](), [call.output for target in targets for call in target.calls]
    while ahead:
        node = makers[ahead.pop()]
        if node.output[0] not in found:
            found.add(node.output[0])
            ahead += [name for name in reads(node) if name in makers and name not in original]
    return found


def _seen(
    call: Call, end: Call, kernel: tuple[int, ...], values: Mapping[str, Array], inner: Mapping[str, Array]
) -> tuple[Array, Array]:
    """Return y and v of one call, a row a position: `values` are the original's, `inner` the candidate's."""
    y = np.asarray(call.linear(_wide(values[call.output]), values.get(call.input(2))), np.float64)
    return y, np.asarray(end.vectors(_wide(inner[end.data]), kernel), np.float64) * call.scale


def _wide(array: Array) -> Array:
    """Return half precision as single: what follows is subtracted and summed."""
    return array.astype(np.float32) if array.dtype.itemsize < 4 else array


def _put(candidate: onnx.ModelProto, end: Call, stage: Stage) -> None:
    """Replace the stored weight of a last stage, in place."""
    name = end.inputs[end.slot]
    tensor = next(t for t in candidate.graph.initializer if t.name == name)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    array = np.ascontiguousarray(end.stored(stage, position="last"), dtype)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))
    move_out(tensor)


def refitted(
    loaded: LoadedModel,
    split: Split,
    inventory: Inventory,
    plan: Plan,
    factors: Mapping[FactorKey, Factors],
    runtime: Runtime,
    *,
    most: int | None = None,
    memory: int = 2**30,
) -> dict[FactorKey, Factors]:
    """Return a plan's factors with the last ones refitted on a part of the calibration samples, at most REFITTED."""
    feeds: Sequence[Feed] = split.calibration.feeds
    count = min(len(feeds), REFITTED if most is None else most)
    chosen = [feeds[i * len(feeds) // count] for i in range(count)]
    batch = batch_size(loaded.runner, chosen)
    return refit(loaded.model, inventory, plan, factors, chosen, runtime, batch=batch, memory=memory)
