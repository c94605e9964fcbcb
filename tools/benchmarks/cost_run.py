"""A process that times, interleaved, a forward over the calibration samples and the joint collection's two passes."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from statistics import median

from onnx_lowrank.collection.joint import joint_scores
from onnx_lowrank.options import Options, Runtime
from onnx_lowrank.pipeline.calibrate import kind_of, objective_of
from onnx_lowrank.pipeline.loaded_model import LoadedModel, batch_of
from onnx_lowrank.runtime.batching import batches, join
from onnx_lowrank.samples import read
from onnx_lowrank.sensitivity.gradient_mode import collection_setup
from onnx_lowrank.sensitivity.measure import calibration_setup
from onnx_lowrank.weights.find import find_sites

UNIT = 1 if sys.platform == "darwin" else 1024


def main() -> None:
    """Print one line of JSON."""
    model, calibration, repeats, threads = sys.argv[1:5]
    options = Options(runtime=Runtime(threads=int(threads)))
    loaded = LoadedModel.of(Path(model), options)
    samples = read(Path(calibration), loaded.runner.inputs)
    inventory = find_sites(loaded.model)
    objective = objective_of(loaded, samples, options, kind_of(loaded, None, samples))
    batch = batch_of(loaded, samples.feeds)
    setup = calibration_setup(loaded, samples, inventory, options, objective)
    collection = collection_setup(setup, "joint")
    forwards, collections, peaks = [], [], []
    for _ in range(int(repeats)):
        start = time.perf_counter()
        for run in batches(samples.feeds, batch):
            loaded.runner.run(join(run))
        forwards.append(time.perf_counter() - start)
        start = time.perf_counter()
        joint_scores(collection)
        collections.append(time.perf_counter() - start)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT)
    ratios = [one / other for one, other in zip(collections, forwards, strict=True)]
    print(
        json.dumps(
            {
                "ratio": median(ratios),
                "ratios": ratios,
                "forward": median(forwards),
                "collection": median(collections),
                "samples": len(samples),
                "sites": len(inventory.sites),
                "passes": collection.passes,
                "peak_bytes": peaks[0],  # as in a process that collects once; later ones start from what is left over
                "peaks": peaks,
            }
        )
    )


if __name__ == "__main__":
    main()
