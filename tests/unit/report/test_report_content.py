"""What the page tells beside its charts: bounds, notes, options, steps, and weights whose loss was corrected."""

from __future__ import annotations

import pytest
from reports import ended_early, made, step, verdict, with_trust

from onnx_lowrank.report.html import charts, html_page
from onnx_lowrank.report.html.content import content_of

altair = pytest.importorskip("altair")


def test_the_bound_that_decides_is_told_beside_the_interval() -> None:
    told = content_of(made())["verdict"]
    assert told["bound_told"] == "certified below 0.0094"
    assert told["certified"] is True
    assert "two-sided 95 % interval of the drop, 0.0045 [−0.0013, 0.0106]" in told["legend"]
    assert "one-sided bound at 95 %: 0.0094" in told["legend"]


def test_a_bound_that_failed_is_not_called_certified() -> None:
    told = content_of(made(verdict=verdict("failed", 0.02)))["verdict"]
    assert (told["bound_told"], told["certified"]) == ("bound 0.0200", False)


@pytest.mark.parametrize(("word", "bound"), [("observed", 0.0094), ("failed", None)])
def test_no_bound_is_drawn_where_none_counts(word: str, bound: float | None) -> None:
    told = content_of(made(verdict=verdict(word, bound)))["verdict"]
    assert told["bound_told"] == ""
    assert "Nothing is certified" in told["legend"]


def test_notes_are_those_of_the_terminal() -> None:
    latency = {"first_ms": 2.0, "second_ms": 1.0, "pairs": 9,
               "ratio": {"estimate": 0.5, "low": 0.4, "high": 0.6, "level": 0.95}}  # fmt: skip
    tested = verdict(notes=("close",)) | {"agreement": None}
    report = made(verdict=verdict(notes=("4,000 samples would settle it",)), latency=latency, test=tested)
    assert content_of(report | {"predicted_latency_ratio": 0.55})["notes"] == [
        "labels: top1",
        "a note",
        "time: 2.00 times as fast [1.67, 2.50]",
        "time predicted from measured weights: 0.550 of the original's, measured 0.500 (+10 %)",
        "validation: 4,000 samples would settle it",
        "validation: same decision as the original in 0.9810 [0.9740, –] of cases",
        "test: close",
    ]


def test_options_of_zero_are_repeated() -> None:
    assert content_of(made())["repeat"]["options"] == "seed 0, gamma 0.0, refit, provider auto, threads 0"


def test_steps_are_marks_of_their_own() -> None:
    steps = [step("factored alone", 0.5), step("int8 alone", 0.25), step("both", 0.125)]
    content = content_of(made(steps=steps))
    assert [(one["name"], one["bytes"]) for one in content["steps"]] == [
        ("factored alone", 0.5),
        ("int8 alone", 0.25),
        ("both", 0.125),
    ]
    spec = charts.specs(altair, content)["size"]
    own = [layer for layer in spec["layer"] if layer["data"]["name"] == "steps"]
    (points,) = (layer for layer in own if layer["mark"]["type"] == "point")
    shapes = points["encoding"]["shape"]
    drawn = dict(zip(shapes["scale"]["domain"], shapes["scale"]["range"], strict=True))
    assert len({drawn[one["name"]] for one in steps}) == 3
    assert any(layer["mark"]["type"] == "text" and layer["encoding"]["text"]["field"] == "name" for layer in own)


def test_without_steps_there_are_no_marks_of_them() -> None:
    spec = charts.specs(altair, content_of(made()))["size"]
    assert {layer["data"]["name"] for layer in spec["layer"]} == {"lines", "plans"}


@pytest.mark.parametrize("higher", [True, False])
def test_names_of_lines_stand_apart(higher: bool) -> None:
    tight = verdict() | {"higher_is_better": higher, "allowed": 0.0}
    spec = charts.specs(altair, content_of(made(verdict=tight)))["size"]
    lines = next(layer for layer in spec["layer"] if layer["data"]["name"] == "lines")["data"]["values"]
    assert sorted(line["above"] for line in lines) == [False, True]
    words = [layer["mark"] for layer in spec["layer"] if layer["mark"]["type"] == "text"]
    assert {mark["baseline"] for mark in words} == {"top", "bottom"}


@pytest.mark.parametrize(
    ("trusted", "scheme", "beyond"),
    [(0.05, "svd", True), (0.2, "svd", False), (None, "svd", False), (0.05, "dense", False)],
)
def test_weights_that_lose_more_than_predicted_are_marked(trusted: float | None, scheme: str, beyond: bool) -> None:
    report = with_trust(trusted, scheme)
    content = content_of(report)
    assert content["plans"][0]["choices"][0]["beyond"] is beyond
    assert ("* this weight was measured to lose more" in html_page(report)) is beyond


def test_a_run_that_ended_at_once_has_no_empty_sections() -> None:
    page, whole = html_page(ended_early()), html_page(made())
    assert "20 samples cannot certify" in page
    for title in ("Predicted against measured", "What each layer loses", "One layer", "Accuracy against size"):
        assert f"<h2>{title}" not in page
        assert f"<h2>{title}" in whole


def test_a_run_that_measured_no_whole_plan_says_so() -> None:
    assert "<p>No whole plan was measured" in html_page(made())
