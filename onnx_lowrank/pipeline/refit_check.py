"""The refit of a plan, and whether it holds on samples that nothing was fitted on: the condition of the default."""

from __future__ import annotations

from collections.abc import Mapping

from onnx_lowrank.graph.scratch import scratch
from onnx_lowrank.metrics import Probing, listed
from onnx_lowrank.options import REFITTED, Options, Runtime
from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.pipeline.loaded_model import LoadedModel
from onnx_lowrank.pipeline.refit import refitted
from onnx_lowrank.pipeline.session_values import Repaired
from onnx_lowrank.progress import Progress
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.samples import Split
from onnx_lowrank.schemes import Factors
from onnx_lowrank.types import FactorKey, Plan
from onnx_lowrank.validation.reference import Reference
from onnx_lowrank.weights.inventory import Inventory

SHARE, FEWEST = 8, 128
"""A plan is refitted on an eighth as many samples as it is tested on, so that it costs less; on at least FEWEST."""


def repaired(
    loaded: LoadedModel,
    split: Split,
    inventory: Inventory,
    plan: Plan,
    decomposed: dict[FactorKey, Factors],
    divergence: Probing,
    unseen: Reference,
    options: Options,
    progress: Progress,
) -> Repaired:
    """Return a plan's factors refitted, where that is asked for or loses less; else as they are decomposed.

    unseen: the original on the samples held back.
    """
    most = REFITTED
    if options.refit is None:
        if not len(unseen.feeds):
            return Repaired(decomposed)
        most = min(max(len(split.validation) // SHARE, FEWEST), REFITTED)
    with progress.step("refitting", 1) as advance:
        with scratch(loaded.model):
            factors = refitted(
                loaded, split, inventory, plan, decomposed, options.runtime, most=most, memory=options.memory
            )
        keep = options.refit is True or loses_less(
            (decomposed, factors), plan, loaded, inventory, unseen, divergence, options.runtime
        )
        advance(1)
    return Repaired(factors, most) if keep else Repaired(decomposed)


def loses_less(
    factors: tuple[Mapping[FactorKey, Factors], Mapping[FactorKey, Factors]],
    plan: Plan,
    loaded: LoadedModel,
    inventory: Inventory,
    unseen: Reference,
    divergence: Probing,
    runtime: Runtime,
) -> bool:
    """Return whether a plan diverges less from the original, in the mean, with the second factors than with the first.

    The original runs once for all plans.

    Raises ModelError or RuntimeProblem where onnxruntime refuses.
    """
    sums = []
    for each in factors:
        with scratch(loaded.model):
            model = Runner(rewrite(loaded.model, inventory, plan, each), runtime=runtime)
        pairs = ((listed(outputs), listed(got)) for _, outputs, got in unseen.beside(model))
        sums.append(sum(float(divergence.values(expected, got).sum()) for expected, got in pairs))
    return sums[1] < sums[0]
