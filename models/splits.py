"""The samples of a recipe, and how they are written for `onnx-lowrank --data`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Samples of one purpose.

    `samples[i]` maps an input's name to one sample. If `ragged`, shapes differ between samples, each
    array has its batch axis and the split is written as one file a sample; otherwise the arrays are
    stacked on a new leading axis. `labels` is None where nobody labelled the samples; `teacher` says
    that the runner shall label them with the original model's own argmax (agreement). `kinds` numbers
    the kind of every sample: a second column beside the teacher's labels.
    """

    samples: tuple[Mapping[str, Array], ...]
    labels: Array | None = None
    metric: str = ""
    note: str = ""
    ragged: bool = False
    teacher: bool = False
    kinds: Array | None = None

    def __post_init__(self) -> None:
        """Check that every label belongs to a sample."""
        if self.labels is not None and len(self.labels) != len(self.samples):
            raise ValueError(f"{len(self.samples)} samples but {len(self.labels)} labels")

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    def shapes(self) -> dict[str, str]:
        """Return each input's shape as text, `*` where it varies."""
        found: dict[str, str] = {}
        for name in self.samples[0]:
            shapes = {sample[name].shape for sample in self.samples}
            ranks = zip(*shapes, strict=True)
            axes = ["*" if len(set(sizes)) > 1 else str(sizes[0]) for sizes in ranks]
            found[name] = " × ".join([str(len(self)), *axes])
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Splits:
    """Three disjoint sets: what is collected, what gates, what is reported."""

    calibration: Split
    validation: Split
    tests: Mapping[str, Split]
    extras: Mapping[str, Split] = field(default_factory=dict)

    def named(self) -> dict[str, Split]:
        """Return every split under the name of its file."""
        first, *others = self.tests
        named = {"calibration": self.calibration, "validation": self.validation}
        named |= {"test": self.tests[first]} | {f"test_{k}": self.tests[k] for k in others}
        return named | dict(self.extras)


def quantizer(samples: tuple[Mapping[str, Array], ...]) -> dict[str, Array]:
    """Return the samples stacked on a new leading axis."""
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


def write(split: Split, target: Path) -> Path:
    """Write a split as `target.npz`, or as the directory `target` if it is ragged."""
    shutil.rmtree(target, ignore_errors=True)
    path = target.with_suffix(".npz")
    path.unlink(missing_ok=True)
    if not split.ragged:
        extra = {} if split.labels is None else {"labels": split.labels}
        _save(path, quantizer(split.samples) | extra)
        return path
    target.mkdir(parents=True)
    for i, sample in enumerate(split.samples):
        extra = {} if split.labels is None else {"labels": split.labels[i : i + 1]}
        _save(target / f"{i:05d}.npz", {**sample, **extra})
    return target


def _save(path: Path, arrays: Mapping[str, Array]) -> None:
    save: Any = np.savez_compressed  # its stub takes every keyword for `allow_pickle`
    save(path, **arrays)
