"""Errors for users: every message says what, where and what to do."""


class LowRankError(Exception):
    """Base of every error this package raises on purpose; its text is one line for a user."""


class ModelError(LowRankError):
    """The model cannot be read, checked, run or saved."""


class DataError(LowRankError):
    """The samples cannot be read or do not fit the model."""


class MetricError(LowRankError):
    """The metric does not fit the outputs or the labels, or a user's metric failed."""


class GoalError(LowRankError):
    """The goal cannot be met by any plan, or contradicts itself."""


class PlanError(LowRankError):
    """A saved plan does not fit the model it is applied to."""


class RuntimeProblem(LowRankError):  # noqa: N818
    """The execution provider is not there, or onnxruntime refuses the model."""
