"""A process that times, interleaved, a forward over the calibration samples and the joint collection's two passes."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from statistics import median

from onnx_lowrank.batching import batches, join
from onnx_lowrank.calibration.observe import observe
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline.calibrate import joint_collection, kind_of, objective_of
from onnx_lowrank.pipeline.subject import Subject, batch_of
from onnx_lowrank.samples import read
from onnx_lowrank.sites import find_sites

UNIT = 1 if sys.platform == "darwin" else 1024


def main() -> None:
    """Print one line of JSON."""
    model, calibration, repeats, threads = sys.argv[1:5]
    options = Options(threads=int(threads))
    subject = Subject.of(Path(model), options)
    samples = read(Path(calibration), subject.runner.inputs)
    found = find_sites(subject.model)
    objective = objective_of(subject, samples, options, kind_of(subject, None, samples))
    batch = batch_of(subject, samples.feeds)
    collection = joint_collection(
        subject, samples, found, observe(subject.model, found, samples.feeds, options), objective, options, batch
    )
    forwards, collections, peaks = [], [], []
    for _ in range(int(repeats)):
        start = time.perf_counter()
        for run in batches(samples.feeds, batch):
            subject.runner.run(join(run))
        forwards.append(time.perf_counter() - start)
        start = time.perf_counter()
        collection.run()
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
                "sites": len(found.sites),
                "passes": collection.passes,
                "peak_bytes": peaks[0],  # as in a process that collects once; later ones start from what is left over
                "peaks": peaks,
            }
        )
    )


if __name__ == "__main__":
    main()
