"""pipeline.refit_check: a refit is kept where samples that it has not seen diverge less."""

from __future__ import annotations

from builders import correlated, feeds_of, found_in, mlp, options, plan_of

from onnx_lowrank.metrics.divergence import OutputDivergence, Probing
from onnx_lowrank.pipeline.loaded_model import LoadedModel
from onnx_lowrank.pipeline.refit import refit
from onnx_lowrank.pipeline.refit_check import loses_less
from onnx_lowrank.schemes import by_name
from onnx_lowrank.validation.reference import Reference

MODEL = mlp([24, 24, 24, 16], [None] * 3, 3)


def test_the_factors_that_diverge_less_win_whichever_they_are():
    found, runtime = found_in(MODEL), options().runtime
    factors = {(site.id, "svd"): by_name("svd").factor(found.weight(site), None, None, (4,)) for site in found.sites}
    plan = plan_of({site.id: ("svd", (4,)) for site in found.sites}, found)
    x = correlated(400, 24, 5)
    repaired = refit(MODEL, found, plan, factors, feeds_of(x[:300]), runtime)
    loaded = LoadedModel.of(MODEL, runtime)
    unseen = Reference(loaded.runner, feeds_of(x[300:]))
    divergence = Probing((OutputDivergence(loaded.runner.names[0], "relative-l2"),))

    def less(*pair: object) -> bool:
        return loses_less(pair, plan, loaded, found, unseen, divergence, runtime)  # type: ignore[arg-type]

    assert less(factors, repaired)
    assert not less(repaired, factors)
    assert not less(factors, factors)  # the same is not less
