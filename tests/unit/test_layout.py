"""The tests of units mirror the package: every room has its folder, and every folder is a room."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx_lowrank

UNIT = Path(__file__).resolve().parent
PACKAGE = Path(onnx_lowrank.__file__).resolve().parent
OUTSIDE = {"docs", "models", "tools"}
"""Folders of tests/unit for what lies beside the package."""


def folders(path: Path, holds: str) -> set[str]:
    """Return the names of the folders in `path` that hold a file like `holds`; what only caches are left in is none."""
    return {folder.name for folder in path.iterdir() if folder.is_dir() and any(folder.glob(holds))}


def test_every_room_has_its_tests_and_no_other_folder_has_any() -> None:
    rooms = folders(PACKAGE, "__init__.py")
    tested = folders(UNIT, "*.py")
    assert len(rooms) > 20
    assert rooms <= folders(UNIT, "test_*.py")
    assert tested <= rooms | OUTSIDE


def test_a_file_is_named_by_its_room() -> None:
    """As `test_<room>_<topic>`, or `<room>_<topic>` where it only helps the tests beside it."""
    files = [path for path in UNIT.glob("*/*.py") if path.name != "conftest.py"]
    assert len(files) > 80
    assert [f for f in files if not f.name.removeprefix("test_").startswith(f"{f.parent.name}_")] == []


def test_no_two_files_have_one_name() -> None:
    """No folder of tests is a package, so pytest imports files by their names alone."""
    names = Counter(path.name for path in UNIT.parent.rglob("*.py") if path.name != "conftest.py")
    assert [name for name, times in names.items() if times > 1] == []
