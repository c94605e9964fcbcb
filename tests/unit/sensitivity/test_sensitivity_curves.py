"""sensitivity: options worth having, probes spread over them, and losses read off the probes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import (
    convnet,
    correlated,
    feeds_of,
    found_in,
    linear,
    mlp,
    normal,
    observed,
    options,
    plan_of,
    run,
    weight,
)
from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.collection import stream_moments
from onnx_lowrank.metrics import listed, probing
from onnx_lowrank.options import Runtime
from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.sensitivity import decompose, decompose_plain, probe_curves
from onnx_lowrank.sensitivity.decompose import undominated
from onnx_lowrank.sensitivity.measured_response import LARGEST, PROBES, predict, substituted_options
from onnx_lowrank.sensitivity.substitution import LARGEST_LOSS, SMALLEST
from onnx_lowrank.types import UNCHANGED, Cost, Curve, Form, Option, Probe, Why

DENSE = Option(UNCHANGED, Cost(100, 400, 100.0))
ERRORS = st.lists(st.floats(1e-9, 1.0), min_size=1, max_size=12, unique=True)


def curve_of(errors: list[float]) -> Curve:
    rising = sorted(errors)
    made = [Option(Form("svd", (len(rising) - i,)), Cost(90 - i, 0, 0.0), e) for i, e in enumerate(rising)]
    return Curve("s", (DENSE, *made))


@given(ERRORS, st.lists(st.tuples(st.floats(1e-7, 0.5), st.floats(0, 100)), min_size=1, max_size=4))
def test_predicted_losses_never_fall_with_the_error(errors: list[float], measured: list[tuple[float, float]]):
    probes = [Probe(*pair) for pair in measured]
    got = predict(curve_of(errors), probes)
    assert got.probes == tuple(probes)
    assert got.dense.loss == 0.0
    losses = [o.loss for o in sorted(got.options[1:], key=lambda o: o.error)]
    assert (np.diff(losses) >= -1e-12 * np.array(losses[1:])).all()
    assert all(loss > 0 for loss in losses)
    assert [replace(o, loss=0.0) for o in got.options] == list(curve_of(errors).options)


@given(st.lists(st.tuples(st.floats(1e-6, 0.5), st.floats(1e-9, 100)), min_size=1, max_size=4))
def test_prediction_is_exact_at_the_probes_where_they_rise(pairs: list[tuple[float, float]]):
    errors, losses = sorted({e for e, _ in pairs}), sorted(loss for _, loss in pairs)
    probes = [Probe(e, loss) for e, loss in zip(errors, losses, strict=False)]
    got = {o.error: o.loss for o in predict(curve_of(errors), probes).options[1:]}
    for probe in probes:
        assert got[probe.error] == pytest.approx(probe.loss, rel=1e-9)


def test_between_probes_a_power_law_and_proportional_outside():
    probes = [Probe(1e-4, 1e-3), Probe(1e-2, 1e-1 * 10)]  # slope 1.5 in log-log
    got = {o.error: o.loss for o in predict(curve_of([1e-6, 1e-3, 1e-1]), probes).options[1:]}
    assert got[1e-6] == pytest.approx(1e-5)
    assert got[1e-3] == pytest.approx(10**-1.5)
    assert got[1e-1] == pytest.approx(10.0)


def test_without_a_probe_nothing_is_claimed():
    assert predict(curve_of([0.1]), [Probe(0.0, 0.0)]).options[1].loss == 0.0
    assert predict(curve_of([0.1]), []).probes == ()


@given(ERRORS)
def test_chosen_probes_are_few_and_worth_measuring(errors: list[float]):
    curve = curve_of(errors)
    picked = substituted_options(curve)
    assert len(picked) == len(set(picked)) <= PROBES
    assert set(picked) <= set(curve.options[1:])
    usable = [e for e in errors if SMALLEST < e <= LARGEST]
    if usable:
        assert {min(usable), max(usable)} <= {o.error for o in picked}
    else:
        assert len(picked) == 1


def test_chosen_are_spread_on_a_log_scale():
    errors = [1e-6, 2e-6, 3e-6, 4e-4, 0.1, 0.2, 0.3]
    assert [o.error for o in substituted_options(curve_of(errors))] == [1e-6, 4e-4, 0.3]
    assert [o.error for o in substituted_options(curve_of([0.9, 0.6]))] == [0.6]
    assert substituted_options(Curve("s", (DENSE, Option(Form("svd", (1,)), Cost(), 0.0)))) == []


def test_undominated_options_beat_each_other_in_something():
    def option(parameters: int, macs: float, error: float) -> Option:
        return Option(Form("svd", (parameters,)), Cost(parameters, 0, macs), error)

    small, quick, exact, worse = option(1, 9, 0.5), option(5, 1, 0.5), option(8, 8, 0.1), option(9, 9, 0.1)
    assert undominated([worse, small, quick, exact]) == [exact, quick, small]
    assert undominated([exact, exact]) == [exact]


def prepared(model, feeds, **given):
    found = found_in(model)
    seen = observed(model, found, feeds)
    moments = stream_moments(model, found, seen, feeds, feeds, options(), batch=1)
    return found, decompose(found, seen, moments, whiten=True, multiple=1, **given)


def divergence_on(model, feeds):
    runner = Runner(model, runtime=Runtime(provider="cpu", threads=1))
    return probing("relative-l2", listed([runner.run(feed) for feed in feeds])).summed


def test_of_options_that_lose_the_same_the_cheapest_then_the_first_scheme_is_kept():
    def option(scheme: str, rank: int, parameters: int, macs: float, error: float) -> Option:
        return Option(Form(scheme, (rank,)), Cost(parameters, 4 * parameters, macs), error)

    cheap, dear = option("svd", 2, 10, 10, 0.1), option("svd", 4, 20, 20, 0.1 * (1 - 1e-8))
    first, last = option("kernel-first", 2, 30, 30, 0.01), option("kernel-last", 2, 30, 30, 0.01 * (1 - 1e-8))
    better = option("kernel-last", 2, 30, 30, 0.009)
    for given_options in ([cheap, dear, first, last], [last, first, dear, cheap]):
        assert undominated(given_options) == [first, cheap]
    assert undominated([better, first, cheap]) == undominated([first, cheap, better]) == [better, cheap]
    exact = option("svd", 6, 40, 40, 3e-15)
    assert undominated([exact, option("svd", 8, 50, 50, 1e-16), cheap]) == [exact, cheap]


def test_probing_a_linear_model_measures_what_the_errors_say():
    """One layer: the divergence is the site's own relative error, over the output's variance instead of its power."""
    model = linear(weight((16, 12), 1))
    x = correlated(80, 16, 2)
    feeds = feeds_of(x - x.mean(0))
    found, decomposed = prepared(model, feeds)
    (curve,) = probe_curves(model, found, decomposed, feeds, divergence_on(model, feeds), options())
    assert len(curve.probes) == PROBES
    y = (x - x.mean(0)).astype(np.float64) @ weight((16, 12), 1)
    ratio = float((y**2).mean() / y.var())
    for option in curve.options[1:]:
        if SMALLEST < option.error < LARGEST:
            assert option.loss == pytest.approx(ratio * option.error, rel=0.01)


@pytest.mark.parametrize("make", [lambda: mlp([8, 12, 10, 4], [None] * 3, 1), lambda: convnet([3, 8], [None], 4, 5)])
def test_a_predicted_loss_is_measured_when_the_site_alone_is_replaced(make):
    model = make()
    shape = [d.dim_value or 1 for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    feeds = feeds_of(normal([12, *shape], 3))
    found, decomposed = prepared(model, feeds)
    measure = divergence_on(model, feeds)
    for curve in probe_curves(model, found, decomposed, feeds, measure, options(), batch=4):
        assert curve.probes
        for probe in curve.probes:
            option = next(o for o in curve.options[1:] if o.error == probe.error)
            changed = rewrite(
                model, found, plan_of({curve.site: (option.scheme, option.ranks)}, found), decomposed.factors
            )
            alone = sum(measure(run(model, feed), run(changed, feed), 1) for feed in feeds) / len(feeds)
            assert probe.loss == pytest.approx(alone, rel=1e-3, abs=1e-9)


def test_an_infinite_divergence_stays_a_number():
    model = linear(weight((6, 5), 1))
    feeds = feeds_of(normal([4, 6], 2))
    found, decomposed = prepared(model, feeds)
    (curve,) = probe_curves(model, found, decomposed, feeds, lambda *_: float("inf"), options())
    assert {p.loss for p in curve.probes} == {LARGEST_LOSS}


def test_a_site_whose_input_is_always_zero_stays_dense_with_its_reason():
    model = mlp([8, 8, 4], [None, None], 1)
    feeds = feeds_of(np.zeros((4, 8), np.float32))
    _found, decomposed = prepared(model, feeds)
    (dead,) = decomposed.dead
    assert (dead.weight, dead.why, dead.detail) == ("fc0", Why.UNREACHED, "its input is always zero")
    assert [curve.site for curve in decomposed.curves] == ["y"]
    assert all(site != "h0" for site, _ in decomposed.factors)


@pytest.mark.parametrize("silent", ["fit", "score"])
def test_a_site_that_either_half_of_the_samples_leaves_out_stays_dense(silent: str):
    model = linear(weight((8, 6), 1))
    zeros, some = feeds_of(np.zeros((4, 8), np.float32)), feeds_of(normal([4, 8], 1))
    found = found_in(model)
    halves = (zeros, some) if silent == "fit" else (some, zeros)
    moments = stream_moments(model, found, observed(model, found, some), *halves, options(), batch=1)
    decomposed = decompose(found, observed(model, found, some), moments, whiten=True, multiple=1)
    assert [skip.why for skip in decomposed.dead] == [Why.UNREACHED]
    assert not decomposed.curves


def test_plain_decomposition_needs_no_data_and_knows_no_macs():
    found = found_in(convnet([3, 8], [None], 4, 5))
    decomposed = decompose_plain(found, 1)
    assert {curve.site for curve in decomposed.curves} == {"c0", "y"}
    assert set(decomposed.factors) == {
        *(("c0", scheme) for scheme in ("kernel-first", "kernel-last", "tucker-2", "separable")),
        ("y", "svd"),
    }
    assert all(option.cost.macs == 0 for curve in decomposed.curves for option in curve.options)
    assert all(
        curve.dense.cost.parameters > o.cost.parameters for curve in decomposed.curves for o in curve.options[1:]
    )
