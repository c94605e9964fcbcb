"""Whether the samples of a batch can be told apart at every site: each one's own gradient is wanted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from onnx_lowrank.graph.editing import expose
from onnx_lowrank.options import Options
from onnx_lowrank.runtime.batching import batches, join, rows_of
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.types import Feed
from onnx_lowrank.weights.inventory import Inventory


def tells_samples_apart(model: onnx.ModelProto, inventory: Inventory, feeds: Sequence[Feed], options: Options) -> bool:
    """Return whether the leading axis of all sites' tensors and of the outputs counts the samples: one run, and two.

    False where that cannot be seen: every feed is then one unit, which is right whatever the layout, but slower.
    """
    calls = [call for site in inventory.sites for call in inventory.calls[site.id]]
    calls = [call for call in calls if call.observable != "inputs"]  # those are not asked for gradients
    names = [name for call in calls for name in (call.data, call.output)]
    given = {value.name for value in model.graph.input}
    wanted = [name for name in dict.fromkeys(names) if name not in given]
    outputs = [value.name for value in model.graph.output]
    runner = Runner(
        expose(model, wanted),
        runtime=options.runtime,
        outputs=[*dict.fromkeys([*wanted, *outputs])],
        optimize=False,
    )
    pair = next((run for run in batches(feeds[:64], 2) if len(run) == 2), None)
    runs = [feeds[0]] if pair is None else [pair[0], join(pair)]
    for feed in runs:
        rows = rows_of(feed)
        for value in runner.run(feed).values():
            if not isinstance(value, np.ndarray) or not value.ndim or value.shape[0] == 0 or value.shape[0] % rows:
                return False
    if pair is None:
        return all(isinstance(v, np.ndarray) and v.shape[0] == rows_of(feeds[0]) for v in runner.run(feeds[0]).values())
    alone, both = runner.run(runs[0]), runner.run(runs[1])
    ratio = rows_of(runs[1]) / rows_of(runs[0])
    return all(both[name].shape[0] == ratio * alone[name].shape[0] for name in alone)
