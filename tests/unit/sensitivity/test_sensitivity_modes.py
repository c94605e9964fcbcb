"""The sensitivity modes: options, which are below them, know the same names and switches; each says what it needs."""

from __future__ import annotations

import numpy as np
import pytest
from builders import build, feeds_of, found_in, mlp, node, normal, options, samples_of, value, weight

from onnx_lowrank.errors import GoalError
from onnx_lowrank.options import SENSITIVITIES, Options
from onnx_lowrank.pipeline.loaded_model import LoadedModel
from onnx_lowrank.progress import Silent
from onnx_lowrank.sensitivity.measure import calibrate, kind_of, probe
from onnx_lowrank.sensitivity.modes import HELP, MODES, mode_named, mode_of

ON = {
    "--exponents": {"exponents": (1.0, 0.5)},
    "--objective": {"objective": "labels"},
    "--signed": {"signed": True},
    "--inter-layer": {"inter_layer": True},
    "--continuation": {"continuation": 2},
    "--loss": {"loss": "mine.py:f"},
}


def test_options_and_modes_agree_on_names_and_switches():
    assert [mode.name for mode in MODES] == list(SENSITIVITIES)
    for mode in MODES:
        assert mode.switches == SENSITIVITIES[mode.name][1]
        assert mode_of(Options(sensitivity=mode.name)) is mode  # type: ignore[arg-type]
        assert f"{mode.name}: {mode.help}." in HELP
        assert not mode.help.endswith(".")


def test_a_name_of_no_mode_is_refused_with_those_there_are():
    for refuse in (lambda: mode_named("jiont"), lambda: Options(sensitivity="jiont")):  # type: ignore[arg-type]
        with pytest.raises(GoalError, match=r"unknown sensitivity 'jiont': take 'joint' .*'paper'"):
            refuse()


@pytest.mark.parametrize("switch", ON)
@pytest.mark.parametrize("mode", MODES, ids=[mode.name for mode in MODES])
def test_a_switch_is_refused_by_the_modes_that_do_not_know_it(mode, switch: str):
    if switch in mode.switches:
        assert options(sensitivity=mode.name, **ON[switch])
        return
    said = "is only used with" if switch == "--loss" else f"{switch}( labels)? belongs to"
    with pytest.raises(GoalError, match=said):
        options(sensitivity=mode.name, **ON[switch])


@pytest.mark.parametrize("mode", MODES, ids=[mode.name for mode in MODES])
def test_a_mode_runs_backward_and_measures_only_if_it_says_so(mode):
    model, chosen = mlp([12, 16, 8], [None, None], 1), options(sensitivity=mode.name, metric="top-1")
    loaded, found, samples = (
        LoadedModel.of(model, chosen.runtime),
        found_in(model),
        samples_of(feeds_of(normal([32, 12], 2))),
    )
    done = calibrate(loaded, samples, found, chosen, Silent(), "kl")
    assert (done.joint is not None) == mode.needs_gradients
    assert bool(done.slopes) == mode.labelled
    state = probe(loaded, found, done, chosen, Silent())
    assert bool(state.checks or any(curve.probes for curve in state.curves)) == mode.measures
    assert state.source.startswith("predicted rise of the loss: nats of KL, ")


@pytest.mark.parametrize("mode", [mode for mode in MODES if not mode.layerwise], ids=lambda mode: mode.name)
def test_factors_depend_on_samples_only_where_a_mode_says_so(mode):
    """The paper's rule needs samples for its ranks; its factors are those of the plain weight."""
    nodes = [node("MatMul", ["x", "W"], ["y"], "fc")]
    model = build(nodes, [value("x", ["n", 8])], [value("y", ["n", 6])], {"W": weight((8, 6), 1)})
    chosen = options(sensitivity=mode.name)
    loaded, found = LoadedModel.of(model, chosen.runtime), found_in(model)
    factors = []
    for seed in (1, 2):
        samples = samples_of(feeds_of(normal([16, 8], seed) * np.arange(1, 9, dtype=np.float32)))
        done = calibrate(loaded, samples, found, chosen, Silent(), kind_of(loaded, None, samples))
        factors.append(done.decomposed.factors["y", "svd"].dense((2,)))
    assert (abs(factors[0] - factors[1]).max() > 1e-3) == mode.needs_data
