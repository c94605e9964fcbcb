"""Raw results, one JSON line a cell: what is there is not run again, and tables are made of nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import onnx_lowrank

PACKAGES = ("onnx", "onnxruntime", "onnxruntime-gpu", "numpy", "scipy")
PACKAGE = Path(onnx_lowrank.__file__).resolve().parent
Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """What all cells of a call share."""

    seed: int
    threads: int
    quick: bool


class Lines:
    """The lines under a folder, one file a part; the last line of a cell counts."""

    def __init__(self, folder: Path, setting: Setting) -> None:
        self.folder, self.setting = folder, setting
        self._key = {"seed": setting.seed, "quick": setting.quick, "version": onnx_lowrank.__version__}
        self._found: dict[tuple[str, str, str], Line] = {}
        self._source, self._machine = source_digest(), machine()
        for file in sorted(folder.glob("*.jsonl")):
            for text in file.read_text(encoding="utf-8").splitlines():
                line = json.loads(text)
                if all(line[name] == value for name, value in self._key.items()):
                    self._found[line["part"], line["model"], line["cell"]] = line

    def has(self, part: str, model: str, cell: str, sha256: str) -> bool:
        """Return whether the cell was measured on this very model by this version of the tool."""
        return self.get(part, model, cell, sha256) is not None

    def get(self, part: str, model: str, cell: str, sha256: str) -> Line | None:
        """Return what a cell gave on this very model by this version of the tool, None where it was not measured."""
        line = self._found.get((part, model, cell))
        return dict(line["data"]) if line is not None and line["sha256"] == sha256 else None

    def add(self, part: str, model: str, cell: str, sha256: str, data: Line) -> None:
        """Keep a cell, at once and for good."""
        line = {
            "part": part, "model": model, "cell": cell, "sha256": sha256, **self._key,
            "threads": self.setting.threads, "source": self._source, "machine": self._machine,
            "load": round(os.getloadavg()[0], 2), "data": data,
        }  # fmt: skip
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{part}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._found[part, model, cell] = line

    def all(self) -> list[Line]:
        """Return every line that counts."""
        return list(self._found.values())


def source_digest() -> str:
    """Return a short hash of the package's source: a version may be worked on for long."""
    digest = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*.py")):
        digest.update(f"{file.relative_to(PACKAGE)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def machine() -> dict[str, str]:
    """Return what the numbers depend on besides the model: processor, system and packages."""
    installed = {found.name: found.version for found in distributions()}
    versions = {"onnx-lowrank": onnx_lowrank.__version__, "python": platform.python_version()}
    versions |= {name: installed[name] for name in PACKAGES if name in installed}
    return {"cpu": _cpu(), "cores": str(os.cpu_count()), "system": platform.system(), **versions}


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
