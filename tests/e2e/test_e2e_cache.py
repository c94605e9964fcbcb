"""--cache-dir: a second run reads what the first one made, gives the same file, and trusts nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from onnx_lowrank.store import Store, remember
from onnx_lowrank.store.packing import Given
from tests.builders import classifier_folder
from tests.unit.cli.cli_runs import optimize, run

READ = "from the cache: "


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    return classifier_folder(tmp_path)


def smaller(folder: Path, *more: object, code: int = 0) -> dict[str, Any]:
    """Optimise with the cache; return the report."""
    out = ("-o", folder / "out.onnx", "--report", folder / "report.json", "--force", "--quiet")
    result = optimize(folder, "--cache-dir", folder / "cache", *out, *more)
    assert result.exit_code == code, result.output
    report: dict[str, Any] = json.loads((folder / "report.json").read_text("utf-8"))
    return report


def steps(report: dict[str, Any]) -> set[str]:
    return set(report["seconds"])


def kept(folder: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    for entry in Store.at(folder / "cache").entries():
        counts[entry.what] = counts.get(entry.what, 0) + 1
    return counts


@pytest.mark.parametrize("goal", [(), ("--minimize", "bytes"), ("--keep", 0.8), ("--sensitivity", "inputs")])
def test_a_second_run_reads_and_gives_the_same_file(folder: Path, goal: tuple[object, ...]):
    first = smaller(folder, *goal)
    written = (folder / "out.onnx").read_bytes()
    again = smaller(folder, *goal)
    assert (folder / "out.onnx").read_bytes() == written
    assert again["plan"] == first["plan"]
    if "inputs" not in goal:
        assert READ + "calibrating" in steps(again)
        assert "calibrating" not in steps(again)
    assert READ + "probing" in steps(again)
    assert any(note.startswith("read from the cache, not made again: ") for note in again["notes"])
    assert not any("cache" in note for note in first["notes"])
    shutil.rmtree(folder / "cache")
    assert optimize(folder, "-o", folder / "without.onnx", *goal).exit_code == 0
    assert (folder / "without.onnx").read_bytes() == written


def test_another_goal_collects_nothing_again(folder: Path):
    smaller(folder)
    other = smaller(folder, "--minimize", "bytes", "--bits", "8,32")
    assert READ + "calibrating" in steps(other)
    assert "rounding weights" in steps(other)
    last = smaller(folder, "--keep", 0.8)
    assert {READ + "calibrating", READ + "probing"} <= steps(last)


@pytest.mark.parametrize(
    "change", [("--seed", 1), ("--exclude", "second"), ("--rank-multiple", 4), ("--exponents", 1, 0.5)]
)
def test_what_changes_what_is_collected_collects_again(folder: Path, change: tuple[object, ...]):
    smaller(folder)
    assert "calibrating" in steps(smaller(folder, *change))


def test_other_samples_are_collected_on_again(folder: Path):
    smaller(folder)
    shutil.copy(folder / "val.npz", folder / "cal.npz")
    assert "calibrating" in steps(smaller(folder, "--force-overlap"))


def test_results_of_other_code_are_not_taken(folder: Path, monkeypatch: pytest.MonkeyPatch):
    smaller(folder)
    monkeypatch.setattr(remember, "producer", lambda: "another version")
    assert "calibrating" in steps(smaller(folder))


def test_a_run_that_is_cut_off_goes_on_with_the_same_plan(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever it had kept when it was."""
    goal = ("--minimize", "bytes")
    expected = smaller(folder, *goal)["plan"]
    whole = sum(kept(folder).values())
    assert whole >= 6
    save = Store.save
    for most in (0, 1, 2, 4, whole - 1):
        shutil.rmtree(folder / "cache")
        left = [most]

        def saved(
            self: Store, key: str, what: str, seconds: float, value: object, given: Given | None = None,
            left: list[int] = left,
        ) -> None:  # fmt: skip
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            save(self, key, what, seconds, value, given)

        monkeypatch.setattr(Store, "save", saved)
        with pytest.raises((AssertionError, KeyboardInterrupt)):
            smaller(folder, *goal)
        assert sum(kept(folder).values()) == most
        monkeypatch.setattr(Store, "save", save)
        assert smaller(folder, *goal)["plan"] == expected


def test_what_a_metric_of_ones_own_judged_is_not_kept(folder: Path):
    values = "[float(y.argmax() == c) for y, c in zip(outputs['y'], labels)]"
    code = f"def agreement(outputs, labels):\n    return {values}\n"
    (folder / "own.py").write_text(code)
    smaller(folder, "--metric", f"{folder / 'own.py'}:agreement")
    assert "calibrating" in kept(folder)
    assert not {"validating", "screening"} & set(kept(folder))


def test_damage_is_made_again(folder: Path):
    expected = smaller(folder)["plan"]
    for path in (folder / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    again = smaller(folder)
    assert again["plan"] == expected
    assert "calibrating" in steps(again)
    assert not any(entry.what == "damaged" for entry in Store.at(folder / "cache").entries())


def test_the_cache_is_shown_and_cleared(folder: Path):
    smaller(folder)
    (folder / "cache" / "mine.txt").write_text("mine")
    shown = run("cache", "--cache-dir", folder / "cache").output
    assert "calibrating" in shown
    assert "just now" in shown
    cleared = run("cache", "--cache-dir", folder / "cache", "--clear")
    assert "removed" in cleared.output
    assert [path.name for path in (folder / "cache").iterdir()] == ["mine.txt"]
    assert "0 results, nothing" in " ".join(run("cache", "--cache-dir", folder / "cache").output.split())
    assert "nothing is kept there" in run("cache", "--cache-dir", folder / "none").output


def test_the_users_own_folder(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "home"))
    monkeypatch.setenv("LOCALAPPDATA", str(folder / "home"))
    assert optimize(folder, "-o", folder / "out.onnx", "--cache", "--quiet").exit_code == 0
    assert "calibrating" in run("cache").output
    assert (folder / "home" / "onnx-lowrank").is_dir()


def test_a_bound_is_kept(folder: Path):
    smaller(folder, "--cache-limit", "50kB")
    assert sum(path.stat().st_size for path in (folder / "cache").iterdir()) <= 50_000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--cache-dir", "file"), "file"),
        (("--cache", "--cache-limit", "much"), "is not a size"),
    ],
)
def test_what_cannot_be_is_one_line(folder: Path, arguments: tuple[str, ...], said: str):
    (folder / "file").write_text("")
    given = [str(folder / each) if each == "file" else each for each in arguments]
    result = optimize(folder, "-o", folder / "out.onnx", *given)
    assert result.exit_code in (1, 2)
    assert said in result.output
    assert "Traceback" not in result.output
    assert not (folder / "out.onnx").exists()
