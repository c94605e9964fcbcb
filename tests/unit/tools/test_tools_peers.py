"""Part "peers": a tool that fails is a row with its reason, and what became of a file decides the target."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tools_lines import page_of, raw

from tests.builders import linear, normal

Bench = Callable[[str], Any]
COPY = "import shutil, sys; shutil.copy(sys.argv[1], sys.argv[2])"
RAISES = "raise ValueError('no such operator: Quux\\nand more of it')"
GARBAGE = "import sys; open(sys.argv[2], 'w').write('no model')"
SILENT = "pass"


def command(code: str) -> tuple[str, ...]:
    """A tool that anybody has."""
    return (sys.executable, "-c", code)


def workbench_of(bench: Bench, folder: Path) -> Any:
    """A classifier of three classes with 20 samples a set."""
    zoo, lines = bench("benchmarks.zoo"), bench("benchmarks.lines")
    onnx.save(linear(normal((4, 3), 1)), str(folder / "model.onnx"))
    sets = []
    for seed, name in enumerate(("calibration", "validation", "test")):
        np.savez(folder / f"{name}.npz", x=normal((20, 4), seed), labels=np.arange(20) % 3)
        sets.append(zoo.Set(name, folder / f"{name}.npz", "top1"))
    entry = zoo.Entry("tiny", folder / "model.onnx", "0" * 64, "top1", sets[0], sets[1], (sets[2],))
    setting = lines.Setting(0, 1, True)
    return bench("benchmarks.workbench").Workbench(entry, lines.Lines(folder / "out", setting))


@pytest.mark.parametrize(
    ("code", "outcome", "reason"),
    [
        (RAISES, "failed", "ValueError: no such operator: Quux"),
        (GARBAGE, "failed", "does not load: "),
        (SILENT, "failed", "it ended well but wrote no file"),
        (COPY, "made", ""),
    ],
)
def test_what_a_tool_leaves_behind_is_its_row(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, outcome: str, reason: str
) -> None:
    peers, made, tools = (bench(f"benchmarks.{name}") for name in ("peers", "made", "peer_tools"))
    monkeypatch.setattr(made, "ready", lambda tool, venvs: tools.Ready(command(code), {tool: "1.0"}))
    monkeypatch.setattr(peers, "SECONDS", 0.0)
    row = peers.measure(workbench_of(bench, tmp_path), peers.SLIM)
    assert row["outcome"] == outcome
    assert row["reason"].startswith(reason)
    assert "\n" not in row["reason"]
    if outcome == "made":
        assert row["kept"]["off"] == 0.0
        assert row["bytes"] == row["original_bytes"]
        assert row["latency"]["16"]["calls"] == 1  # of 20 samples


def test_a_tool_that_cannot_be_had_is_tried_again(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers, run = bench("benchmarks.peers"), bench("benchmarks.parts").run
    there = workbench_of(bench, tmp_path)
    assert there.session.loaded.bytes  # before the interpreter is gone
    monkeypatch.setattr(peers, "QUICK", (peers.SLIM,))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    for _ in range(2):
        assert run(peers.PART, there) == []
    text = (tmp_path / "out" / "peers.jsonl").read_text(encoding="utf-8")
    assert text.count("no-python cannot be run") == 2
    assert text.count('"absent"') == 2


def test_ours_and_int8_are_files_that_are_read_back(bench: Bench, tmp_path: Path) -> None:
    """What nothing can be made of is told; int8 is, and what rests on no file says so."""
    make, there = bench("benchmarks.made").make, workbench_of(bench, tmp_path)
    rows = {name: make(there, name) for name in ("int8 dynamic", "ours, size", "onnxslim of ours")}
    assert [row["outcome"] for row in rows.values()] == ["made", "nothing", "nothing"]
    assert rows["int8 dynamic"]["bytes"] > 0
    assert rows["onnxslim of ours"]["reason"].startswith("there is no file of ours, size: ")


def test_a_tool_has_its_time(bench: Bench, tmp_path: Path) -> None:
    tools = bench("benchmarks.peer_tools")
    target = tmp_path / "b.onnx"
    target.write_text("of another run")
    with pytest.raises(tools.PeerError, match="no answer within"):
        tools.run_peer(command("import time; time.sleep(60)"), tmp_path / "a", target, tmp_path / "c", seconds=0.2)
    assert not target.exists()


def test_the_last_exception_is_told_by_its_first_line(bench: Bench) -> None:
    said = bench("benchmarks.peer_tools").last_error
    first = "Traceback (most recent call last):\n  File 'a'\nKeyError: 'x'\n\nDuring the handling\n\n"
    second = "Traceback (most recent call last):\n  File 'b'\n    call()\nonnx.Error: bad model\nContext: long\n"
    assert said(first + second) == "onnx.Error: bad model"
    assert said("warning\nunknown option --x\n") == "unknown option --x"
    assert said("") == ""


def test_calls_are_joined_from_samples_of_one_shape(bench: Bench) -> None:
    lengths = [3, 5, 3, 3, 5, 7]
    feeds = [{"x": np.full((1, length), i)} for i, length in enumerate(lengths)]
    joined = list(bench("benchmarks.peers").together(feeds, 2))
    assert [feed["x"][:, 0].tolist() for feed in joined] == [[0, 2], [1, 4]]


class Model:
    """What `farthest` runs."""

    rest = 0.0

    def __init__(self, values: dict[int, float]) -> None:
        self.values = values

    def run(self, feed: dict[str, Any]) -> dict[str, Any]:
        return {"y": np.array([self.values[int(feed["x"])], -8.0])}


@pytest.mark.parametrize(("second", "off"), [(1.0, 0.0), (1.5, 0.0625), (float("nan"), float("nan"))])
def test_outputs_are_held_against_the_largest(bench: Bench, second: float, off: float) -> None:
    feeds = [{"x": np.array(i)} for i in range(2)]
    found = bench("benchmarks.peers").farthest(Model({0: 1.0, 1: 2.0}), Model({0: second, 1: 2.0}), feeds)
    np.testing.assert_equal(found, off)


def made(flips: list[int], **more: Any) -> dict[str, Any]:
    timed = {"reason": "", "ratio": [0.5, 0.4, 0.6], "milliseconds": [2.0, 1.0], "pairs": 9, "calls": 9}
    return {
        "outcome": "made",
        "reason": "",
        "original_bytes": 8_000_000,
        "bytes": 2_000_000,
        "allowed": 0.005,
        "threads": 1,
        "seconds": 1.25,
        "n": 10_000,
        "top1": [0.92, 0.91, [-0.01, -0.02, 0.001]],
        "flips": flips,
        "loss": [0.3, 0.31, [0.01, 0.0, 0.02]],
        "latency": {"1": timed, "16": {"reason": "the batch axis of x is fixed"}},
        **more,
    }


def kept(like: str, off: float, flips: list[int]) -> dict[str, Any]:
    return {"like": like, "off": off, "checked": 512, "flips": flips, "top1": [0.92, 0.92]}


def failed(reason: str, outcome: str = "failed") -> dict[str, Any]:
    return {"outcome": outcome, "reason": reason, "original_bytes": 8_000_000, "allowed": 0.005, "threads": 1}


def lines_of(off: float = 1e-7, flips: int = 0, **instead: dict[str, Any]) -> list[dict[str, Any]]:
    cells = {
        "onnxslim": made([0, 0], kept=kept("original", 0.0, [0, 0]), versions={"onnxslim": "0.1", "onnx": "1.2"}),
        "ours, size": made([1, 2]),
        "onnxslim of ours": made([1, 2], kept=kept("ours, size", off, [flips, 0])),
        "onnxsim of ours": made([1, 2], kept=kept("ours, size", 0.0, [0, 0])),
        "ours of onnxslim": made([1, 2], kept=kept("ours, size", 0.3, [40, 50])),
    }
    cells |= {name.replace("_", " "): data for name, data in instead.items()}
    return [raw("peers", "vgg", cell, data) for cell, data in cells.items()]


def test_the_table_has_failures_with_their_reasons_and_versions(bench: Bench) -> None:
    cells = lines_of(
        NNCF=failed("RuntimeError: unknown operator"), onnxsim=failed("not installed: no network", "absent")
    )
    text = page_of(bench, "peers", cells).splitlines()
    assert "| original | 8.0 (100 %) | .9200 | — | .3000 | 1 | 1 | — |" in text
    assert (
        "| ours, size | 2.0 (25.0 %) | .9100 (−.0100 [−.0200, .0010]) | 1, 2 | .3100 (.0100 [.0000, .0200])"
        " | .50 [.40, .60] | — | 1.2 |"
    ) in text
    assert "| NNCF | failed | — | — | — | — | — | — |" in text
    assert "- NNCF: RuntimeError: unknown operator" in text
    assert "| onnxsim | not installed | — | — | — | — | — | — |" in text
    assert "| onnxslim of ours | ours, size | 1.0e-07 | 0 | .9200, .9200 |" in text
    assert any(
        line.startswith("- not timed with 16 a call: the batch axis of x is fixed (onnxslim, ours") for line in text
    )
    assert "- each in an environment of its own: onnxslim 0.1, onnx 1.2" in text
