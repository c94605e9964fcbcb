"""Raw results, one JSON line a cell: what is there is not run again, and pages are made of nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import onnx_lowrank

PACKAGES = ("onnx", "onnxruntime", "onnxruntime-gpu", "numpy", "scipy")
PACKAGE = Path(onnx_lowrank.__file__).resolve().parent
Line = dict[str, Any]
Cells = dict[str, Line]
"""Cell -> what was measured, of one model."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What all cells of a call share. quick: a trial."""

    seed: int
    threads: int
    quick: bool


class Lines:
    """The lines under a folder, one file a part; the last line of a cell counts."""

    def __init__(self, folder: Path, setting: Setting) -> None:
        self.folder, self.setting = folder, setting
        self._key = {"seed": setting.seed, "quick": setting.quick}
        self._source, self._machine = source_digest(), machine()
        texts = (text for file in sorted(folder.glob("*.jsonl")) for text in file.read_text("utf-8").splitlines())
        lines = [line for line in map(json.loads, texts) if self._key.items() <= line.items()]
        self._lines: dict[tuple[str, str, str], Line] = {(e["part"], e["model"], e["cell"]): e for e in lines}

    def get(self, part: str, model: str, cell: str, sha256: str) -> Line | None:
        """Return what a cell gave on this very model, by any version; None where it was not measured."""
        line = self._lines.get((part, model, cell))
        return dict(line["data"]) if line is not None and line["sha256"] == sha256 else None

    def add(self, part: str, model: str, cell: str, sha256: str, data: Line) -> None:
        line = {
            "part": part, "model": model, "cell": cell, "sha256": sha256, **self._key,
            "version": onnx_lowrank.__version__, "threads": self.setting.threads, "source": self._source,
            "machine": self._machine, "load": round(os.getloadavg()[0], 2), "data": data,
        }  # fmt: skip
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{part}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._lines[part, model, cell] = line

    def all(self) -> list[Line]:
        return list(self._lines.values())


def cells_of(lines: Iterable[Line], part: str) -> dict[str, Cells]:
    """Return model -> cell -> what was measured, of one part."""
    models: dict[str, Cells] = {}
    for line in lines:
        if line["part"] == part:
            models.setdefault(line["model"], {})[line["cell"]] = line["data"]
    return models


def source_digest() -> str:
    """Return a short hash of the package's source: a version may be worked on for long."""
    files = sorted(PACKAGE.rglob("*.py"))
    content = b"".join(f"{file.relative_to(PACKAGE)}\0".encode() + file.read_bytes() for file in files)
    return hashlib.sha256(content).hexdigest()[:12]


def machine() -> dict[str, str]:
    """Return what the numbers depend on besides the model: processor, system and packages."""
    installed = {package.name: package.version for package in distributions()}
    info = Path("/proc/cpuinfo")
    told = info.read_text("utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in told if line.startswith("model name")]
    cpu = names[0] if names else platform.processor() or platform.machine()
    versions = {"onnx-lowrank": onnx_lowrank.__version__, "python": platform.python_version()}
    versions |= {name: installed[name] for name in PACKAGES if name in installed}
    return {"cpu": cpu, "cores": str(os.cpu_count()), "system": platform.system(), **versions}
