"""What is looked at before it is validated: with bits, the very factors that are validated, rounded the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import mlp, normal, run

from onnx_lowrank import Compact, DataSources, Gate, GoalError, Lossless, Options, Runtime, Session, meet_goal
from onnx_lowrank.pipeline.ledger import size_before
from onnx_lowrank.pipeline.search import Search
from onnx_lowrank.types import Plan


def search(bits: tuple[int, ...]) -> Search:
    model = mlp([24, 32, 10], [None, None], 3)
    options = Options(
        runtime=Runtime(threads=1, provider="cpu"), metric="agreement", rank_multiple=1, bits=bits, refit=False
    )
    session = Session.of(model, DataSources(data={model.graph.input[0].name: normal([160, 24], 5)}), options)
    goal = Compact(resource="bytes")
    state = session.in_formats(session.collect(session.metric(goal.gate)[0]), goal.resource)
    problem = session.priced(goal.resource, state).problem
    return Search(session, goal, state, problem, session.judge(goal.gate), size_before(session, state))


def plans(made: Search) -> list[Plan]:
    """Return plans with one weight at its largest rank that saves an identity, in every storage that it has."""
    found = []
    for curve in made.problem.curves:
        narrow = [o for o in curve.options if o.form.interpolative]
        for option in {o.form.storage: o for o in narrow}.values():
            whole = made.problem.best(made.problem.dense, "")
            assert whole is not None
            choices = tuple(
                replace(
                    c,
                    option=option
                    if c.site == curve.site
                    else next(k for k in made.problem.curves if k.site == c.site).dense,
                )
                for c in whole.choices
            )
            found.append(replace(whole, choices=choices))
    return found


def outputs(model: onnx.ModelProto) -> np.ndarray:
    return np.asarray(next(iter(run(model, {model.graph.input[0].name: normal([8, 24], 7)}).values())))


def test_a_sketch_in_bits_computes_what_is_validated() -> None:
    made = search((4, 8, 32))
    rounded = [plan for plan in plans(made) if any(c.option.form.storage != "own" for c in plan.choices)]
    assert rounded
    for plan in rounded:
        np.testing.assert_array_equal(outputs(made.sketch(plan)), outputs(made.truncated(plan)))


def test_a_sketch_without_bits_has_the_same_product() -> None:
    made = search((32,))
    for plan in plans(made):
        np.testing.assert_allclose(outputs(made.sketch(plan)), outputs(made.truncated(plan)), rtol=0, atol=1e-4)


def test_a_target_size_in_bits_is_one_of_the_file_with_what_unpacks_weights(tmp_path: Path) -> None:
    model = mlp([64, 256, 256, 10], [8, 8, None], 3)
    options = Options(runtime=Runtime(threads=1, provider="cpu"), metric="relative-l2", bits=(4, 8, 16, 32))
    session = Session.of(model, DataSources(data={model.graph.input[0].name: normal([160, 64], 5)}), options)
    gate = Gate(max_drop=0.9, observed=True)
    for target in (200_000, 60_000, 25_000):
        result = meet_goal(session, Lossless(target_size=target, gate=gate), output=tmp_path / f"{target}.onnx")
        assert result, result.reason
        assert (tmp_path / f"{target}.onnx").stat().st_size <= target
    with pytest.raises(GoalError, match="--target-size 5,000 bytes cannot be reached"):
        meet_goal(session, Lossless(target_size=5_000, gate=gate), dry_run=True)
