"""METRICS is the one list of metrics: manual and --help follow it, and what a metric says of itself is read off it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from onnx_lowrank.cli import main
from onnx_lowrank.goals import MAX_DROP, TOLERANCE, Gate
from onnx_lowrank.metrics import (
    METRICS,
    Agreement,
    CrossEntropy,
    Custom,
    Perplexity,
    RelativeL2,
    Top,
    allowed_drop,
    selection,
    traits_of,
)
from onnx_lowrank.metrics.traits import Fit, Traits

MANUAL = Path(__file__).resolve().parents[3] / "docs" / "samples.md"


def test_names_are_unique():
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)


def test_the_manual_lists_every_metric_and_no_other():
    section = MANUAL.read_text(encoding="utf-8").split("\n## Metrics\n")[1].split("\n## ")[0]
    sentence = section.split("`name@output`")[0]
    assert set(re.findall(r"`([^`]+)`", sentence)) == {metric.name for metric in METRICS}


@pytest.mark.parametrize("command", ["optimize", "compare"])
def test_help_lists_every_metric_by_whether_it_needs_labels(command):
    text = next(option.help for option in main.commands[command].params if option.name == "metric")
    labelled, rest = text.split(" (labels); ")
    unlabelled = rest.split(" (no labels)")[0]
    assert labelled.split(", ") == [metric.name for metric in METRICS if metric.needs_labels]
    assert unlabelled.split(", ") == [metric.name for metric in METRICS if not metric.needs_labels]


@pytest.mark.parametrize(
    ("metric", "traits"),
    [
        (Top(1), Traits(on_class_scores=True)),
        (Top(5), Traits(on_class_scores=True, accepts_several=True)),
        (CrossEntropy(), Traits(on_class_scores=True)),
        (Perplexity(), Traits(on_class_scores=True)),
        (Agreement(), Traits(on_class_scores=True, compares_decisions=True)),
        (RelativeL2("z"), Traits(default_drop=TOLERANCE)),
        (Custom(len, "len"), Traits()),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_what_a_metric_says_of_itself(metric, traits):
    assert traits_of(metric) == traits


def test_the_allowed_drop_is_the_users_else_the_metrics():
    assert allowed_drop(RelativeL2(), Gate()) == TOLERANCE
    assert allowed_drop(Top(1), Gate()) == MAX_DROP
    assert allowed_drop(RelativeL2(), Gate(max_drop=0.5)) == 0.5


@dataclass(frozen=True)
class Fitting(Agreement):
    """Fits every output, or only those of one name and then for sure."""

    only: str | None = None

    def fit(self, name, samples, labels):
        return Fit(f"fits {name}", sure=self.only == name) if self.only in (None, name) else None


@pytest.mark.parametrize(
    ("metrics", "why"),
    [
        ((Fitting(), RelativeL2()), "no labels; fits a"),
        ((RelativeL2(), Fitting()), "no labels; nothing says that output 'a' holds class scores: relative-l2"),
        ((RelativeL2(), Fitting(only="b")), "no labels; fits b"),
        ((Top(5),), None),
    ],
)
def test_the_default_is_the_first_sure_fit_else_the_first(monkeypatch, metrics, why):
    monkeypatch.setattr(selection, "METRICS", metrics)
    outputs = {name: [np.zeros((1, 4), np.float32)] for name in "ab"}
    if why is None:
        with pytest.raises(selection.MetricError):
            selection.choose_metric(None, None, outputs)
    else:
        assert selection.choose_metric(None, None, outputs)[1] == why
