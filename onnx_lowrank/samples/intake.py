"""The one pass over a set: every sample fitted, searched for NaN, and hashed; nothing of it is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import TensorSpec
from onnx_lowrank.samples.conform import as_array, check_inputs, fit
from onnx_lowrank.samples.records import LABELS, Raw
from onnx_lowrank.samples.sets import Lazy, Samples
from onnx_lowrank.types import Array, Feed
from onnx_lowrank.types.words import counted, verb

Progress: TypeAlias = Callable[[int, int], None]
"""Told how many samples are done, and of how many."""


def take(
    raw: Raw, inputs: Sequence[TensorSpec], progress: Progress | None = None, groups: str | None = None
) -> Samples:
    """Return the set, checked whole. Raises DataError for the first sample that does not fit the model.

    groups: the key of what samples have in common, which is no input; None: as the source knows it.
    """
    check_inputs(inputs)
    count = len(raw.records)
    if not count:
        raise DataError(f"{raw.source}: no sample in it; give at least one")
    hashes: list[str] = []
    labels: list[Any] = []
    sources: list[str] = []
    notes: dict[str, None] = dict.fromkeys(raw.notes)
    unclean = _Unclean(raw)
    for index in range(count):
        record = raw.records[index]
        arrays = _inputs_of(record.arrays, groups)
        feed = fit(arrays, inputs, raw.place(index))
        if groups is not None:
            sources.append(_group(record.arrays, groups, raw.place(index)))
        unclean.look(index, feed)
        hashes.append(content_hash(feed))
        labels.append(record.label)
        if index == 0:
            notes.update(dict.fromkeys(_conversions(raw.source, arrays, feed)))
        if progress is not None:
            progress(index + 1, count)
    unclean.report()
    feeds = Lazy(count, lambda index: fit(_inputs_of(raw.records[index].arrays, groups), inputs, raw.place(index)))
    shared = tuple(sources) or (None if raw.groups is None else tuple(raw.groups))
    return Samples(feeds, _labels(raw, labels), raw.source, tuple(hashes), tuple(notes), shared)


def _inputs_of(arrays: Mapping[str, Any], groups: str | None) -> Mapping[str, Any]:
    """Return what is for the model."""
    return arrays if groups is None else {name: array for name, array in arrays.items() if name != groups}


def _group(arrays: Mapping[str, Any], key: str, place: str) -> str:
    """Return the name of a sample's group. Raises DataError where it has none, or more than one."""
    if key not in arrays:
        raise DataError(f"{place}: no key {key!r}, which --groups names: add it, or leave --groups out")
    value = as_array(arrays[key], key, place)
    if value.size != 1:
        raise DataError(f"{place}: {key!r} holds {value.size} values; --groups wants one a sample")
    return str(value.reshape(-1)[0])


def content_hash(feed: Feed) -> str:
    """Return the hash of a sample's inputs: names, types, shapes and values."""
    digest = hashlib.blake2b(digest_size=16)
    for name, array in sorted(feed.items()):
        kind = "str" if array.dtype.kind == "U" else array.dtype.str
        digest.update(f"{name!r}|{kind}|{array.shape}|".encode())
        if array.dtype.kind == "U":
            # The width of a text array is that of its longest text in the file: not a part of the content.
            digest.update(repr([str(text) for text in array.ravel()]).encode())
        else:
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return digest.hexdigest()


def _conversions(source: str, given: Any, feed: Feed) -> list[str]:
    """Return a note for every input whose integers become floats: exact, but pixels are perhaps still to be scaled."""
    pairs = [(name, np.asarray(given[name]).dtype, array.dtype) for name, array in feed.items() if name in given]
    return [
        f"{source}: input {name!r} holds {have}, given to the model as {want} without scaling"
        for name, have, want in pairs
        if have.kind in "iu" and want.kind == "f"
    ]


@dataclass(slots=True)
class _Unclean:
    """Which samples hold NaN or Inf, input by input."""

    raw: Raw
    found: dict[str, list[int]] = field(default_factory=dict)
    kinds: dict[str, set[str]] = field(default_factory=dict)

    def look(self, index: int, feed: Feed) -> None:
        """Remember what is not finite in a sample."""
        for name, array in feed.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                self.found.setdefault(name, []).append(index)
                kinds = self.kinds.setdefault(name, set())
                kinds.update(word for word, test in (("NaN", np.isnan), ("Inf", np.isinf)) if test(array).any())

    def report(self) -> None:
        """Raise DataError where anything was found."""
        for name, indices in self.found.items():
            what = " and ".join(sorted(self.kinds[name], reverse=True))
            raise DataError(
                f"{self.raw.source}: {_which(self.raw, indices)} {what} in input {name!r}; mend them or leave them out"
            )


def _which(raw: Raw, indices: Sequence[int]) -> str:
    total, first = len(raw.records), raw.name(indices[0])
    if len(indices) == 1:
        return f"1 of {counted(total, 'sample')}, {first}, holds"
    return f"{len(indices)} of {total} samples, first {first}, hold"


def _labels(raw: Raw, own: list[Any]) -> Sequence[Any] | Array | None:
    """Return one label a sample: the set's, or those the samples came with."""
    labelled = sum(label is not None for label in own)
    if raw.labels is not None and labelled:
        raise DataError(f"{raw.source}: labels both in the samples and beside them; leave one of the two out")
    if labelled not in (0, len(own)):
        raise DataError(
            f"{raw.source}: only {labelled} of {len(own)} samples {verb(labelled, 'has', 'have')} a label;"
            " label all of them or none"
        )
    labels = raw.labels if raw.labels is not None else _together(raw, own) if labelled else None
    if labels is not None and len(labels) == len(own):
        bad = [i for i, label in enumerate(labels) if _not_finite(label)]
        if bad:
            raise DataError(f"{raw.source}: {_which(raw, bad)} NaN or Inf as label; mend them or leave the samples out")
    return labels


def _not_finite(label: Any) -> bool:
    return isinstance(label, float | np.ndarray | np.floating) and (
        np.asarray(label).dtype.kind == "f" and not np.isfinite(label).all()
    )


def _together(raw: Raw, own: list[Any]) -> Sequence[Any] | Array:
    """Return the samples' labels as one array where they have one shape, else as a list.

    Where every label is an array of one row, that row is the batch axis of its sample, and goes.
    """
    labels = [
        as_array(label, LABELS, raw.place(i)) if hasattr(label, "shape") else label for i, label in enumerate(own)
    ]
    if all(isinstance(label, np.ndarray) and label.shape[:1] == (1,) for label in labels):
        labels = [label[0] for label in labels]
    if not all(isinstance(label, bool | int | float | str | np.ndarray | np.generic) for label in labels):
        return labels
    arrays = [np.asarray(label) for label in labels]
    alike = len({(array.shape, array.dtype.kind in "OSTU") for array in arrays}) == 1
    return np.stack(arrays) if alike else labels
