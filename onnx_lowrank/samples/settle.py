"""What is open in stored data and concerns all sets of a run: the numbers of classes, and the preset of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.samples.conform import fit, listed
from onnx_lowrank.samples.formats import AnyImageFormat, ImageFormat
from onnx_lowrank.samples.stored import StoredData, named, numbered
from onnx_lowrank.types.words import counted, verb

TRIED = 64
"""Labelled images that presets are tried on."""


def settled(sources: Sequence[Any], runner: Runner) -> tuple[list[Any], tuple[str, ...]]:
    """Return the sources of a run with nothing left open, and what was guessed. Raises DataError, RuntimeProblem.

    Class names without an order are numbered over all sets together. A preset of images that is not named is the one
    that makes most labels right, on the first set that has labels.
    """
    done = _with_classes(list(sources), runner)
    open_ones = [s for s in done if isinstance(s, StoredData) and isinstance(s.format, AnyImageFormat)]
    for source in open_ones:
        found = _preset(source, runner)
        if found is not None:
            form, note = found
            return [replace(s, format=form) if any(s is o for o in open_ones) else s for s in done], (note,)
    return done, ()


def _with_classes(sources: list[Any], runner: Runner) -> list[Any]:
    """Return the sources, names numbered alike in all. Raises DataError where the model has other classes."""
    plain = [s for s in sources if isinstance(s, StoredData) and s.classes is None]
    labels = {id(source): source.rows().labels or () for source in plain}
    names = {name for found in labels.values() if named(found) for name in found}
    if not names:
        return sources
    outputs = [size for spec in runner.outputs[:1] for size in spec.shape[-1:] if isinstance(size, int) and size > 1]
    if outputs and outputs[0] != len(names):
        raise DataError(
            f"{plain[0].path}: the labels have {counted(len(names), 'name')} ({listed(sorted(names))}), and the model's"
            f" output {runner.outputs[0].name!r} has {outputs[0]}: give --classes FILE with the name of each, one a"
            " line, in the model's order"
        )
    order = tuple(sorted(names))
    return [replace(s, classes=order) if named(labels.get(id(s), ())) else s for s in sources]


def _preset(source: StoredData, runner: Runner) -> tuple[ImageFormat, str] | None:
    """Return the preset that makes most labels right, with a note; None where there are no class numbers to go by."""
    assert isinstance(source.format, AnyImageFormat)
    rows = source.rows()
    labels, _ = numbered(rows, source.classes)
    if labels is None or np.asarray(labels).dtype.kind not in "iu":
        return None
    chosen = sorted({int(i) for i in np.linspace(0, len(rows.rows) - 1, TRIED)})
    right: dict[str, int] = {}
    for name, encoder in source.format.encoders(runner.inputs, rows.columns, str(source.path)).items():
        hits = 0
        for index in chosen:
            place = rows.places(index)
            outputs = runner.run(fit(encoder.encode(rows.rows[index], place), runner.inputs, place))
            scores = np.asarray(next(iter(outputs.values())))
            if scores.size < 2 or scores.dtype.kind != "f":
                return None
            hits += int(scores.argmax() == labels[index])
        right[name] = hits
    best, *rest = sorted(right, key=lambda name: -right[name])
    beside = f", with {rest[0]} {right[rest[0]]}" if rest else ""
    note = (
        f"{source.path}: --preset {best} is guessed: with it {right[best]} of {counted(len(chosen), 'label')}"
        f" {verb(right[best], 'is', 'are')} right{beside};"
        " name one to be sure"
    )
    return source.format.candidates[best], note
