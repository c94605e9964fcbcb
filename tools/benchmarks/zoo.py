"""The zoo as `python -m models` wrote it: where a model and its sets are, and what the recipe measured."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
"""The repository; runs work there, because metrics are named `models/metrics.py:NAME`."""
TASKS = ("crepe", "minilm", "ppocr", "efficientnet")
"""Models with a metric of their own."""
CLASSIFIERS = ("resnext50", "vgg", "vit", "text")
"""Models whose labels are class numbers."""
COARSE = ("crepe",)
"""Models whose metric is coarser than their classes: pitches within half a semitone are five classes of right ones."""
MODELS = (*TASKS, *CLASSIFIERS)


@dataclass(frozen=True, slots=True)
class Set:
    """One set of samples: `metric` is the recipe's, "" where nobody labelled it."""

    name: str
    path: Path
    metric: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A model: its file, its sets, and a hash that says whether a cell was measured on this very model."""

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


def read_entry(zoo: Path, name: str) -> Entry:
    """Return a model's entry. Raises FileNotFoundError, which names the command, where it has not been built."""
    folder = zoo / name
    if not (folder / "recipe.json").exists():
        raise FileNotFoundError(f"{folder} holds no built model: python -m models {name} --out {folder}")
    recipe: dict[str, Any] = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    splits = recipe["splits"].items()
    sets = {key: Set(key, folder / about["file"], about.get("metric", "")) for key, about in splits}
    tests = tuple(each for key, each in sets.items() if key.startswith("test"))
    return Entry(name, folder / "model.onnx", file_hash(folder / "model.onnx"), recipe["metric"],
                 sets["calibration"], sets["validation"], tests)  # fmt: skip


def stand_in(name: str, key: str, model: Path = Path()) -> Entry:
    """Return the entry of what is measured without a zoo model; `key` hashes what its cells depend on."""
    empty = Set("", Path(), "")
    return Entry(name, model, key, "top1", empty, empty, ())


def file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
