"""collection.labelled_order: which components the labels keep, by the samples that the basis was fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import build, mlp, node, normal, options, run, value
from scipy.special import log_softmax, softmax

from onnx_lowrank.collection.collect import collect
from onnx_lowrank.collection.fit import Fitted, fit
from onnx_lowrank.collection.joint import joint_scores, joint_scores_of
from onnx_lowrank.collection.labelled_order import Worth, in_labelled_order
from onnx_lowrank.collection.setup import CollectionSetup, passes
from onnx_lowrank.errors import GoalError
from onnx_lowrank.goals import Compact, Gate, Lossless
from onnx_lowrank.numerics import linalg
from onnx_lowrank.numerics.kronecker_metric import kronecker
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline import DataSources, Session, meet_goal
from onnx_lowrank.sensitivity.gradient_mode import collection_setup
from onnx_lowrank.sensitivity.measure import calibration_setup, kind_of, objective_of

MULTIPLE_1 = {"rank_multiple": 1, "objective": "labels", "metric": "top1"}


def session_of(
    tmp_path: Path, model: onnx.ModelProto, x: np.ndarray, labels: Sequence[object] | None, **more
) -> Session:
    parts = {} if labels is None else {"labels": np.asarray(labels)}
    np.savez(tmp_path / "data.npz", x=x, **parts)
    return Session.of(model, DataSources(data=tmp_path / "data.npz"), options(**{**MULTIPLE_1, **more}))


def setup_of(session: Session) -> CollectionSetup:
    samples = session.split.calibration
    kind = kind_of(session.loaded, session.metric(Gate(observed=True))[0], samples)
    objective = objective_of(session.loaded, samples, session.options, kind)
    return collection_setup(
        calibration_setup(session.loaded, samples, session.inventory, session.options, objective), "joint"
    )


def fitted_of(setup: CollectionSetup) -> tuple[Fitted, Fitted]:
    """Return what was fitted, in the order of the metric and in that of the labels."""
    source = setup.source(setup.inventory.sites)
    with linalg.Workers(1) as workers:
        collected = collect(setup, source, workers)
        plain = fit(collected, setup.group(source.sites), workers)
        (ordered,) = in_labelled_order([plain], collected, source, setup, workers)
        for key, kron in ordered.krons.items():
            held = [kronecker(ordered.folds[i][key], collected.moments[i][key]) for i in range(2)]
            np.testing.assert_allclose(kron, np.mean(held, axis=0), rtol=1e-12)
        collected.cache.close()
    return plain, ordered


def classifier(count: int = 160) -> tuple[onnx.ModelProto, np.ndarray, np.ndarray]:
    model = mlp([12, 10, 10], [None, None], 1)
    x = normal([count, 12], 1)
    decided = next(iter(run(model, {"x": x}).values())).argmax(1)
    return model, x, np.where(np.arange(count) % 3 == 0, (decided + 1) % 10, decided)


def memorised(count: int = 400) -> tuple[onnx.ModelProto, np.ndarray, np.ndarray]:
    """Return 8 classes, told from 7 inputs; the last input, which says nothing of labels, is read strongly as well."""
    W = np.zeros((8, 8), np.float32)
    W[:7, :7] = 3 * np.eye(7)
    W[7] = [2, -2, 2, -2, 2, -2, 2, -2]
    model = build([node("MatMul", ["x", "W"], ["y"], "only")], [value("x", ["n", 8])], [value("y", ["n", 8])], {"W": W})
    x = normal([count, 8], 3)
    return model, x, (x[:, :7] * 3).argmax(1)


def test_the_worth_of_a_component_is_its_shrunk_first_order_and_half_its_square():
    changes = np.add(normal([40, 3], 1), [1.0, -1.0, 0.0], dtype=np.float64)
    tails = normal([30, 3], 2).astype(np.float64)
    worth = Worth()
    for part in np.split(changes, 4):
        worth.slopes(part)
    worth.rises(30, (tails**2).sum(0))
    mean, error = changes.mean(0), changes.std(0, ddof=1) / np.sqrt(40)
    shrunk = np.sign(mean) * np.maximum(np.abs(mean) - error, 0)
    np.testing.assert_allclose(worth.total(), shrunk + 0.5 * (tails**2).mean(0), rtol=1e-9, atol=1e-12)
    assert worth.total()[0] > 0 > worth.total()[1]


@pytest.mark.parametrize("samples", [0, 1])
def test_of_fewer_than_two_samples_the_first_order_says_nothing(samples: int):
    worth = Worth()
    worth.slopes(np.full((samples, 2), -5.0))
    worth.rises(2, np.array([2.0, 4.0]))
    np.testing.assert_array_equal(worth.total(), [0.5, 1.0])


def test_components_fall_by_their_worth_on_the_samples_that_the_basis_was_fitted_on(tmp_path: Path):
    """By the cross-entropy's own gradient, of one weight after which nothing comes: y = x W, g = p − one-hot."""
    model, x, labels = memorised()
    session = session_of(tmp_path, model, x, labels)
    setup = setup_of(session)
    plain, ordered = fitted_of(setup)
    numbers = setup.folds.parts
    feeds = np.concatenate([feed["x"] for feed in setup.feeds])
    truth = np.array([int(label) for label in session.split.calibration.labels])
    y = run(model, {"x": feeds})["y"].astype(np.float64)
    p = softmax(y, axis=1)
    ((key, final),) = ordered.final.items()
    assert key[1] == "out"
    for basis, rows in ((ordered.folds[0][key], numbers[1]), (final, sorted(numbers[0] + numbers[1]))):
        g = p - np.eye(8)[truth]
        changes = -((y @ basis.read) * (g @ basis.write))[list(rows)]
        exact = np.zeros(basis.read.shape[1])
        for c in range(8):
            component = (y @ basis.read) * ((p - np.eye(8)[c]) @ basis.write)
            exact += (p[:, c, None] * component**2)[list(rows)].mean(0)
        mean, error = changes.mean(0), changes.std(0, ddof=1) / np.sqrt(len(rows))
        worth = np.sign(mean) * np.maximum(np.abs(mean) - error, 0) + 0.5 * exact
        assert (np.diff(worth) < 0.2 * np.abs(worth).max()).all()  # what is drawn is not what is expected
        assert worth[-1] < 0 < worth[0]
    for before, after in zip(plain.folds, ordered.folds, strict=True):
        np.testing.assert_array_equal(np.sort(before[key].read, axis=1), np.sort(after[key].read, axis=1))


def test_the_order_of_a_fold_does_not_know_its_own_labels(tmp_path: Path):
    model, x, labels = classifier()
    setup = setup_of(session_of(tmp_path, model, x, labels))
    own = set(setup.folds.parts[0])
    other = [(int(label) + 3) % 10 if i in own else int(label) for i, label in enumerate(setup.objective.labels)]
    changed = replace(setup, objective=replace(setup.objective, labels=other))
    one, two = fitted_of(setup)[1], fitted_of(changed)[1]
    for key in one.final:
        np.testing.assert_array_equal(one.folds[0][key].read, two.folds[0][key].read)
        np.testing.assert_array_equal(one.folds[0][key].write, two.folds[0][key].write)
    assert any(not np.array_equal(one.folds[1][key].read, two.folds[1][key].read) for key in one.final)
    assert any(not np.array_equal(one.final[key].read, two.final[key].read) for key in one.final)


def test_what_was_memorised_goes_first(tmp_path: Path):
    """By the labels the useless input is cut; by the distance to the original it is what must be kept."""
    model, x, labels = memorised()
    kept = {}
    for objective in ("original", "labels"):
        session = session_of(tmp_path, model, x, labels, objective=objective)
        state = session.collect(session.metric(Gate(observed=True))[0])
        (site,) = session.inventory.sites
        factors = state.calibrated.decomposed.factors[site.id, "svd"]
        own, cut = (np.linalg.norm(W[:, 7]) for W in (session.inventory.weight(site), factors.dense((7,))))
        kept[objective] = cut / own
        options_of = {option.ranks: option for option in state.curves[0].options}
        if objective == "labels":
            assert options_of[(7,)].loss < 0
            here, there = (
                -log_softmax((x @ W.T).astype(np.float64), axis=1)[np.arange(len(x)), labels].mean()
                for W in (session.inventory.weight(site), factors.dense((7,)))
            )
            assert there < here - 0.1
        else:
            assert options_of[(7,)].loss > 0
    assert kept["labels"] < 0.2 < 0.8 < kept["original"]


def test_losses_come_with_slopes_of_every_sample_where_the_first_order_is_to_choose(tmp_path: Path):
    """Of the samples that are scored it would be noise; the paper's rule takes it as it is."""
    model, x, labels = classifier(400)
    paper = {"objective": None, "sensitivity": "paper"}
    given: tuple[dict[str, object], ...] = ({}, {"objective": None, "signed": True}, paper)
    labelled, signed, plain = (setup_of(session_of(tmp_path, model, x, labels, **more)) for more in given)
    count = len(labelled.samples)
    assert labelled.sloped == signed.sloped == labelled.folds.parts
    assert plain.sloped == plain.folds.scored
    for setup, expected in ((labelled, count), (signed, count), (plain, sum(map(len, plain.folds.scored)))):
        assert {len(score.slopes) for score in joint_scores(setup).scored.values()} == {expected}
        told: list[int] = []
        joint_scores(setup, told.append)
        assert sum(told) == passes([setup])


@pytest.mark.parametrize("memory", [2**30, 1])
def test_setups_that_share_a_collection_have_the_scores_of_each_alone(tmp_path: Path, memory: int):
    """Also where every site is a group of its own, and where samples run again because they could not be cached."""
    model, x, labels = classifier()
    given: tuple[dict[str, object], ...] = ({"objective": None}, {}, {"objective": None, "exponents": (1.0, 0.5)})
    setups = [setup_of(session_of(tmp_path, model, x, labels, **more)) for more in given]
    setups = [replace(setup, options=replace_memory(setup.options, memory)) for setup in setups]
    groups = len(list(setups[0].groups()))
    assert groups == (1 if memory > 1 else len(setups[0].inventory.sites))
    together: list[int] = []
    alone: list[int] = []
    for setup, one in zip(setups, joint_scores_of(setups, together.append), strict=True):
        expected = joint_scores(setup, alone.append).scored
        assert list(one.scored) == list(expected)
        for key, scores in expected.items():
            np.testing.assert_array_equal(one.scored[key].tails, scores.tails)
            np.testing.assert_array_equal(one.scored[key].kron, scores.kron)
            most = scores.ranks[-1]
            np.testing.assert_array_equal(one.scored[key].factors.dense(most), scores.factors.dense(most))
    assert sum(together) == passes(setups) == sum(alone) - 2 * groups * len(setups[0].samples)


def replace_memory(options: Options, memory: int) -> Options:
    """Return options with less memory than they may be made with."""
    changed = replace(options)
    object.__setattr__(changed, "memory", memory)
    return changed


def test_the_same_labels_give_the_same_order_in_any_batch(tmp_path: Path):
    model, x, labels = classifier()
    setup = setup_of(session_of(tmp_path, model, x, labels))
    one, other = (fitted_of(replace(setup, batch=batch))[1] for batch in (1, 4))
    for key, basis in one.final.items():
        np.testing.assert_allclose(other.final[key].read, basis.read, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (None, "--objective labels needs labels with the calibration samples: give `labels` with --data"),
        ("text", "needs class numbers, and these labels are text: give --loss with it"),
        ("float", "needs class numbers, and these labels are no class numbers: give --loss with it"),
    ],
)
def test_labels_that_are_missing_or_no_class_numbers_are_refused_before_anything_runs(tmp_path, labels, text: str):
    model, x, numbers = classifier()
    given = {"text": [f"class {i}" for i in numbers], "float": numbers + 0.5}.get(labels)
    session = session_of(tmp_path, model, x, given, metric="agreement")
    with pytest.raises(GoalError, match=text) as caught:
        setup_of(session)
    assert "\n" not in str(caught.value)


def test_the_plan_of_a_size_is_the_one_that_the_labels_held_back_prefer(tmp_path: Path):
    model, x, labels = memorised(600)
    session = session_of(tmp_path, model, x, labels)
    goal = Lossless(keep=0.9, gate=Gate(observed=True))
    result = meet_goal(session, goal, dry_run=True)
    assert result
    judge = session.labelled_judge()
    assert judge is not None
    assert judge.metric.name == "cross-entropy@y"
    for changes in ({"objective": None}, {"loss": "mine.py:f"}):
        assert session.renewed(options=replace(session.options, **changes)).labelled_judge() is None
    assert session_of(tmp_path, model, x, labels).labelled_judge() is None  # nothing is collected


def test_a_compact_goal_takes_the_objective_too(tmp_path: Path):
    model, x, labels = memorised(600)
    session = session_of(tmp_path, model, x, labels)
    result = meet_goal(session, Compact(gate=Gate(observed=True, max_drop=0.0)), dry_run=True)
    assert result
    assert result.verdict.drop.estimate < 0


def test_without_it_nothing_is_put_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def never(*_: object, **__: object) -> None:
        raise AssertionError("called")

    monkeypatch.setattr("onnx_lowrank.collection.joint.in_labelled_order", never)
    model, x, labels = classifier()
    for more in ({"objective": None}, {"objective": "original"}, {"objective": None, "signed": True}):
        session = session_of(tmp_path, model, x, labels, **more)
        session.collect(session.metric(Gate(observed=True))[0])
    assert Options().objective is None
