"""The record that a written model carries in its metadata, and what is made of it when such a model is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, get_type_hints

import onnx

from onnx_lowrank.graph.model_io import content_hash
from onnx_lowrank.options import Options
from onnx_lowrank.passes.node_marks import METADATA_KEY, told
from onnx_lowrank.types import Certificate, Plan, Provenance

SWITCHES = (
    *("exponents", "objective", "signed", "inter_layer", "refit", "continuation"),
    *("temperature", "logit_bias", "last_layer"),
)
KINDS: Mapping[str, tuple[type, ...]] = {"int": (int,), "float": (int, float)}
"""What a number of a certificate may be in JSON; everything else is text."""
LONGEST = 200
"""Letters of such a text, at most."""


def stamp(
    model: onnx.ModelProto,
    plan: Plan,
    *,
    version: str,
    goal: str,
    options: Options,
    sha256: str,
    warning: str,
    then: Mapping[str, str],
    certificate: Certificate | None = None,
) -> None:
    """Write provenance into the model's metadata: no time, no path, so equal runs give equal bytes.

    It holds a hash of graph and weights, so that a certificate is not taken for one of what others made of the file.
    """
    record: dict[str, object] = {
        "tool": f"onnx-lowrank {version}",
        "algorithm": goal,
        "sensitivity": options.sensitivity,
        "switches": [name for name in SWITCHES if getattr(options, name) not in (False, getattr(Options(), name))],
        "seed": options.seed,
        "source_sha256": sha256,
        "content_sha256": content_hash(model, metadata=False),
        "ranks": {c.weight: told(c.option.form) for c in plan.factored},
    }
    if certificate is not None:
        record["certificate"] = asdict(certificate)
    if then:
        record["quantised"] = dict(then)
    if warning:
        record["warning"] = warning
    for entry in [p for p in model.metadata_props if p.key == METADATA_KEY]:
        model.metadata_props.remove(entry)
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps(record, sort_keys=True)


def provenance(model: onnx.ModelProto) -> Provenance | None:
    """Return what a model (weights in memory) says of how it was made; None where it says nothing that can be read."""
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY and (record := _record(entry.value)) is not None:
            written = record.get("content_sha256")
            same = None if not isinstance(written, str) else written == content_hash(model, metadata=False)
            return Provenance(record["tool"], _certificate(record.get("certificate")), same)
    return None


def _record(text: str) -> dict[str, Any] | None:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and _plain(record.get("tool")) else None


def _plain(text: object) -> bool:
    """Return whether this is a text that can be shown: it comes from a file that anyone may have written."""
    return isinstance(text, str) and text.isprintable() and len(text) <= LONGEST


def _certificate(record: object) -> Certificate | None:
    """Return a certificate of what was in a file, None where a part is missing or of another kind."""
    kinds = get_type_hints(Certificate)
    names = [field.name for field in fields(Certificate)]
    if not isinstance(record, dict) or any(name not in record for name in names):
        return None
    for name in names:
        numbers = KINDS.get(getattr(kinds[name], "__name__", ""))
        fits = _plain(record[name]) if numbers is None else type(record[name]) in numbers
        if not fits:
            return None
    return Certificate(**{name: record[name] for name in names})
