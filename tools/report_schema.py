"""Write the JSON Schemas of reports and plans, onnx_lowrank/report/schemas/*.json, from the types that they are of."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from onnx_lowrank.goals import Compact, Lossless
from onnx_lowrank.options import Options
from onnx_lowrank.report.json_report import FORMAT
from onnx_lowrank.results.analysis import LayerLoss, SizePoint
from onnx_lowrank.results.comparison import Comparison
from onnx_lowrank.results.inspection import Inspection
from onnx_lowrank.results.parts import Findings, Measured, Size
from onnx_lowrank.results.saved_plan import VERSION, SavedPlan
from onnx_lowrank.types import Certificate, Plan

PLACE = Path(__file__).parent.parent / "onnx_lowrank" / "report" / "schemas"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
LEFT_OUT = {"curves"}
NOT_FINITE = "Numbers that are not finite are null."
TEXT, NUMBER, WHOLE, FLAG = ({"type": kind} for kind in ("string", "number", "integer", "boolean"))
TEXTS = {"type": "array", "items": TEXT}
HEAD = {"version": {"const": FORMAT}, "tool": TEXT, "exit_code": {"enum": [0, 1, 3]}}
"""What all reports begin with, but for their format."""
HOST = {"type": "object", "additionalProperties": TEXT}
SITE_OPTIONS = {
    "type": "object",
    "properties": {
        "site": TEXT,
        "probes": {"type": "array", "items": {"type": "object"}},
        "range": {"type": ["number", "null"]},
        "options": {"type": "array", "items": {"type": "object", "required": ["scheme", "ranks", "storage", "loss"]}},
    },
    "required": ["site", "options"],
}


def main() -> None:
    """Write all files, or with --check end with 1 where one is not what it would be."""
    stale = []
    for name, schema in schemas().items():
        text = json.dumps(schema, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        place = PLACE / f"{name}.json"
        if "--check" in sys.argv:
            stale += [] if place.is_file() and json.loads(place.read_text("utf-8")) == schema else [place.name]
        else:
            place.write_text(text, "utf-8")
    if stale:
        raise SystemExit(f"not what the types are: {', '.join(stale)}; run tools/report_schema.py")


def schemas() -> dict[str, dict[str, Any]]:
    """Return name -> schema."""
    types = [Compact, Lossless, Options, Size, Plan, Certificate, *_of(Findings), *_of(Measured), SizePoint, LayerLoss]
    types += [*_of(Comparison), *_of(Inspection), SavedPlan]
    kinds = list(dict.fromkeys(types))
    adapters = [(number, "serialization", TypeAdapter(kind)) for number, kind in enumerate(kinds)]
    found, shared = TypeAdapter.json_schemas(adapters, ref_template="#/$defs/{model}")
    by_type = {kind: found[number, "serialization"] for number, kind in enumerate(kinds)}
    parts = shared["$defs"]
    form = parts.pop("Form")
    option = parts["Option"]
    option["properties"] = form["properties"] | {k: v for k, v in option["properties"].items() if k != "form"}
    option["required"] = ["scheme"]

    def ref(kind: Any) -> Any:
        return by_type[kind]

    def properties(kind: type) -> dict[str, Any]:
        hints = get_type_hints(kind)
        return {f.name: by_type[hints[f.name]] for f in fields(kind) if f.name not in LEFT_OUT}

    report = {
        **HEAD,
        "changed": FLAG, "reason": TEXT, "goal": {"anyOf": [ref(Compact), ref(Lossless)]}, "options": ref(Options),
        "source": TEXT, "source_hash": TEXT, "before": ref(Size), "after": ref(Size), "plan": _maybe(ref(Plan)),
        "output": _maybe(TEXT), "output_sha256": _maybe(TEXT), "command": TEXTS, "host": HOST, "held_to": WHOLE,
        "certificate": _maybe(ref(Certificate)), "divergence": TEXT, "metric": TEXT,
        **properties(Measured), **properties(Findings),
        "algorithm": TEXT, "predicted_latency_ratio": _maybe(NUMBER),
        "sensitivity": {"type": "array", "items": SITE_OPTIONS},
        "analysis": {
            "type": "object",
            "properties": {
                "resource": TEXT, "part": NUMBER, "unit": TEXT,
                "points": {"type": "array", "items": ref(SizePoint)},
                "layers": {"type": "array", "items": ref(LayerLoss)},
            },
        },
    }  # fmt: skip
    error = {**HEAD, "error": TEXT, "reason": TEXT, "command": TEXTS, "host": HOST}
    inspection = properties(Inspection) | {"share": NUMBER}
    plan = json.loads(json.dumps(parts["SavedPlan"]))
    choice = plan["properties"]["choices"]["items"]
    return {
        "report": _whole("report", "what `optimize --report` writes", report, parts, optional=("analysis",)),
        "error": _whole("error", "what --report writes where an error ended a run", error, parts),
        "comparison": _whole("comparison", "what `compare --report` writes", HEAD | properties(Comparison), parts),
        "inspection": _whole("inspection", "what `inspect --report` writes", HEAD | inspection, parts),
        "plan": _whole(
            "plan",
            "what `optimize --save-plan` writes and `apply` reads",
            {"version": {"const": VERSION}} | plan["properties"] | {"choices": {"type": "array", "items": choice}},
            parts,
            required=["format", "version", "model_sha256", "sensitivity", "seed", "rank_multiple", "choices"],
        ),
    }


def _of(kind: type) -> list[Any]:
    """Return the types of a dataclass's fields."""
    hints = get_type_hints(kind)
    return [hints[f.name] for f in fields(kind) if f.name not in LEFT_OUT and hints[f.name].__class__ is not str]


def _maybe(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"anyOf": [{"type": "null"}, schema]}


def _whole(
    kind: str,
    about: str,
    properties: Mapping[str, Any],
    parts: Mapping[str, Any],
    *,
    required: list[str] | None = None,
    optional: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return a schema with those definitions that it reaches."""
    schema: dict[str, Any] = {
        "$schema": DIALECT,
        "title": f"onnx-lowrank {kind}",
        "description": f"{about[0].upper()}{about[1:]}. {NOT_FINITE}",
        "type": "object",
        "properties": {"format": {"const": f"onnx-lowrank {kind}"}, **properties},
    }
    schema["required"] = required or [name for name in schema["properties"] if name not in optional]
    reached: dict[str, Any] = {}
    text = json.dumps(schema)
    while missing := {n for n in parts if n not in reached and f'"#/$defs/{n}"' in text}:
        reached |= {name: parts[name] for name in missing}
        text = json.dumps([schema, reached])
    return {"title": schema["title"], **_nullable({**schema, "$defs": reached})}


def _nullable(schema: Any) -> Any:
    """Return the schema with null beside every number, and without defaults, titles and examples of Python."""
    if isinstance(schema, list):
        return [_nullable(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if isinstance(schema.get("description"), str):
        schema = schema | {"description": schema["description"].partition("\n\n>>>")[0]}
    made = {key: _nullable(value) for key, value in schema.items() if key not in ("default", "title")}
    return made | ({"type": ["number", "null"]} if made.get("type") == "number" else {})


if __name__ == "__main__":
    main()
