"""The result of `optimize`: a model, the outcome in one line, the request, what was made and what was measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import onnx

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.files import spare
from onnx_lowrank.graph.model_io import Apart, Level, check, staged
from onnx_lowrank.results.brief import html, line, size_rows, sizes
from onnx_lowrank.results.parts import Findings, Made, Measured, Original, Request, Size, Step, Trial
from onnx_lowrank.runtime.timing import Timing
from onnx_lowrank.types import Certificate, Curve, Plan, Site, Skip, Verdict


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Result:
    """Outcome of `optimize`. Truthy when a smaller model passed (`made`); otherwise `model` is the original.

    reason: in one line how it ended. The properties are shortcuts to what is in the parts.
    """

    model: onnx.ModelProto
    reason: str
    original: Original
    request: Request
    findings: Findings
    made: Made | None = None
    measured: Measured = field(default_factory=Measured)

    def __bool__(self) -> bool:
        return self.made is not None

    def __repr__(self) -> str:
        return line("Result", self.reason, sizes(self.before, self.after) if self else "")

    def _repr_html_(self) -> str:
        rows = size_rows(self.before, self.after)
        if self.verdict is not None:
            metric, drop = self.verdict, self.verdict.drop
            values = (f"{value.estimate:.4f}" for value in (metric.original, metric.candidate))
            rows.append((metric.metric, *values, f"drop {drop.estimate:.4f} [{drop.low:.4f}, {drop.high:.4f}]"))  # type: ignore[arg-type]
        return html(self.reason, ("", "original", "compressed", ""), rows)

    @property
    def changed(self) -> bool:
        """Whether a smaller model passed."""
        return self.made is not None

    @property
    def before(self) -> Size:
        """The original's size."""
        return self.original.size

    @property
    def after(self) -> Size:
        """The model's size: the original's where nothing was made."""
        return self.original.size if self.made is None else self.made.size

    @property
    def plan(self) -> Plan | None:
        """The plan of what was made."""
        return None if self.made is None else self.made.plan

    @property
    def certificate(self) -> Certificate | None:
        """What the file claims."""
        return None if self.made is None else self.made.certificate

    @property
    def output(self) -> Path | None:
        """Where the model was written."""
        return None if self.made is None else self.made.output

    @property
    def verdict(self) -> Verdict | None:
        """The verdict of validation on the model as reloaded from disk."""
        return self.measured.verdict

    @property
    def test(self) -> Verdict | None:
        """The verdict on the test samples."""
        return self.measured.test

    @property
    def latency(self) -> Timing | None:
        """The measured time against the original's."""
        return self.measured.latency

    @property
    def steps(self) -> tuple[Step, ...]:
        """What factoring, int8 and both do."""
        return self.measured.steps

    @property
    def sites(self) -> tuple[Site, ...]:
        """The weights that can be factored."""
        return self.findings.sites

    @property
    def skips(self) -> tuple[Skip, ...]:
        """The weights that stay as they are, and why."""
        return self.findings.skips

    @property
    def curves(self) -> tuple[Curve, ...]:
        """Every option of every weight."""
        return self.findings.curves

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All plans measured, in order."""
        return self.findings.trials

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user has to know."""
        return self.findings.notes

    @property
    def warnings(self) -> tuple[str, ...]:
        """What belongs beside any claim."""
        return self.findings.warnings

    @property
    def metric(self) -> str:
        """The metric that judged, and why."""
        return self.request.metric

    @property
    def predicted_ratio(self) -> float | None:
        """The plan's time over the original's as it was predicted; None unless latency was the goal."""
        if not self.changed or not self.before.milliseconds:
            return None
        return self.after.milliseconds / self.before.milliseconds

    def save(self, path: Path | str, *, external_data: bool = False, shard_size: int | None = None) -> None:
        """Write the model atomically; its weights to a file beside it, or to several of so many bytes at most.

        Above protobuf's 2 GiB they always go there. Raises ModelError where nothing was gained, or the place cannot be
        written. That is so, too, for the files of the original.
        """
        if not self.changed:
            raise ModelError(f"nothing to save: {self.reason}")
        target = Path(path)
        spare(target, self.original.files)
        with staged(self.model, target, Apart(external_data, shard_size)) as stage:
            check(stage.path, min(self.original.held_to, Level.BASIC))  # `optimize` has made the full check
            stage.publish(self.original.files)
