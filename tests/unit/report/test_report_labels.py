"""What weights are called: by names that people gave, with the end that tells them apart."""

from __future__ import annotations

import io

import pytest
from builders import mlp, normal, options
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from onnx_lowrank import Compact, Gate, optimize
from onnx_lowrank.report import result_page
from onnx_lowrank.report.labels import labels, shortened
from onnx_lowrank.report.numbers import counted
from onnx_lowrank.types import Site


def site(weight: str, node: str) -> Site:
    return Site("y", node, "MatMul", weight, (4, 4), ("y",))


@pytest.mark.parametrize(
    ("weight", "node", "shown"),
    [
        ("onnx::Conv_1025", "/layer1/conv1/Conv", "/layer1/conv1/Conv"),
        ("onnx::MatMul_12", "", "onnx::MatMul_12"),
        ("val_12", "node_linear", "node_linear"),
        ("_v_7", "a", "a"),
        ("123", "b", "b"),
        ("encoder.weight", "/encoder/MatMul", "encoder.weight"),
        ("fc1", "/fc1/Gemm", "fc1"),
    ],
)
def test_a_name_that_an_exporter_made_up_gives_way_to_the_nodes(weight: str, node: str, shown: str) -> None:
    assert labels([site(weight, node)]) == {"y": shown}


LONG = [f"/bert/encoder/layer.{n}/{part}/dense/MatMul" for n in range(12) for part in ("intermediate", "output")]


def test_long_names_lose_what_they_have_in_common_and_stay_different() -> None:
    made = shortened([*LONG, "pooler"], dict.fromkeys(LONG, "MatMul"), 24)
    assert made["pooler"] == "pooler"
    assert made[LONG[-1]] == "…11/output/dense"
    assert made[LONG[0]] == "…0/intermediate/dense"
    assert len(set(made.values())) == len(made)
    assert all(len(short) <= 24 for short in made.values())


def test_parts_become_initials_where_a_cut_in_the_middle_makes_names_alike() -> None:
    ends = (
        "attention/self/query",
        "attention/self/key",
        "attention/output/dense",
        "intermediate/dense",
        "output/dense",
    )
    deep = [f"/bert/encoder/layer.{n}/{end}/MatMul" for n in range(12) for end in ends]
    names = ["bert.embeddings.word_embeddings.weight", *deep]
    made = shortened(names, dict.fromkeys(deep, "MatMul"), 24)
    assert made["/bert/encoder/layer.0/attention/self/query/MatMul"] == "/b/e/l.0/a/self/query"
    assert made["/bert/encoder/layer.11/intermediate/dense/MatMul"] == "/b/e/l.11/i/dense"
    assert made["bert.embeddings.word_embeddings.weight"] == "b.e.w.weight"
    assert len(set(made.values())) == len(names)
    assert all(len(short) <= 24 for short in made.values())


def test_wide_terminals_show_more_and_names_that_cannot_be_told_apart_stay_whole() -> None:
    assert shortened(LONG, {}, 60) == dict(zip(LONG, LONG, strict=True))
    alike = [f"{'a' * 20}{middle}{'b' * 20}" for middle in "xyz"]
    assert set(shortened(alike, {}, 24).values()) == set(alike)


@given(st.lists(st.text("ab/.1", min_size=1, max_size=60), unique=True, max_size=12), st.integers(8, 40))
def test_no_two_labels_are_alike(names: list[str], room: int) -> None:
    made = shortened(names, {}, room)
    assert len(set(made.values())) == len(names)


def test_one_is_singular() -> None:
    assert (counted(1, "weight"), counted(1200, "weight")) == ("1 weight", "1,200 weights")


def test_long_forms_give_way_to_names_in_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_page, "_scheme", lambda *_: "kernel-first int12/float16")
    model = mlp([24, 32, 40, 10], [6, 6, None], 3)
    model.graph.node[0].input[1] = model.graph.initializer[0].name = "a.name.of.24.letters.abc"
    goal, data = Compact(gate=Gate(max_drop=0.9, observed=True)), {model.graph.input[0].name: normal([200, 24], 5)}
    result = optimize(model, data, goal, options(metric="relative-l2"))
    assert result.changed, result.reason
    console = Console(width=80, file=io.StringIO())
    for part in result_page.render_result(result):
        console.print(part)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= 80
    assert any(line.strip().startswith("a.name.of.24.letters.abc ") for line in lines)
