"""Post-quantisation (`--then`): the model that is judged and saved, and what each step does by itself."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx

from onnx_lowrank.errors import ModelError, RuntimeProblem
from onnx_lowrank.graph.large import proto_bytes
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline.loaded_model import LoadedModel
from onnx_lowrank.progress import Progress
from onnx_lowrank.quantization.onnxruntime_int8 import quantised, refusal, settings
from onnx_lowrank.results.parts import FACTORED, INT8, Size, Step, Trial
from onnx_lowrank.runtime.runner import Runner, runs_on_cpu
from onnx_lowrank.types import Feed, Verdict
from onnx_lowrank.validation import Judge


@dataclass(slots=True, eq=False)
class PostQuantizer:
    """The step after factoring, on the calibration samples: `then` of the options, or nothing.

    Raises ModelError, before anything is measured, for a model that cannot be quantised, and RuntimeProblem for a
    provider that has no int8 kernels.
    """

    loaded: LoadedModel
    feeds: Sequence[Feed]
    options: Options
    clock: Progress
    _original: onnx.ModelProto | None = None
    _last: tuple[Hashable, onnx.ModelProto] | None = field(default=None)

    def __post_init__(self) -> None:
        if self.options.then is None:
            return
        if refused := refusal(self.loaded.model):
            raise ModelError(f"--then {self.options.then}: {refused}")
        if self.options.then != "quantize-weights" and not runs_on_cpu(self.options.runtime.provider):
            raise RuntimeProblem(
                f"--then {self.options.then} makes models for the CPU, and provider {self.options.runtime.provider!r}"
                " would run them elsewhere, no faster than in float: give --provider cpu"
            )

    @property
    def active(self) -> bool:
        """Whether anything comes after factoring."""
        return self.options.then is not None

    def on(self, factored: onnx.ModelProto, key: Hashable) -> onnx.ModelProto:
        """Return a factored model after post-quantisation, itself where there is none. The last one is kept."""
        if self.options.then is None:
            return factored
        if self._last is None or self._last[0] != key:
            self._last = (key, self._quantised(factored))
        copy = onnx.ModelProto()
        copy.CopyFrom(self._last[1])
        return copy

    def alone(self) -> onnx.ModelProto:
        """Return the original after the same step, made once; known to load. Raises ModelError."""
        if self._original is None:
            model = self._quantised(self.loaded.model)
            try:
                Runner(model, runtime=self.options.runtime)
            except ModelError as error:
                raise ModelError(f"--then {self.options.then}: after it {error}; leave --then out") from error
            self._original = model
        return self._original

    def _quantised(self, model: onnx.ModelProto) -> onnx.ModelProto:
        if self.options.then is None:
            raise ValueError("nothing comes after factoring")
        with self.clock.step("quantising", 1) as advance:
            result = quantised(model, self.options.then, self.feeds)
            advance(1)
        return result

    def int8(self, judge: Judge, before: Size) -> Step:
        """Return what the step does to the original by itself."""
        size = Size(before.parameters, proto_bytes(self.alone()), before.macs)
        return Step(INT8, size, self.judged(self.alone(), judge))

    def factored(self, model: onnx.ModelProto, trial: Trial, judge: Judge) -> Step:
        """Return what a plan's factors do before the step."""
        return Step(FACTORED, replace(trial.size, bytes=proto_bytes(model)), self.judged(model, judge))

    def judged(self, model: onnx.ModelProto, judge: Judge) -> Verdict:
        """Return a judge's verdict on a model in memory."""
        return judge.judge(Runner(model, runtime=self.options.runtime))


def settings_of(options: Options) -> Mapping[str, str]:
    """Return the step's settings for a model's provenance, nothing where there is no step."""
    return {} if options.then is None else settings(options.then)
