"""`compare`: the judge of two models, whoever made the second one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from onnx_lowrank.collection.positions import observe_positions
from onnx_lowrank.goals import Gate
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline.judges import make_judge
from onnx_lowrank.pipeline.loaded_model import (
    RANDOM_WARNING,
    LoadedModel,
    choose,
    first_outputs,
    refuse_impossible,
    same_interface,
)
from onnx_lowrank.pipeline.notes import standing_notes
from onnx_lowrank.pipeline.staging import timed_feeds
from onnx_lowrank.progress import Progress, steps_of
from onnx_lowrank.results.comparison import Comparison
from onnx_lowrank.results.parts import Size
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.runtime.timing import interleaved
from onnx_lowrank.samples import RandomData, Source, read, settled
from onnx_lowrank.samples.decoder import cache_note, counting
from onnx_lowrank.types import Feed
from onnx_lowrank.validation.determinism import refuse_random, varies
from onnx_lowrank.validation.metric_check import check_metric
from onnx_lowrank.weights.find import find_sites


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

    >>> from onnx_lowrank import compare
    >>> from onnx_lowrank.demo import MODEL, demo_samples
    >>> same = compare(MODEL, MODEL, demo_samples()["test"])
    >>> bool(same), same.verdict.drop.estimate
    (True, 0.0)
    """
    gate, options, progress = gate or Gate(), options or Options(), steps_of(progress)
    original, candidate = (LoadedModel.of(model, options.runtime) for model in (first, second))
    same_interface(original.runner, candidate.runner)
    cache = () if options.outputs else counting(original.runner.outputs)
    options = replace(options, outputs=cache) if cache else options
    is_random = isinstance(samples, RandomData)
    (source,), guesses = settled([samples], original.runner)
    data = read(source, original.runner.inputs, groups=options.groups, seed=options.seed)
    if is_random:
        gate = replace(gate, observed=True)
    metric, why = choose(options, data, first_outputs(original, data.feeds))
    refuse_impossible(metric, gate)
    random = varies(original.model, original.runner, data)
    if random and not options.allow_random:
        refuse_random(original.model, random)
    warnings, _ = check_metric(metric, data, original.runner, options.seed, weak=options.allow_weak_baseline)
    judge = make_judge(original, data, metric, gate, options, spread=bool(random))
    with progress.step("comparing", 2 * len(data)) as advance:
        verdict = judge.judge(candidate.runner, advance)
    with progress.step("timing", 1) as advance:
        runners = [Runner(s.model, runtime=options.runtime, spin=True) for s in (original, candidate)]
        latency = interleaved(runners[0], runners[1], timed_feeds(data.feeds), seed=options.seed)
        advance(1)
    sizes = [_size(loaded, data.feeds, options) for loaded in (original, candidate)]
    warnings += [RANDOM_WARNING] if is_random else []
    standing = [note for loaded in (original, candidate) for note in standing_notes(loaded.standing, loaded.source)]
    notes = (*standing, *guesses, *data.notes, *((cache_note(cache),) if cache else ()))
    return Comparison(
        original.source, candidate.source, verdict, sizes[0], sizes[1], latency, why, notes, tuple(warnings)
    )


def _size(loaded: LoadedModel, feeds: Sequence[Feed], options: Options) -> Size:
    inventory = find_sites(loaded.model)
    observed = observe_positions(loaded.model, inventory, feeds, options)
    return Size(inventory.parameters, loaded.bytes, observed.macs)
