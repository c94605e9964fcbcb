"""Results as JSON: everything the tables show and what lies behind them, for programs."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Any

from onnx_lowrank.errors import DataError
from onnx_lowrank.results.analysis import Analysis
from onnx_lowrank.results.comparison import Comparison
from onnx_lowrank.results.inspection import Inspection
from onnx_lowrank.results.result import Result
from onnx_lowrank.types import Curve, Option
from onnx_lowrank.version import __version__

FORMAT = 5
"""5: exit_code is new, and a run that an error ended has a report.
4: host, command and the hash of the output are new.
3: what is shared is called shared_input and shared_inputs, provider and threads are in options.runtime.
2: a verdict has a word and a bound with its confidence; warnings and a certificate are new."""
LEFT_OUT = {"curves"}


def plain(value: Any) -> Any:
    """Return a value as JSON knows it: dataclasses as objects, numbers that are not finite as null."""
    if isinstance(value, Option):  # the fields of the form are written with the option's own
        named = {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.name != "form"}
        return {**plain(value.form), **named}
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.name not in LEFT_OUT}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    if callable(value):  # a metric of the user's own
        return getattr(value, "__name__", type(value).__name__)
    return value


SCHEMAS = Path(__file__).parent / "schemas"
"""JSON Schemas of everything that is written, one file a kind."""


def schema_kinds() -> list[str]:
    """Return the kinds of files that have a schema."""
    return sorted(path.stem for path in SCHEMAS.glob("*.json"))


def schema(kind: str) -> str:
    """Return the JSON Schema of a kind of file. Raises OSError for one that there is not."""
    return (SCHEMAS / f"{kind}.json").read_text("utf-8")


def _text(kind: str, content: dict[str, Any]) -> str:
    head = {"format": f"onnx-lowrank {kind}", "version": FORMAT, "tool": __version__}
    return json.dumps(head | content, indent=2, ensure_ascii=False) + "\n"


def result_json(result: Result, command: Sequence[str] = ()) -> str:
    """Return the report of `optimize`; `sensitivity` holds every site's probes and options.

    command: the words of the command line, where it was one.
    """
    original, request, findings = result.original, result.request, result.findings
    content: dict[str, Any] = {
        "exit_code": 0 if result.changed else 3,
        "changed": result.changed,
        "reason": result.reason,
        "goal": plain(request.goal),
        "options": plain(request.options),
        "source": original.source,
        "source_hash": original.sha256,
        "before": plain(result.before),
        "after": plain(result.after),
        "plan": plain(result.plan),
        "output": plain(result.output),
        "output_sha256": _sha256(result.output),
        "command": list(command),
        "host": host(),
        "held_to": plain(original.held_to),
        "certificate": plain(result.certificate),
        "divergence": request.divergence,
        "metric": request.metric,
        **plain(result.measured),
        **plain(findings),
        "algorithm": request.goal.name,
    }
    content["predicted_latency_ratio"] = plain(result.predicted_ratio)
    content["sensitivity"] = [_curve(curve) for curve in findings.curves]
    return _text("report", content)


def error_json(kind: str, message: str, command: Sequence[str], exit_code: int) -> str:
    """Return the report of a run that an error ended; kind: the name of the exception."""
    content = {"exit_code": exit_code, "error": kind, "reason": message, "command": list(command), "host": host()}
    return _text("error", content)


def read_report(path: Path) -> dict[str, Any]:
    """Return a report that was written. Raises DataError where the file cannot be read or is none."""
    try:
        report = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; give the file that --report wrote") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no report: it is not JSON; give the file that --report wrote") from error
    if not isinstance(report, dict):
        raise DataError(f"{path} is no report; give the file that --report wrote")
    return report


def host() -> dict[str, str]:
    """Return what a run depends on besides its input: processor, system, and the versions of what computes."""
    versions = {name: _version(name) for name in ("onnxruntime-gpu", "onnxruntime", "onnx", "numpy", "scipy")}
    about = {"system": f"{platform.system()} {platform.machine()}", "cores": str(os.cpu_count() or 0)}
    return about | {"python": platform.python_version()} | {name: v for name, v in versions.items() if v}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _sha256(path: Path | None) -> str | None:
    """Return the hash of the file that was written, None where there is none."""
    if path is None or not path.is_file():
        return None
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def _curve(curve: Curve) -> dict[str, Any]:
    """Return a site's probes and options."""
    return {
        "site": curve.site,
        "probes": plain(curve.probes),
        "range": plain(curve.trust_range),
        "options": [
            {
                "scheme": o.scheme,
                "interpolative": o.form.interpolative,
                "storage": o.form.storage,
                "ranks": list(o.ranks),
                "shared_input": list(o.shared_input),
                "error": o.error,
                "loss": o.loss,
                "deviation": plain(o.deviation),
                "slope": o.slope,
                "slope_deviation": o.slope_deviation,
                **plain(o.cost),
            }
            for o in curve.options
        ],
    }


def analysis_json(analysis: Analysis, command: Sequence[str] = ()) -> str:
    """Return the report of `analyze`: that of a run that validated nothing, with what sizes and layers would lose."""
    found = {
        "resource": analysis.resource, "part": analysis.part, "unit": analysis.unit,
        "points": [plain(point) for point in analysis.points],
        "layers": [{**plain(layer), "site": layer.site.id} for layer in analysis.layers],
    }  # fmt: skip
    content = json.loads(result_json(analysis.result, command)) | {"exit_code": 0, "analysis": found}
    return json.dumps(content, indent=2) + "\n"


def comparison_json(comparison: Comparison) -> str:
    """Return the report of `compare`."""
    return _text("comparison", {"exit_code": 0 if comparison else 3, **plain(comparison)})


def inspection_json(inspection: Inspection) -> str:
    """Return the report of `inspect`."""
    return _text("inspection", {"exit_code": 0} | plain(inspection) | {"share": inspection.share})
