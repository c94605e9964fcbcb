"""How a run ended, in one line for a user."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from onnx_lowrank.goals import Gate
from onnx_lowrank.results.parts import FACTORED, INT8, Step, Trial
from onnx_lowrank.types import Skip, Verdict

ALONE = {FACTORED: "factored alone it", INT8: "int8 of the original alone"}


def refuted(verdict: Verdict, test: Verdict, steps: Sequence[Step]) -> str:
    """Say that the test samples contradict validation: even the lower end of the drop is not allowed."""
    drop = test.drop
    message = (
        f"a plan held on validation (drop {verdict.drop.estimate:.4g}) but not on the test samples (drop"
        f" {drop.estimate:.4g}, {drop.low:.4g} at the least): give validation samples that resemble them, or more"
    )
    alone = [(step.name, step.test.drop) for step in steps if step.test is not None and step.name in ALONE]
    return "; there ".join([message, *(f"{ALONE[name]} has a drop of {drop.estimate:.4g}" for name, drop in alone)])


def no_curve(dead: Sequence[Skip]) -> str:
    """Say that no weight can be measured on the calibration samples, and why for most of them."""
    reasons = Counter((skip.why.value, skip.detail) for skip in dead)
    ((why, detail), count), *_ = reasons.most_common(1)
    which = "the only weight is" if len(dead) == 1 else f"{count} of {len(dead)} weights are"
    return f"no weight can be factored by these calibration samples: {which} {why} ({detail}); check the samples' range"


def why_nothing(trials: Sequence[Trial], gate: Gate, *, no_faster: bool = False) -> str:
    """Say that no plan passed, and how close the nearest was. `no_faster`: time counts, and no option saves any."""
    if not trials and no_faster:
        return "no weight gets faster: by measurement every rank of every weight takes at least the time it has"
    if not trials:
        return "no plan that saves anything could be formed"
    if any(trial.verdict.passed for trial in trials):
        return (
            "what held in memory was not saved: its file is larger than was asked for, or no smaller than the original,"
            " or was judged otherwise when it was read again"
        )
    if gate.observed:
        if len(trials) == 1:
            return f"the only plan did not pass: {trials[0].verdict.reason}"
        return f"none of {len(trials)} plans passed; the nearest: {nearest(trials).verdict.reason}"
    return f"the mildest plan could not be certified: {trials[0].verdict.reason}"


def nearest(trials: Sequence[Trial]) -> Trial:
    """Return the trial of least drop."""
    return min(trials, key=lambda trial: trial.verdict.drop.estimate)


def blame(steps: Sequence[Step]) -> str:
    """Say what factoring and post-quantisation do by themselves where both together failed: which is the cause."""
    sentences = []
    for step in steps:
        if step.name in ALONE:
            does = "holds" if step.verdict.passed else "does not hold"
            drop = step.verdict.drop.estimate
            sentences.append(f"{ALONE[step.name]} {does} (drop {drop:.4g}, {step.size.bytes:,} bytes)")
    return "; ".join(sentences)
