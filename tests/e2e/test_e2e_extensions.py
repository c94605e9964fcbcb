"""Each kind of thing is one object and one entry: toys, entered in one place each, take part in a run of `optimize`.

Every toy is a fixture of its own that enters it by monkeypatch, so that it can be left out: what it is for then fails.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest
from builders import build, node, normal, options, run, value, weight

from onnx_lowrank import ops, schemes
from onnx_lowrank.errors import DataError, MetricError
from onnx_lowrank.goals import Compact, Gate
from onnx_lowrank.gradient import GradientRunner, build_gradient
from onnx_lowrank.gradient.rules import table
from onnx_lowrank.metrics import selection
from onnx_lowrank.ops.op import Written
from onnx_lowrank.options import Runtime
from onnx_lowrank.pipeline import optimize
from onnx_lowrank.results.result import Result
from onnx_lowrank.samples import Reader, detect
from onnx_lowrank.samples.reader import is_file_of
from onnx_lowrank.samples.records import Raw, Record
from onnx_lowrank.schemes import offered
from onnx_lowrank.types import Form, Positions, Why

SAMPLES, SHAPE, CHANNELS, HIDDEN, CLASSES = 100, (4, 4, 4), 16, 32, 6
ALPHA, BETA, BIAS = 0.5, 0.75, 2.0


# A metric: an object with the attributes of the protocol, and its entry in METRICS


@dataclass(frozen=True)
class SameParity:
    """Share of samples whose largest score has an even number where the original's has, and an odd one otherwise."""

    output: str | None = None
    name: ClassVar[str] = "same-parity"
    higher_is_better: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = True
    whole: ClassVar[bool] = False
    best: ClassVar[float] = 1.0
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def values(self, outputs, labels, reference):
        name = self.output or next(iter(outputs))
        pairs = zip(outputs[name], reference[name], strict=True)
        return np.array([float((np.argmax(a) - np.argmax(b)) % 2 == 0) for a, b in pairs])


@pytest.fixture
def toy_metric(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a metric that exists while the test runs."""
    monkeypatch.setattr(selection, "METRICS", (*selection.METRICS, SameParity()))
    return SameParity.name


# A reader: what it takes and how it reads, and its entry in READERS


def read_toy(source, inputs):
    (spec,) = inputs
    rows = np.loadtxt(source, ndmin=2)
    return Raw(str(source), [Record({spec.name: row.reshape(1, *spec.shape[1:])}) for row in rows])


TOY_READER = Reader(
    name="toy",
    form="a .toy text of one sample a line",
    takes=lambda source: is_file_of(source, ".toy"),
    read=read_toy,
)


@pytest.fixture
def toy_reader(monkeypatch: pytest.MonkeyPatch) -> Reader:
    """A reader that exists while the test runs."""
    monkeypatch.setattr(detect, "READERS", (TOY_READER, *detect.READERS))
    return TOY_READER


# A gradient rule: a function, and its row in RULES


def lrn_of_one_channel(context):
    """y = x d^−β with d = bias + α x²: dx = g (d^−β − 2 α β x² d^(−β−1))."""
    x, alpha, beta = context.x(), context.number("alpha", 1e-4), context.number("beta", 0.75)
    squares = x * x
    logarithm = (squares * alpha + context.number("bias", 1.0)).apply("Log")
    first = (logarithm * -beta).apply("Exp")
    second = squares * (2 * alpha * beta) * (logarithm * (-beta - 1)).apply("Exp")
    return [context.g * (first - second)]


@pytest.fixture
def toy_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule, while the test runs, for an operator that has none."""
    assert ("", "LRN") not in table.RULES
    monkeypatch.setattr(table, "RULES", {**table.RULES, ("", "LRN"): lrn_of_one_channel})


# An operator: a class, and its entry in OPS


class FusedMatMul(ops.Op):
    """onnxruntime's y = α x Wᵀ, W (out, in); α belongs to the last stage."""

    op_type = "com.microsoft.FusedMatMul"

    def refuse(self, call, shape):
        flags = tuple(call.attributes.get(name, 0) for name in ("transA", "transB", "transBatchA", "transBatchB"))
        if call.slot == 1 and len(shape) == 2 and flags == (0, 1, 0, 0):
            return None
        return Why.OPERATOR, "FusedMatMul: only x Wᵀ of a matrix W"

    def canonical(self, call, weight):
        return weight

    def stored(self, call, stage, *, position="whole"):
        return stage.weight

    def node(self, call, stage, at, names):
        attributes = {"transB": 1, "alpha": self.scale(call) if at.last else 1.0}
        name = names(f"{call.name}.{at.index}")
        operands = [at.input, at.weight]
        made = onnx.helper.make_node(
            "FusedMatMul", operands, [at.output], name, None, "com.microsoft", None, **attributes
        )
        return Written((made,))

    def scale(self, call):
        return float(call.attributes.get("alpha", 1.0))

    def positions(self, call, x, y, kernel):
        return Positions(calls=float(np.prod(x[:-1])))

    def vectors(self, call, x, kernel):
        return x.reshape(-1, x.shape[-1])

    def results(self, call, y):
        return y.reshape(-1, y.shape[-1])

    def macs(self, node, left, right, out):
        return float(np.prod(out) * left[-1])


@pytest.fixture
def toy_op(monkeypatch: pytest.MonkeyPatch) -> str:
    """The type of an operator that can be factored while the test runs."""
    assert ops.by_type(FusedMatMul.op_type) is None
    monkeypatch.setattr(ops, "OPS", (*ops.OPS, FusedMatMul()))
    return FusedMatMul.op_type


# A scheme: a class, and its entry in SCHEMES


class EvenRanks(schemes.Svd):
    """Plain pairs at even ranks: as good as svd there, and before it where ties are decided."""

    name = "even-ranks"

    def ranks(self, shape, multiple, groups=1):
        return [ranks for ranks in super().ranks(shape, multiple, groups) if ranks[0] % 2 == 0]


@pytest.fixture
def toy_scheme(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a scheme that exists while the test runs."""
    monkeypatch.setattr(offered, "SCHEMES", (EvenRanks(), *offered.SCHEMES))
    return EvenRanks.name


# A model and samples that need them


def toy_model() -> onnx.ModelProto:
    """Conv of rank 3, LRN over one channel, Conv of rank 4, FusedMatMul of rank 6, and a Gemm to class scores."""
    weights = {
        "before": weight((CHANNELS, SHAPE[0], 3, 3), 1, rank=3),
        "after": weight((CHANNELS, CHANNELS, 3, 3), 2, rank=4),
        "fused": weight((HIDDEN, CHANNELS * SHAPE[1] * SHAPE[2]), 4, rank=6),
        "head": weight((CLASSES, HIDDEN), 3),
    }
    nodes = [
        node("Conv", ["x", "before"], ["a"], "conv0", pads=[1, 1, 1, 1]),
        node("LRN", ["a"], ["b"], "lrn", size=1, alpha=ALPHA, beta=BETA, bias=BIAS),
        node("Conv", ["b", "after"], ["c"], "conv1", pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["d"]),
        node("Flatten", ["d"], ["flat"]),
        onnx.helper.make_node(
            "FusedMatMul", ["flat", "fused"], ["e"], "fuse", None, "com.microsoft", None, alpha=2.0, transB=1
        ),
        node("Gemm", ["e", "head"], ["y"], "gemm", transB=1),
    ]
    model = build(nodes, [value("x", ["n", *SHAPE])], [value("y", ["n", CLASSES])], weights)
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    return model


@pytest.fixture
def toy_file(tmp_path: Path) -> Path:
    """A text that only the toy reader takes."""
    path = tmp_path / "samples.toy"
    np.savetxt(path, normal([SAMPLES, int(np.prod(SHAPE))], 5))
    return path


def run_toys(data: Path, metric: str) -> Result:
    goal = Compact(gate=Gate(max_drop=0.01, observed=True))
    return optimize(toy_model(), data, goal, options(metric=metric), dry_run=True)


def test_a_run_with_a_toy_of_every_kind(
    toy_metric: str, toy_reader: Reader, toy_rule: None, toy_op: str, toy_scheme: str, toy_file: Path
):
    result = run_toys(toy_file, toy_metric)
    assert result.changed, result.reason
    assert result.verdict.metric == toy_metric
    assert result.verdict.original.estimate == SameParity.best
    taken = {choice.weight: choice.option.form for choice in result.plan.factored}
    assert taken.keys() >= {"before", "after", "fused"}
    assert taken["fused"] == Form(toy_scheme, (6,))
    assert sum(made.op_type == "FusedMatMul" for made in result.model.graph.node) == 2
    assert not [note for note in result.notes if "no gradient" in note]


def test_without_the_toy_metric_its_name_is_unknown(toy_reader: Reader, toy_rule: None, toy_file: Path):
    with pytest.raises(MetricError, match="unknown metric 'same-parity'"):
        run_toys(toy_file, SameParity.name)


def test_without_the_toy_op_its_weight_is_left_alone(
    toy_metric: str, toy_reader: Reader, toy_rule: None, toy_file: Path
):
    skips = {skip.weight: skip.detail for skip in run_toys(toy_file, toy_metric).skips}
    assert skips["fused"] == "com.microsoft.FusedMatMul"


def test_without_the_toy_scheme_another_takes_its_place(
    toy_metric: str, toy_reader: Reader, toy_rule: None, toy_op: str, toy_file: Path
):
    plan = run_toys(toy_file, toy_metric).plan
    assert {c.weight: c.option.form for c in plan.factored}["fused"] == Form("svd", (6,))


def test_without_the_toy_reader_its_files_are_of_no_form(toy_metric: str, toy_rule: None, toy_file: Path):
    with pytest.raises(DataError, match=r"samples.toy is of no form that can be read as samples"):
        run_toys(toy_file, toy_metric)


def test_without_the_toy_rule_the_weight_before_it_has_no_gradient(toy_metric: str, toy_reader: Reader, toy_file: Path):
    (note,) = (note for note in run_toys(toy_file, toy_metric).notes if "no gradient" in note)
    assert note.startswith("1 of 3 weights has no gradient (no rule for LRN)")


def test_the_toy_rule_is_the_derivative(toy_rule: None):
    """Against central differences of the operator itself, in float32: of order step², so 1e-3 of the largest slope."""
    shape, step = [1, 2, 3, 3], 1e-2
    lrn = node("LRN", ["x"], ["y"], "lrn", size=1, alpha=ALPHA, beta=BETA, bias=BIAS)
    model = build([lrn], [value("x", shape)], [value("y", shape)], {})
    x = normal(shape, 7)
    graph = build_gradient(model, ["x"])
    assert not graph.unreached
    runner = GradientRunner(graph, runtime=Runtime(provider="cpu", threads=1))
    gradient = runner.run({"x": x}, lambda values: {"y": np.ones_like(values["y"])}).gradients["x"]
    high, low = (run(model, {"x": x + np.float32(sign * step)})["y"] for sign in (1, -1))
    assert gradient == pytest.approx((high - low) / (2 * step), abs=1e-3 * float(np.abs(gradient).max()))
