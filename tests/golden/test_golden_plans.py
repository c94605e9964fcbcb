"""Golden decisions: what the tool decides on two fixed models, as text, without a float in it.

A change here is a change of behaviour: look at it, and write the new text with `UPDATE_GOLDEN=1 pytest tests/golden`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import build, constant, convnet, mlp, node, normal, options, run, value, weight

from onnx_lowrank.goals import Compact, Gate, Goal, Lossless
from onnx_lowrank.pipeline import optimize
from onnx_lowrank.results.result import Result

HERE = Path(__file__).parent
EXACT = Gate(max_drop=1e-4, observed=True)
"""Far from all there is: factors of the true rank move an output by about 1e-7 of it, one rank less by 1e-3 or more."""
MARGIN = 0.05
"""By how much a decision of the labelled model is ahead of the next one: rounding turns none."""


def flat(shape: Sequence[int], rank: int) -> np.ndarray:
    """Return a matrix with `rank` equal singular values and zeros: a rank less loses much, one more gains nothing."""
    left, right = (np.linalg.qr(normal([width, rank], width))[0] for width in shape)
    return (3 * left @ right.T).astype(np.float32)


def wide_mlp() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Three layers, two of known rank and with spectra that end abruptly, and a table beside them; with labels."""
    model = mlp([24, 48, 48, 4], [4, 6, None], 21)
    for tensor in model.graph.initializer:
        if tensor.name in ("fc0", "fc1"):
            rank = {"fc0": 4, "fc1": 6}[tensor.name]
            tensor.CopyFrom(onnx.numpy_helper.from_array(flat(tensor.dims, rank), tensor.name))
    model.graph.node.append(node("Gather", ["table", "zero"], ["picked"], "lookup"))
    model.graph.node.append(node("Add", ["y", "picked"], ["z"], "shift"))
    for name, array in (("table", weight((3, 4), 9)), ("zero", np.array(0))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model.graph.output[0].name = "z"
    x = normal([2500, 24], 3)
    scores = run(model, {"x": x})["z"]
    second, first = np.sort(scores, axis=1)[:, -2:].T
    clear = np.flatnonzero(first - second > MARGIN)[:2000]
    return model, {"x": x[clear], "labels": scores[clear].argmax(1)}


def mixed_convnet() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Constant kernels, a 1×1, a depthwise, a strided and a shared convolution, and no labels."""
    model = convnet([4, 16, 16], [3, 5], 6, 31)
    head = model.graph.node.pop()
    flatten, pool = model.graph.node.pop(), model.graph.node.pop()
    model.graph.node.extend(
        [
            constant("kp", weight((24, 16, 1, 1), 5, rank=4)),
            node("Conv", ["r1", "kp"], ["point"], "point"),
            constant("kd", weight((24, 1, 3, 3), 6)),
            node("Conv", ["point", "kd"], ["deep"], "deep", group=24, pads=[1] * 4),
            constant("ks", weight((16, 24, 3, 3), 7, rank=2)),
            node("Conv", ["deep", "ks"], ["strided"], "strided", strides=[2, 2], pads=[1] * 4),
            node("Conv", ["point", "ks"], ["again"], "again", strides=[2, 2], pads=[1] * 4),
            node("Add", ["strided", "again"], ["r1_end"], "sum"),
        ]
    )
    pool.input[0] = "r1_end"
    model.graph.node.extend([pool, flatten, head])
    return model, {"x": normal([48, 4, 8, 8], 4)}


def text(result: Result, goal: Goal) -> str:
    lines = [f"goal {goal.name}", f"changed {result.changed}", f"metric {result.metric}", "", "sites"]
    options_of = {c.site: c.option for c in result.plan.choices} if result.plan else {}
    for site in result.sites:
        option = options_of.get(site.id)
        decision = "undecided" if option is None else f"{option.scheme} {'x'.join(map(str, option.ranks))}".strip()
        decision += ", no identity stored" if option is not None and option.form.interpolative else ""
        lines.append(f"  {site.weight} {site.op} {list(site.shape)} shared by {len(site.sharers)}: {decision}")
    lines += ["", "skips"]
    lines += [f"  {s.weight} {s.op} {list(s.shape)}: {s.why.value} ({s.detail})" for s in result.skips]
    lines += ["", "trials"]
    lines += [f"  {t.plan.origin}: {'passed' if t.verdict.passed else 'failed'}" for t in result.trials]
    lines += ["", "notes", *(f"  {note}" for note in result.notes)]
    return "\n".join(lines) + "\n"


CASES = {
    "mlp_compact": (wide_mlp, Compact(gate=Gate(max_drop=0.0, observed=True)), {}),
    "mlp_certified": (wide_mlp, Compact(gate=Gate(max_drop=0.01)), {}),
    "mlp_lossless": (wide_mlp, Lossless(keep=0.4, gate=Gate(max_drop=0.5, observed=True)), {}),
    "convnet_compact": (mixed_convnet, Compact(gate=EXACT), {"metric": "relative-l2"}),
    "convnet_plain": (mixed_convnet, Compact(gate=EXACT), {"metric": "relative-l2", "sensitivity": "weights"}),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(CASES))
def test_decisions_are_the_golden_ones(name: str):
    make, goal, changes = CASES[name]
    model, data = make()
    got = text(optimize(model, data, goal, options(rank_multiple=2, **changes)), goal)
    file = HERE / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(got, encoding="utf-8")
    assert got == file.read_text(encoding="utf-8")


def test_another_blas_kernel_takes_the_same_decisions():
    """OpenBLAS's oldest kernel on x86, which sums in another order than what this processor takes; elsewhere as it is.

    A process of its own, and no more than one: OpenBLAS chooses when it is loaded.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", str(HERE), "-k", "golden_ones"]
    environment = {**os.environ, "OPENBLAS_CORETYPE": "Prescott", "OPENBLAS_NUM_THREADS": "2"}
    environment.pop("UPDATE_GOLDEN", None)
    done = subprocess.run(command, cwd=HERE.parents[1], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert f"{len(CASES)} passed" in done.stdout


def test_every_golden_file_is_read():
    assert {path.stem for path in HERE.glob("*.txt")} == set(CASES)


def test_the_models_are_models():
    for make in (wide_mlp, mixed_convnet):
        onnx.checker.check_model(make()[0], full_check=True)
    assert build([node("Relu", ["x"], ["y"])], [value("x", [1])], [value("y", [1])], {}).ir_version == 8
