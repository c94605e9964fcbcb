"""`python -m models NAME --out DIR`: build a zoo model and its samples, and measure the original."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from . import NAMES
from .fetch import RecipeError
from .measure import label_with, run, score
from .splits import Split, write

TOOLS = ("torch", "transformers", "tokenizers", "onnx", "onnxruntime", "numpy", "scipy", "pillow")


def tool_versions() -> dict[str, str]:
    """Return the versions of the packages that made the files."""
    made_here = {item.name: item.version for item in distributions()}
    return {name: made_here[name] for name in TOOLS if name in made_here}


def finish(name: str, split: Split, out: Path) -> dict[str, Any]:
    """Write one split, measure the original model on it if it has labels, and return its entry."""
    outputs = run(out / "model.onnx", split) if split.teacher or split.metric else {}
    if split.teacher:
        labels = label_with(outputs)
        both = labels if split.kinds is None else np.column_stack([labels, split.kinds])
        split = dataclasses.replace(split, labels=both)
    path = write(split, out / name)
    entry: dict[str, Any] = {"file": path.name, "n": len(split), "shapes": split.shapes()}
    entry |= {"note": split.note}
    if split.metric:
        result = score(outputs, split)
        print(f"{name:>22}  {result}", flush=True)
        entry |= {"metric": split.metric, "baseline": result.value}
        entry |= {"interval95": [result.low, result.high]}
    return entry


def make(name: str, out: Path, given: Path | None = None) -> None:
    """Build one model and its samples into a directory; a `given` model is not built but taken as it is."""
    recipe = importlib.import_module(f"models.{name}")
    out.mkdir(parents=True, exist_ok=True)
    model = recipe.build() if given is None else onnx.load(given)
    onnx.save(model, str(out / "model.onnx"))
    splits = recipe.samples()
    found = {key: finish(key, split, out) for key, split in splits.named().items()}
    about = {
        "name": name,
        "sources": list(recipe.SOURCES),
        "tools": tool_versions(),
        "metric": splits.validation.metric,
        "splits": found,
    }
    text = json.dumps(about, indent=2, ensure_ascii=False)
    (out / "recipe.json").write_text(text + "\n", encoding="utf-8")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m models", description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--out", type=Path, required=True, help="directory for model and samples")
    parser.add_argument("--model", type=Path, help="an ONNX file to take, instead of building one")
    arguments = parser.parse_args()
    try:
        make(arguments.name, arguments.out, arguments.model)
    except (RecipeError, FileNotFoundError, DecodeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(f"error: {error}: pip install 'onnx-lowrank[zoo]'", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
