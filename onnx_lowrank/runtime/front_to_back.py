"""A model run over samples a part at a time, front to back: what later parts read is kept, so a node runs about once.

For work that changes a model behind what was run already: the values in front of the change need not be made again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from onnx_lowrank.graph.clean_up import leading_to
from onnx_lowrank.graph.editing import between
from onnx_lowrank.graph.traversal import fed_inputs, reads
from onnx_lowrank.options import Runtime
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.types import Array, Feed


@dataclass(slots=True, eq=False)
class FrontToBack:
    """What is kept of every feed: tensor name -> value. A part is run with `part`, then `Part.run` feed by feed."""

    feeds: Sequence[Feed]
    runtime: Runtime
    kept: list[dict[str, Array]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.kept = [{} for _ in self.feeds]

    def part(
        self, model: onnx.ModelProto, wanted: Iterable[str], later: Sequence[str], opened: Collection[str]
    ) -> Part:
        """Return what computes the tensors `wanted`, and keeps what the tensors `later` will be made of.

        opened: names of tensors (a node's first output) that may still change: they, and what depends on them, are not
        kept. Raises ModelError where onnxruntime refuses the part.
        """
        keep = _frontier(model, later, opened)
        fed = {value.name for value in fed_inputs(model)}
        names = [name for name in dict.fromkeys(wanted) if name not in fed]
        known = self.kept[0] if self.kept else {}
        missing = [name for name in dict.fromkeys([*names, *sorted(keep)]) if name not in known]
        runner = Runner(between(model, known, missing), runtime=self.runtime, outputs=missing) if missing else None
        made = runner.outputs if runner is not None else ()
        tensors = {spec.name for spec in made if spec.type.startswith("tensor(")}  # no sequence is fed again
        return Part(self, runner, tuple(names), frozenset(name for name in keep if name in known or name in tensors))


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A part of a model; runner: None where all is known. keep: what is kept of every feed, and nothing else."""

    walk: FrontToBack
    runner: Runner | None
    wanted: tuple[str, ...]
    keep: frozenset[str]

    def run(self, index: int) -> dict[str, Array]:
        """Return the wanted tensors of one feed, by name. Raises RuntimeProblem."""
        values = self.walk.kept[index]
        if self.runner is not None:
            known = {**self.walk.feeds[index], **values}
            feed = {spec.name: known[spec.name] for spec in self.runner.inputs if spec.name in known}
            values = {**values, **self.runner.run(feed)}
        self.walk.kept[index] = {name: values[name] for name in self.keep}
        return {name: values[name] for name in self.wanted}

    def bytes(self, index: int) -> int:
        """Return what is kept of one feed."""
        return sum(np.asarray(array).nbytes for array in self.walk.kept[index].values())


def _frontier(model: onnx.ModelProto, later: Sequence[str], opened: Collection[str]) -> set[str]:
    """Return the tensors that are final, depend on what is fed, and are read on the way to `later` by what is not."""
    varying = {value.name for value in fed_inputs(model)}
    fed, still_open, behind = set(varying), set[str](), list[onnx.NodeProto]()
    for node in model.graph.node:
        names = reads(node)
        if not varying.isdisjoint(names):
            varying.update(node.output)
        if (node.output and node.output[0] in opened) or not still_open.isdisjoint(names):
            still_open.update(node.output)
            behind.append(node)
    ahead = leading_to(behind, later)  # all that leads there from an open node is open
    read = {*later, *(name for node in ahead for name in reads(node))}
    return {name for name in read if name in varying and name not in fed and name not in still_open}
