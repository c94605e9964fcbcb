"""One measurement of the whole model to which the sum of micro-measurements is tied.

What weights save together is not the sum of what they save alone: the model that is left is smaller, and more of it
stays in the caches (CREPE, one thread: predicted .33 of the time, measured .28). So the model with every weight as its
fastest chain runs in turns with the original, and all times of weights are scaled by what it saves over what was
predicted for it.
"""

from __future__ import annotations

import numpy as np
import onnx

from onnx_lowrank.latency.interleaving import rounds_of
from onnx_lowrank.options import Runtime
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.runtime.timing import Runs
from onnx_lowrank.types import Feed

LEAST = 0.03
"""Share of the model's time that has to be predicted as saved: of less, the scale would be noise."""
MOST = 1.5
"""A scale is no more than this, and no less than its inverse."""


def scale_of(original: Runs, feed: Feed, fastest: onnx.ModelProto, predicted: float, runtime: Runtime) -> float:
    """Return what `fastest` saves over what it was `predicted` to save, as a share of the original's time.

    Raises RuntimeProblem.
    """
    if predicted < LEAST:
        return 1.0
    runner = Runner(fastest, runtime=runtime, spin=True)
    rounds = rounds_of([(original, feed), (runner, feed)], against=0)
    saved = 1.0 - float(np.median(rounds[:, 1] / rounds[:, 0]))
    return min(max(saved / predicted, 1 / MOST), MOST)
