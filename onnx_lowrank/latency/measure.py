"""One call by one scheme, or a shared input with one first factor: unchanged and at a few ranks, beside the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_lowrank.latency.interleaving import rounds_of, shares
from onnx_lowrank.latency.micro_model import FIRST, Scene, chain_model, dense_model
from onnx_lowrank.options import Runtime
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.runtime.timing import Runs
from onnx_lowrank.types import Chain, Feed, Form


@dataclass(frozen=True, slots=True)
class Group:
    """dense: the node's share of the original's time. ratios: every chain's time over the node's. original: seconds."""

    dense: float
    ratios: tuple[float, ...]
    original: float


def measure_group(
    original: Runs, feed: Feed, scene: Scene, chains: Sequence[Sequence[Chain]], form: Form, runtime: Runtime
) -> Group:
    """Return the times of the scene's calls as they are and as each of some chains; of every one, a chain a call.

    form: the scheme of the chains, and how their numbers are stored.
    Raises ModelError, RuntimeProblem.
    """
    models = [dense_model(scene), *(chain_model(scene, of_calls, form) for of_calls in chains)]
    runners = [Runner(model, runtime=runtime, spin=True, outputs=[FIRST]) for model in models]
    data = [{spec.name: scene.input for spec in runner.inputs} for runner in runners]
    rounds = rounds_of([(original, feed), *zip(runners, data, strict=True)], against=1)
    _, dense, *_ = shares(rounds)
    ratios = (float(np.median(rounds[:, 2 + i] / rounds[:, 1])) for i in range(len(chains)))
    return Group(float(dense) / scene.copies, tuple(ratios), float(np.median(rounds[:, 0])))
