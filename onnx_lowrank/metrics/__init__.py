"""What a model is worth on samples: metrics with and without labels, the user's own, and distances between outputs."""

from onnx_lowrank.metrics.bounds import bound_of
from onnx_lowrank.metrics.class_scores import decisions
from onnx_lowrank.metrics.collector import Collector, first_outputs, listed
from onnx_lowrank.metrics.custom import Custom
from onnx_lowrank.metrics.differences import Difference
from onnx_lowrank.metrics.divergence import (
    DivergenceKind,
    Probing,
    class_output,
    divergence,
    divergence_kind,
    probing,
)
from onnx_lowrank.metrics.estimate import Measured, best_of, drop_of, interval_of, measured
from onnx_lowrank.metrics.evidence import class_evidence
from onnx_lowrank.metrics.labelled import CrossEntropy, Perplexity, SquaredError, Top
from onnx_lowrank.metrics.metric import IGNORED, Labels, Metric, numeric, taken
from onnx_lowrank.metrics.paired import Agreement, Cosine, Divergence, RelativeL2, agreement, agreements
from onnx_lowrank.metrics.selection import METRICS, MetricSpec, choose_metric, parse_metric, unjudged
from onnx_lowrank.metrics.traits import Fit, Traits, allowed_drop, bounds_of, traits_of
from onnx_lowrank.metrics.wording import certified_drop, impossible_goal, more_samples, number, reason

__all__ = [
    "IGNORED",
    "METRICS",
    "Agreement",
    "Collector",
    "Cosine",
    "CrossEntropy",
    "Custom",
    "Difference",
    "Divergence",
    "DivergenceKind",
    "Fit",
    "Labels",
    "Measured",
    "Metric",
    "MetricSpec",
    "Perplexity",
    "Probing",
    "RelativeL2",
    "SquaredError",
    "Top",
    "Traits",
    "agreement",
    "agreements",
    "allowed_drop",
    "best_of",
    "bound_of",
    "bounds_of",
    "certified_drop",
    "choose_metric",
    "class_evidence",
    "class_output",
    "decisions",
    "divergence",
    "divergence_kind",
    "drop_of",
    "first_outputs",
    "impossible_goal",
    "interval_of",
    "listed",
    "measured",
    "more_samples",
    "number",
    "numeric",
    "parse_metric",
    "probing",
    "reason",
    "taken",
    "traits_of",
    "unjudged",
]
