"""Cells are kept, found again and not run again; the workbench is made once; failures keep nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tools_lines import page_of, raw

ROOT = Path(__file__).resolve().parents[3]
Bench = Callable[[str], Any]


def lines_in(bench: Bench, folder: Path, seed: int = 0, *, quick: bool = False) -> Any:
    lines = bench("benchmarks.lines")
    return lines.Lines(folder, lines.Setting(seed, 1, quick))


def test_a_cell_is_found_again_on_the_same_model_alone(bench: Bench, tmp_path: Path) -> None:
    lines_in(bench, tmp_path).add("methods", "vgg", "ours/0.5", "a" * 64, {"n": 3})
    again = lines_in(bench, tmp_path)
    assert again.get("methods", "vgg", "ours/0.5", "a" * 64) == {"n": 3}
    assert again.get("methods", "vgg", "ours/0.5", "b" * 64) is None
    assert again.get("methods", "vgg", "ours/0.3", "a" * 64) is None
    assert not lines_in(bench, tmp_path, 1).all()
    assert not lines_in(bench, tmp_path, quick=True).all()
    (line,) = (json.loads(text) for text in (tmp_path / "methods.jsonl").read_text(encoding="utf-8").splitlines())
    keys = "part model cell sha256 seed quick version threads source machine load data"
    assert list(line) == keys.split()


def part_of(bench: Bench, measure: Callable[[Any], Any], **more: Any) -> Any:
    parts, zoo = bench("benchmarks.parts"), bench("benchmarks.zoo")
    cells = [parts.Cell(name, measure, **more) for name in ("one", "two")]
    own = {"drawn": lambda: zoo.stand_in("drawn", "0" * 64)}
    return parts.Part("trial", "A trial", lambda model, quick: cells, lambda lines, setting: ["said"], own=own)


def test_what_is_there_is_not_run_again(bench: Bench, tmp_path: Path) -> None:
    calls = []
    part = part_of(bench, lambda there: calls.append(there) or {"value": len(calls)})
    for _ in range(2):
        lines = lines_in(bench, tmp_path)
        assert bench("bench").measure(tmp_path, [], [part], lines) == []
        assert [line["data"]["value"] for line in lines.all()] == [1, 2]
    assert len(calls) == 2
    bench("bench").write([part], lines)
    assert (tmp_path / "trial.md").read_text(encoding="utf-8").startswith("# A trial\n")
    assert not (tmp_path / "RESULTS.md").exists()


def test_a_cell_may_ask_to_be_run_again(bench: Bench, tmp_path: Path) -> None:
    part = part_of(bench, lambda there: {"absent": True}, again=lambda data: data["absent"])
    for _ in range(2):
        bench("bench").measure(tmp_path, [], [part], lines_in(bench, tmp_path))
    assert (tmp_path / "trial.jsonl").read_text(encoding="utf-8").count('"absent"') == 4


def test_a_failure_is_one_line_and_keeps_what_was_measured_before(bench: Bench, tmp_path: Path) -> None:
    lines = lines_in(bench, tmp_path)

    def measure(there: Any) -> dict[str, Any]:
        if lines.all():
            raise bench("benchmarks.workbench").WorkbenchError("no answer")
        return {}

    assert bench("bench").measure(tmp_path, [], [part_of(bench, measure)], lines) == ["drawn, trial: no answer"]
    assert [line["cell"] for line in lines.all()] == ["one"]


def test_what_a_workbench_made_is_kept(bench: Bench, tmp_path: Path) -> None:
    there = bench("benchmarks.workbench").Workbench(
        bench("benchmarks.zoo").stand_in("x", ""), lines_in(bench, tmp_path)
    )
    makes = []

    def make(given: Any, key: int) -> list[int]:
        makes.append(key)
        return [key]

    assert there.once(make, 1) is there.once(make, 1)
    assert there.once(make, 2) == [2]
    assert makes == [1, 2]


def test_a_page_says_how_it_was_measured(bench: Bench) -> None:
    cells = [
        raw("cost", model, "collection", COST, threads=threads) for model, threads in (("crepe", 1), ("minilm", 2))
    ]
    text = page_of(bench, "cost", cells, quick=True)
    assert text.startswith("# What collecting costs in a quick trial: not to be quoted\n")
    assert "python tools/bench.py --zoo zoo --part cost --seed 0 --threads 1 or 2 --quick\n" in text
    assert "- cpu a processor, cores 2, system Linux, numpy 2.0 (2 cells)\n" in text
    assert "`abc` (crepe, 1 cells), `abc` (minilm, 1 cells)" in text
    assert page_of(bench, "cost", []) == ""


COST = {
    "ratio": 5.12, "forward": 2.0, "collection": 10.24, "samples": 512, "sites": 7, "peak_bytes": 1.319e9,
    "model_bytes": 89e6,
}  # fmt: skip


def test_every_part_has_a_name_of_its_own_and_no_page_without_lines(bench: Bench) -> None:
    names = [part.name for part in bench("bench").PARTS]
    assert len(set(names)) == len(names) >= 14
    assert [page_of(bench, name, []) for name in names] == [""] * len(names)


def test_every_committed_cell_counts_as_measured(bench: Bench) -> None:
    """The names of cells and the hashes of drawn models are those of the lines that are kept."""
    kept = lines_in(bench, ROOT / "tools" / "results")
    for part in bench("bench").PARTS:
        mine = [line for line in kept.all() if line["part"] == part.name]
        for model in {line["model"] for line in mine}:
            cells = {cell.name for cell in part.cells(model, False)}
            assert {line["cell"] for line in mine if line["model"] == model} <= cells, part.name
            if model in part.own:
                assert {line["sha256"] for line in mine if line["model"] == model} == {part.own[model]().sha256}
    assert {line["part"] for line in kept.all()} <= {part.name for part in bench("bench").PARTS}


def test_all_committed_cells_of_a_model_are_of_the_same_weights() -> None:
    files = sorted((ROOT / "tools" / "results").glob("*.jsonl"))
    lines = [json.loads(text) for file in files for text in file.read_text(encoding="utf-8").splitlines()]
    hashes: dict[str, set[str]] = {}
    for line in lines:
        hashes.setdefault(line["model"], set()).add(line["sha256"])
    assert len(hashes) >= 4
    assert {model: len(found) for model, found in hashes.items()} == dict.fromkeys(hashes, 1)


@pytest.mark.parametrize("part", ["trust", "tolerance"])
def test_a_committed_page_is_made_of_its_lines(bench: Bench, part: str) -> None:
    folder = ROOT / "tools" / "results"
    text = page_of(bench, part, lines_in(bench, folder).all())
    assert text == (folder / f"{part}.md").read_text(encoding="utf-8")


def test_a_zoo_without_models_is_an_error_and_writes_nothing(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["bench.py", "--zoo", str(tmp_path / "none"), "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        bench("bench").main()
    assert ended.value.code == 2
    assert "none holds no model: python -m models NAME" in capsys.readouterr().err
    assert not out.exists()


def test_only_the_workbench_imports_the_packages_insides() -> None:
    """What a part needs is handed on by one file, so a change inside the package is met in one file."""
    for file in sorted((ROOT / "tools" / "benchmarks").glob("*.py")):
        lines = file.read_text(encoding="utf-8").splitlines()
        inside = [line for line in lines if line.lstrip().startswith(("from onnx_lowrank.", "import onnx_lowrank."))]
        assert bool(inside) == (file.name == "workbench.py"), (file.name, inside)
