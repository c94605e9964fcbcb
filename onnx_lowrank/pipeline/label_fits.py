"""What calibration labels do in closed form, behind factoring and judged with it: companions that were asked for."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace

import onnx

from onnx_lowrank.graph.large import proto_bytes
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline.fit_companions import Companion, companions, wanted
from onnx_lowrank.pipeline.loaded_model import LoadedModel
from onnx_lowrank.progress import Progress
from onnx_lowrank.results.parts import LABELS, Size, Step
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.samples import Samples
from onnx_lowrank.validation import Judge


@dataclass(slots=True, eq=False)
class LabelFits:
    """Fits the last layer, then temperature and bias, to the labels of calibration samples; each only where it gains.

    output: the one that holds class scores; None: the first.
    """

    loaded: LoadedModel
    samples: Samples
    options: Options
    progress: Progress
    output: str | None = None
    _last: tuple[Hashable, onnx.ModelProto] | None = field(default=None)
    _original: tuple[onnx.ModelProto, tuple[Companion, ...]] | None = field(default=None)

    def renewed(self, options: Options) -> LabelFits:
        """Return fits by other options; nothing is fitted yet."""
        return LabelFits(self.loaded, self.samples, options, self.progress, self.output)

    @property
    def active(self) -> bool:
        """Whether anything is asked for."""
        return bool(wanted(self.options))

    def on(self, model: onnx.ModelProto, key: Hashable) -> onnx.ModelProto:
        """Return a model with what was asked for, itself where that is nothing or gains nothing; the last one is kept.

        Raises MetricError where there are no labels that fit, ModelError or RuntimeProblem where onnxruntime refuses.
        """
        if not self.active:
            return model
        if self._last is None or self._last[0] != key:
            self._last = (key, self._fitted(model)[0])
        copy = onnx.ModelProto()
        copy.CopyFrom(self._last[1])
        return copy

    def alone(self) -> tuple[onnx.ModelProto, tuple[Companion, ...]]:
        """Return the original with the same, made once, and what was fitted. Raises like `on`."""
        if self._original is None:
            self._original = self._fitted(self.loaded.model)
        return self._original

    def step(self, judge: Judge, before: Size) -> Step:
        """Return what labels alone do to the original."""
        model, _ = self.alone()
        verdict = judge.judge(Runner(model, runtime=self.options.runtime))
        return Step(LABELS, replace(before, bytes=proto_bytes(model)), verdict)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was fitted of the original, or why nothing was: a sentence each."""
        if not self.active:
            return ()
        return tuple(
            f"{fit.name} fitted to calibration labels: {fit.what}"
            + (f"; {fit.gain:.3g} nats better on samples left out (of the original)" if fit else "")
            for fit in self.alone()[1]
        )

    def _fitted(self, model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[Companion, ...]]:
        done: list[Companion] = []
        layer = replace(self.options, temperature=False, logit_bias=False)
        with self.progress.step("fitting labels", 1) as advance:
            for options in (layer, replace(self.options, last_layer=False)):
                found = companions(model, self.samples, options, self.output)
                if found:
                    done.append(found[-1])  # with temperature and bias the last is both together
                    model = found[-1].model or model
            advance(1)
        return model, tuple(done)
