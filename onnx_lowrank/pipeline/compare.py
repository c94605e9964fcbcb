"""`compare`: the judge of two models, whoever made the second one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx

from onnx_lowrank.calibration.observe import observe
from onnx_lowrank.metrics import choose_metric
from onnx_lowrank.options import Gate, Options
from onnx_lowrank.pipeline.finish import timed_feeds
from onnx_lowrank.pipeline.subject import (
    RANDOM,
    RANDOM_COUNT,
    RANDOM_WARNING,
    Subject,
    first_outputs,
    make_judge,
    same_interface,
    standing_notes,
)
from onnx_lowrank.progress import Progress, Silent
from onnx_lowrank.result import Comparison, Size
from onnx_lowrank.runtime import Runner
from onnx_lowrank.samples import Source, random_samples, read
from onnx_lowrank.sites import find_sites
from onnx_lowrank.timing import interleaved
from onnx_lowrank.types import Feed


def compare(
    first: onnx.ModelProto | Path | str,
    second: onnx.ModelProto | Path | str,
    samples: Source,
    gate: Gate | None = None,
    options: Options | None = None,
    *,
    progress: Progress | None = None,
) -> Comparison:
    """Return how `second` does against `first` on `samples`. Raises LowRankError, one line for a user.

    A metric that compares with the first model itself (cosine, say) needs a gate with `max_drop` above 0 to pass.
    """
    gate, options, progress = gate or Gate(), options or Options(), progress or Silent()
    one, other = Subject.of(first, options), Subject.of(second, options)
    same_interface(one.runner, other.runner)
    is_random = isinstance(samples, str) and samples == RANDOM
    data = (
        random_samples(one.runner.inputs, RANDOM_COUNT, options.seed) if is_random else read(samples, one.runner.inputs)
    )
    metric, why = choose_metric(options.metric, data.labels, first_outputs(one, data.feeds))
    judge = make_judge(one, data, metric, gate, options.seed)
    with progress.step("comparing", 2 * len(data)) as advance:
        verdict = judge.judge(other.runner, advance)
    with progress.step("timing", 1) as advance:
        runners = [Runner(s.model, provider=options.provider, threads=options.threads, spin=True) for s in (one, other)]
        latency = interleaved(runners[0], runners[1], timed_feeds(iter(data.feeds)), seed=options.seed)
        advance(1)
    sizes = [_size(subject, data.feeds, options) for subject in (one, other)]
    said = [note for subject in (one, other) for note in standing_notes(subject.standing, subject.source)]
    notes = (*said, *data.notes, *((RANDOM_WARNING,) if is_random else ()))
    return Comparison(one.source, other.source, verdict, sizes[0], sizes[1], latency, why, notes)


def _size(subject: Subject, feeds: Sequence[Feed], options: Options) -> Size:
    found = find_sites(subject.model)
    observed = observe(subject.model, found, feeds, options)
    return Size(found.parameters, subject.bytes, observed.macs)
