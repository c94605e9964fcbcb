"""The zoo as `python -m models` wrote it: where a model and its sets are, and what the recipe measured."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
"""The repository; runs work there, because metrics are named `models/metrics.py:NAME`."""


@dataclass(frozen=True, slots=True)
class Set:
    """One set of samples: `metric` and `baseline` are the recipe's, "" and None where nobody labelled it."""

    name: str
    path: Path
    n: int
    note: str
    metric: str
    baseline: float | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of the zoo."""

    name: str
    model: Path
    sha256: str
    metric: str
    calibration: Set
    validation: Set
    tests: tuple[Set, ...]

    @property
    def main_test(self) -> Set | None:
        """The first test set with validation's metric: the only one that `optimize --test` can be given."""
        return next((test for test in self.tests if test.metric == self.metric), None)

    def shown(self, path: Path) -> str:
        """Return a path as the text of a command: below `zoo/`, wherever the zoo is."""
        return f"zoo/{self.name}/{path.name}"


def read_entry(zoo: Path, name: str) -> Entry:
    """Return a model's entry. Raises FileNotFoundError, which names the command, where it has not been built."""
    folder = zoo / name
    if not (folder / "recipe.json").exists():
        raise FileNotFoundError(f"{folder} holds no built model: python -m models {name} --out {folder}")
    recipe: dict[str, Any] = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    sets = {key: _set(folder, key, about) for key, about in recipe["splits"].items()}
    tests = tuple(found for key, found in sets.items() if key.startswith("test"))
    model = folder / "model.onnx"
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    return Entry(name, model, digest, recipe["metric"], sets["calibration"], sets["validation"], tests)


def _set(folder: Path, key: str, about: dict[str, Any]) -> Set:
    return Set(key, folder / about["file"], about["n"], about["note"], about.get("metric", ""), about.get("baseline"))
