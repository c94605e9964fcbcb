"""Whether a plan's refit holds on samples that nothing was fitted on: the condition of the default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnx_lowrank.metrics import Probing, listed
from onnx_lowrank.options import Runtime
from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.pipeline.loaded_model import LoadedModel
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.schemes import Factors
from onnx_lowrank.types import FactorKey, Feed, Plan
from onnx_lowrank.weights.inventory import Inventory


def loses_less(
    factors: tuple[Mapping[FactorKey, Factors], Mapping[FactorKey, Factors]],
    plan: Plan,
    loaded: LoadedModel,
    inventory: Inventory,
    feeds: Sequence[Feed],
    divergence: Probing,
    runtime: Runtime,
) -> bool:
    """Return whether a plan diverges less from the original, in the mean, with the second factors than with the first.

    Raises ModelError or RuntimeProblem where onnxruntime refuses.
    """
    models = [Runner(rewrite(loaded.model, inventory, plan, each), runtime=runtime) for each in factors]
    sums = np.zeros(2)
    for feed in feeds:
        expected = listed([loaded.runner.run(feed)])
        sums += [float(divergence.values(expected, listed([model.run(feed)]))[0]) for model in models]
    return bool(sums[1] < sums[0])
