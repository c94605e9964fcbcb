"""Part "again": its page, and a run on a small model that is killed and goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tools_lines import page_of, raw, rows_of

from tests.builders import classifier_folder

Bench = Callable[[str], Any]
SECOND = {
    "without": 95.0, "first": 100.0, "kept": 3e6, "runs": {"the same again": 4.0, "another drop": 12.5}, "steps": {},
}  # fmt: skip
KILLS = {
    "whole": 20.0,
    "kills": [
        {"after": 12.0, "results": 7, "seconds": 9.0, "same": True},
        {"after": 3.0, "results": 0, "seconds": 21.0, "same": False},
    ],
}


def test_the_page_says_what_a_second_goal_costs(bench: Bench) -> None:
    text = page_of(bench, "again", [raw("again", "minilm", "second", SECOND)])
    assert "| first | 100 | 1 |" in text
    assert "| another drop | 12 | .12 |" in text
    assert "| without | 95 | .95 |" in text
    assert "Kept: 3 MB." in text


def test_the_page_counts_plans_that_are_the_same(bench: Bench) -> None:
    text = page_of(bench, "again", [raw("again", "text", "kills", KILLS)])
    assert "1 of 2 came to the same plan" in text
    assert rows_of(text, "| 3 |") == ["| 3 | 0 | 21 | NO |"]
    assert rows_of(text, "| 12 |") == ["| 12 | 7 | 9 | yes |"]


def test_runs_are_killed_and_go_on(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again, zoo, workbench, lines = (bench(f"benchmarks.{name}") for name in ("again", "zoo", "workbench", "lines"))
    folder = classifier_folder(tmp_path)
    sets = [zoo.Set(name, folder / f"{name}.npz", "top1") for name in ("cal", "val")]
    entry = zoo.Entry("text", folder / "model.onnx", "0", "top1", *sets, ())
    monkeypatch.setattr(again, "FIRST", ("--max-drop", "0.2", "--observed"))
    monkeypatch.setattr(again, "SECOND", {"the same again": again.FIRST})
    there = workbench.Workbench(entry, lines.Lines(tmp_path / "out", lines.Setting(0, 1, True)))
    killed = again._killed(there, 1)
    assert [row["same"] for row in killed["kills"]] == [True]
    assert not list(there.runs.iterdir())


def test_goals_follow_each_other_in_one_cache(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as they are called: runs are stood in for."""
    again, zoo, workbench, lines = (bench(f"benchmarks.{name}") for name in ("again", "zoo", "workbench", "lines"))
    sets = [zoo.Set(name, tmp_path / f"{name}.npz", "top1") for name in ("cal", "val")]
    entry = zoo.Entry("text", tmp_path / "model.onnx", "0", "top1", *sets, ())
    called: list[list[str]] = []

    def ran(arguments: list[Any], report: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        words = [str(word) for word in arguments]
        called.append(words)
        if "--cache-dir" in words:
            place = Path(words[words.index("--cache-dir") + 1])
            place.mkdir(exist_ok=True)
            (place / "kept").write_bytes(b"1234")
        return {"exit": 0, "seconds": float(len(called)), "last": ""}, {"seconds": {}, "plan": {}}

    monkeypatch.setattr(again, "optimized", ran)
    there = workbench.Workbench(entry, lines.Lines(tmp_path / "out", lines.Setting(0, 1, True)))
    second = again._second(there)
    assert (second["without"], second["first"], second["kept"]) == (1.0, 2.0, 4)
    assert list(second["runs"]) == list(again.SECOND)
    assert ["--cache-dir" in words for words in called] == [False, True, True, True, True]
