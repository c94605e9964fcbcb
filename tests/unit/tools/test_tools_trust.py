"""Part "trust": simulated metrics are what they say, the gates are the product's, and the page counts right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tools_lines import page_of, raw

from onnx_lowrank import statistics
from onnx_lowrank.metrics import measured
from onnx_lowrank.metrics.custom import Custom
from onnx_lowrank.statistics.betting import beaten

Bench = Callable[[str], Any]


def test_the_middle_plan_of_a_sequence_loses_what_is_allowed(bench: Bench) -> None:
    simulation = bench("benchmarks.trust")
    assert simulation.severities(1) == [1.0]
    assert simulation.severities(5) == pytest.approx([1 / 3, 2 / 3, 1])
    assert len(simulation.severities(15)) == 8


def test_a_beaten_mean_is_one_above_the_bound() -> None:
    for seed in range(30):
        values = np.random.default_rng(seed).uniform(-0.2, 0.2, 100)
        bound = statistics.betting_bound(values, -1.0, 1.0, 0.05, seed=0)
        order = np.random.default_rng(0).permutation(100)
        for allowed in (bound - 1e-4, bound + 1e-4):
            assert beaten((values[order] + 1) / 2, np.ones(100), (allowed + 1) / 2, 0.05) == (bound <= allowed)


def test_resamples_by_counts_are_the_products(bench: Bench) -> None:
    sets = bench("benchmarks.trust_kinds")
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 6, (2, 40))
    x, y = rng.normal(size=(2, 40))

    def f1(outputs: Any, labels: Any) -> float:
        said, labels = np.array([each.item() for each in outputs["y"]]), np.asarray(labels)
        pairs = [((said == k) & (labels == k), (said == k), (labels == k)) for k in range(6)]
        return float(np.mean([2 * both.sum() / max(a.sum() + b.sum(), 1) for both, a, b in pairs]))

    def pearson(outputs: Any, labels: Any) -> float:
        return float(np.corrcoef([each.item() for each in outputs["y"]], labels)[0, 1])

    cases = ((f1, predicted, labels, sets.macro_f1(sets.draws_of(40), labels, predicted)),)
    cases += ((pearson, x, y, sets.correlation(sets.draws_of(40), x, y)),)
    for function, values, truth, found in cases:
        expected = measured(Custom(function, "own"), {"y": [np.array([v]) for v in values]}, truth, None, 0)
        assert found[0] == pytest.approx(expected.values)
        np.testing.assert_allclose(found[1:], expected.replicates, atol=1e-9)


def test_a_simulated_drop_is_the_one_allowed_or_none(bench: Bench) -> None:
    for kind in bench("benchmarks.trust_kinds").KINDS:
        for balanced in (False, True):
            found = [
                each.observed for each in kind.simulated(np.random.default_rng(1), 0.05, 2000, 60, balanced=balanced)
            ]
            error = np.std(found) / np.sqrt(len(found))
            expected = 0.0 if balanced else kind.allowed(0.05)
            assert np.mean(found) == pytest.approx(expected, abs=4 * error + 1e-4), kind.name


def test_no_test_of_pairs_has_more_power_than_the_best(bench: Bench) -> None:
    kind = bench("benchmarks.trust_kinds").RightOrWrong()
    assert kind.best(0.02, 2000, 0.0) == pytest.approx(0.95, abs=0.01)
    assert kind.best(0.05, 500, 0.0) < kind.best(0.05, 2000, 0.0) < kind.best(0.02, 2000, 0.0)


def test_a_cell_is_simulated_the_same_again(bench: Bench) -> None:
    trust = bench("benchmarks.trust")
    first, again = (trust.simulate(trust.KINDS[0], 0.02, 500, 50, 0) for _ in range(2))
    assert first == again
    assert first["repetitions"] == 50
    assert first["false"]["15"] <= first["false"]["5"] <= first["false"]["1"] <= 10


def text_of(bench: Bench, wrong: int, kept: float) -> str:
    trust, lines = bench("benchmarks.trust_page"), []
    for cell in bench("benchmarks.trust").cells(trust.DEMO, False):
        drop = 0.02 if cell.name.endswith("/0") else 0.0
        row = {"saved": True, "kept": 0.2, "true_drop": drop, "tests": 4, "reason": ""}
        rules = {**dict.fromkeys(set(trust.LIMITS) - {trust.BITS}, row), trust.CERTIFIED: {**row, "kept": kept}}
        rules = {trust.BITS: row} if cell.name.startswith("bits") else rules
        data = {"calibration": 512, "test": 10000, "top1": 0.92, "rules": rules}
        lines.append(raw("trust", trust.DEMO, cell.name, data))
    for kind, changed, n in trust.simulations(trust.CHANGED, False):
        data = {
            "kind": kind.name, "changed": changed, "n": n, "repetitions": 2000, "allowed": 0.01,
            "false": {"1": wrong, "5": 50, "15": 0}, "power": 0.5, "best": 0.75,
        }  # fmt: skip
        lines.append(raw("trust", trust.SIMULATED, trust.simulation_name(kind, changed, n), data))
    return page_of(bench, "trust", lines)


def test_the_page_counts_what_was_wrong(bench: Bench) -> None:
    text = text_of(bench, wrong=110, kept=0.18)
    assert "| met | 0 of 48 cells above; largest rate .0550 |" in text
    assert "beside these, at 0.75 % changed | open | — |" in text
    assert "| met | 18.0 % and 20.0 % |" in text
    assert "| certified .01 | 2,000 | 20 | 20 | 1 [.00, .25] | .0010 | .180 [.180, .180] | 4.0 |" in text
    assert "| certified .01, ranks and bits | 500 | 20 | 20 | 1 [.00, .25] | .0010 | .200 [.200, .200] | 4.0 |" in text
    assert "| right or wrong | 2.00 % | 2,000 | .0100 | .0550 | .0250 | .0000 | .0597 | .50 | .75 |" in text
    assert "--part trust --seed 0 --threads 1" in text


def test_the_page_says_what_is_missed(bench: Bench) -> None:
    text = text_of(bench, wrong=130, kept=0.21)
    assert "| **MISSED** | 48 of 48 cells above; largest rate .0650 |" in text
    assert "| **MISSED** | 21.0 % and 20.0 % |" in text
    assert "| **.0650** | .0250 |" in text


def test_it_runs_without_a_zoo_and_once_a_cell(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trust, tool, lines_of = (bench(name) for name in ("benchmarks.trust", "bench", "benchmarks.lines"))
    part = replace(trust.PART, own={trust.SIMULATED: trust.PART.own[trust.SIMULATED]})
    lines = lines_of.Lines(tmp_path, lines_of.Setting(0, 1, True))
    monkeypatch.setattr(trust, "QUICK_REPETITIONS", 20)
    assert tool.measure(tmp_path / "no zoo", [], [part], lines) == []
    assert len(lines.all()) == len(trust.KINDS)
    monkeypatch.setattr(trust, "simulate", lambda *_: pytest.fail("a cell that is there was run again"))
    assert tool.measure(tmp_path / "no zoo", [], [part], lines) == []
    tool.write([part], lines)
    assert (tmp_path / "trust.md").read_text(encoding="utf-8").startswith("# Trust in a quick trial: not to be quoted")
