"""Statistics that a claim rests on: confidence intervals, and one-sided tests that keep their level for any n."""

from onnx_lowrank.statistics.betting import betting_bound
from onnx_lowrank.statistics.intervals import (
    LEAST_RESAMPLES,
    LEVEL,
    RESAMPLES,
    aggregate_bound,
    aggregate_interval,
    binary,
    exact_difference,
    grouped,
    mean_interval,
    median_interval,
    paired_interval,
    proportion_interval,
    rare_share,
    relative_interval,
    resamples,
    samples_needed,
    single_interval,
    span_of,
)
from onnx_lowrank.statistics.noninferiority import difference_bound, difference_p_value, share_bound

__all__ = [
    "LEAST_RESAMPLES",
    "LEVEL",
    "RESAMPLES",
    "aggregate_bound",
    "aggregate_interval",
    "betting_bound",
    "binary",
    "difference_bound",
    "difference_p_value",
    "exact_difference",
    "grouped",
    "mean_interval",
    "median_interval",
    "paired_interval",
    "proportion_interval",
    "rare_share",
    "relative_interval",
    "resamples",
    "samples_needed",
    "share_bound",
    "single_interval",
    "span_of",
]
