"""What the page tells, taken from the JSON report: numbers, names and sentences, and nothing of how they look."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from onnx_lowrank.report import numbers
from onnx_lowrank.report.html.commands import about_command, command_for
from onnx_lowrank.report.labels import full_name, shortened
from onnx_lowrank.report.tables import role_notes
from onnx_lowrank.report.time_notes import ratio_notes
from onnx_lowrank.types import DENSE, OWN, Interval

Report = Mapping[str, Any]
LABEL = 36
"""Letters of a layer's name on an axis."""
OPTIONS = 80
"""Options of a weight that are drawn, at most: those that no other beats, then others spread over the bytes."""
PREDICTED = 120
"""Points of the curve that is predicted."""
UNITS = {"kl": "nats of KL", "bernoulli-kl": "nats of KL", "relative-l2": "relative squared error"}
RESOURCES = {
    "bytes": "bytes",
    "parameters": "parameters",
    "macs": "multiply-accumulates",
    "milliseconds": "milliseconds",
}
"""What plans are drawn against, and what it is called."""


def content_of(report: Report) -> dict[str, Any]:
    """Return everything the template and the charts need. Raises KeyError and the like for another report."""
    layers = [_layer(site, number) for number, site in enumerate(report["sites"])]
    places = {layer["id"]: layer for layer in layers}
    short = shortened([layer["name"] for layer in layers], {layer["name"]: layer["op"] for layer in layers}, LABEL)
    for layer in layers:
        layer["label"] = short[layer["name"]]
    analysis = report.get("analysis")
    for alone in analysis["layers"] if analysis else ():
        places[alone["site"]] |= {"loss": alone["loss"], "error": alone["error"]}
    chosen = _chosen(report)
    ranges = {curve["site"]: curve["range"] for curve in report["sensitivity"]}
    plans = [
        {
            **_measured(trial, report),
            "number": number,
            "name": f"plan {number + 1}",
            "command": command_for(report, trial["size"], chosen=number == chosen),
            "about": about_command(report, trial["verdict"]["word"], chosen=number == chosen),
            "choices": [
                _choice(choice, places, ranges.get(choice["site"]))
                for choice in trial["plan"]["choices"]
                if choice["site"] in places
            ],
            "loss": sum(choice["option"]["loss"] for choice in trial["plan"]["choices"]),
        }
        for number, trial in enumerate(report["trials"])
    ]
    options = [row for curve in report["sensitivity"] if curve["site"] in places for row in _options(curve, places)]
    return {
        "title": report["source"],
        "analysis": analysis,
        "verdict": _verdict(report),
        "before_after": list(_before_after(report)),
        "layers": layers,
        "plans": plans,
        "steps": [{**_measured(step, report), "name": step["name"]} for step in report["steps"]],
        "chosen": chosen,
        "options": options,
        "predicted": _predicted(report),
        "checks": report["checks"],
        "gate": _gate(report),
        "resources": {key: name for key, name in RESOURCES.items() if report["before"][key]},
        "left": list(_left(report)),
        "notes": [note for note in _notes(report) if note],
        "warnings": report["warnings"],
        "stages": sorted(_stages(report["seconds"]).items(), key=lambda pair: -pair[1]),
        "repeat": dict(_repeat(report)),
        "unit": UNITS.get(report["divergence"], report["divergence"]),
        "timed": any(layer["ms"] for layer in layers),
        "corrected": any(choice["beyond"] for plan in plans for choice in plan["choices"]),
        "spectrum": any(row["ranks"] and row["error"] > 0 for row in options),
    }


def _layer(site: Mapping[str, Any], number: int) -> dict[str, Any]:
    return {
        "number": number,
        "id": site["id"],
        "name": full_name(site["weight"], site["node"]),
        "weight": site["weight"],
        "node": site["node"],
        "op": site["op"],
        "shape": numbers.shape(tuple(site["shape"])),
        "parameters": int(np.prod(site["shape"], dtype=np.int64)),
        "ms": 0.0,
        "loss": 0.0,
        "error": 0.0,
    }


def _measured(trial: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """Return what was validated, a plan or a step: its size, and its metric with its interval."""
    verdict, size, before = trial["verdict"], trial["size"], report["before"]
    sign = -1 if verdict["higher_is_better"] else 1
    drop, original = verdict["drop"], verdict["original"]["estimate"]
    ends = [original + sign * drop[end] if drop[end] is not None else None for end in ("low", "high")]
    return {
        "word": verdict["word"],
        "reason": verdict["reason"],
        "value": verdict["candidate"]["estimate"],
        "low": _least(ends),
        "high": _most(ends),
        "bound": verdict["bound"]["value"],
        **{key: size[key] / before[key] if before[key] else None for key in RESOURCES},
        "file": numbers.size(size["bytes"]),
    }


def _choice(choice: Mapping[str, Any], places: Mapping[str, Any], trusted: float | None) -> dict[str, Any]:
    """Return what a plan does to a weight; trusted: the largest error at which its loss is predicted alone."""
    option, layer = choice["option"], places[choice["site"]]
    layer["ms"] = max(layer["ms"], option["cost"]["milliseconds"])
    storage = "" if option["storage"] == OWN else option["storage"]
    scheme = "" if option["scheme"] == DENSE else option["scheme"]
    return {
        "layer": layer["number"],
        "form": " ".join(part for part in (scheme, storage) if part) or "unchanged",
        "changed": bool(scheme or storage),
        "ranks": "×".join(map(str, option["ranks"])),
        "kept": option["cost"]["parameters"] / layer["parameters"],
        "bytes": option["cost"]["bytes"],
        "ms": option["cost"]["milliseconds"],
        "loss": option["loss"],
        "deviation": option["deviation"] or 0.0,
        "error": option["error"],
        "beyond": trusted is not None and option["scheme"] != DENSE and option["error"] > trusted,
    }


def _least(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return min(known, default=None)


def _most(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known, default=None)


def _chosen(report: Report) -> int | None:
    """Return the number of the plan that was saved, None where nothing was."""
    if not report["changed"]:
        return None
    wanted = report["plan"]["choices"]
    same = (n for n, trial in enumerate(report["trials"]) if trial["plan"]["choices"] == wanted)
    return next(same, len(report["trials"]) - 1 if report["trials"] else None)


def _verdict(report: Report) -> dict[str, Any]:
    """Return what is claimed, in words, and how sure it is."""
    found = report["verdict"]
    word = found["word"] if report["changed"] and found else "nothing saved"
    if report.get("analysis"):
        return {"word": "analysis", "reason": report["reason"], "passed": None}
    about: dict[str, Any] = {"word": word, "reason": report["reason"], "passed": report["changed"]}
    if found:
        about |= {
            "allowed": found["allowed"], "drop": found["drop"], "bound": found["bound"]["value"],
            "samples": found["samples"], "metric": found["metric"].rpartition(":")[2],
            "confidence": found["bound"]["confidence"], "certified": found["word"] == "certified",
            "bound_told": _bound_told(found), "legend": _legend(found),
        }  # fmt: skip
    return about


def _bound_told(found: Mapping[str, Any]) -> str:
    """Return the name of the mark at the bound; none where there is no mark."""
    value = found["bound"]["value"]
    if value is None or found["word"] == "observed":
        return ""
    told = numbers.metric(value).replace("-", "−")
    return f"certified below {told}" if found["word"] == "certified" else f"bound {told}"


def _legend(found: Mapping[str, Any]) -> str:
    """Return what the bar of a verdict draws."""
    drop, bound = found["drop"], found["bound"]
    told = f"Bar: the two-sided {100 * drop['level']:g} % interval of the drop, {_interval(drop)}, for the eye."
    if not _bound_told(found):
        return f"{told} Nothing is certified: the estimate alone was compared with what is allowed."
    value = numbers.metric(bound["value"]).replace("-", "−")
    return f"{told} What is compared with the allowed drop is the one-sided bound at {_level(bound)}: {value}."


def _level(bound: Mapping[str, Any]) -> str:
    return f"{100 * bound['confidence']:g} %"


def _before_after(report: Report) -> Iterator[tuple[str, str, str, str]]:
    before, after = report["before"], report["after"]
    if report.get("analysis"):
        for point in report["analysis"]["points"]:
            measured, changed, bound = (point[key] for key in ("measured", "changed", "bound"))
            yield (
                f"{100 * point['kept']:.1f} %",
                numbers.small(point["predicted"]),
                "–" if measured is None else numbers.small(measured),
                "–" if bound is None else f"below {numbers.metric(bound)} ({100 * (changed or 0.0):.1f} % changed)",
            )
        return
    yield ("file", numbers.size(before["bytes"]), numbers.size(after["bytes"]), _share(after, before, "bytes"))
    yield (
        "parameters", f"{before['parameters']:,}", f"{after['parameters']:,}", _share(after, before, "parameters"),
    )  # fmt: skip
    if before["macs"]:
        told = (numbers.count(before["macs"]), numbers.count(after["macs"]))
        yield ("multiply-accumulates", *told, _share(after, before, "macs"))
    for role in ("verdict", "test"):
        if found := report[role]:
            name = f"{found['metric'].rpartition(':')[2]}, {'validation' if role == 'verdict' else 'test'}"
            values = [numbers.metric(found[side]["estimate"]) for side in ("original", "candidate")]
            yield (name, values[0], values[1], f"drop {_interval(found['drop'])}")
    if latency := report["latency"]:
        told = (f"{latency['first_ms']:.3g} ms", f"{latency['second_ms']:.3g} ms")
        yield ("time of a sample", *told, f"ratio {_interval(latency['ratio'], 2)}")


def _share(after: Mapping[str, Any], before: Mapping[str, Any], key: str) -> str:
    return numbers.percent(after[key], before[key])


def _interval(value: Mapping[str, Any], digits: int = 4) -> str:
    low, high = ("–" if value[end] is None else f"{value[end]:.{digits}f}" for end in ("low", "high"))
    return f"{value['estimate']:.{digits}f} [{low}, {high}]".replace("-", "−")


def _gate(report: Report) -> dict[str, Any] | None:
    """Return the original's metric and the worst that is allowed."""
    found = report["verdict"] or next((trial["verdict"] for trial in report["trials"]), None)
    if found is None:
        return None
    original, sign = found["original"]["estimate"], -1 if found["higher_is_better"] else 1
    allowed = found["allowed"] * (abs(original) if found["drop_type"] == "relative" else 1)
    return {"original": original, "gate": original + sign * allowed, "metric": found["metric"].rpartition(":")[2]}


def _options(curve: Mapping[str, Any], places: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the options of a weight that are drawn, a row each; bases of logarithms are above 0."""
    layer, rows = places[curve["site"]], sorted(curve["options"], key=lambda o: (o["bytes"], o["loss"]))
    best, least = list[int](), float("inf")
    for index, option in enumerate(rows):
        if option["loss"] < least:
            least = option["loss"]
            best.append(index)
    rest = [index for index in range(len(rows)) if index not in set(best)]
    spread = np.unique(np.linspace(0, len(rest) - 1, max(min(OPTIONS - len(best), len(rest)), 0)).round().astype(int))
    for index in sorted({*best[-OPTIONS:], *(rest[int(i)] for i in spread)}):
        option = rows[index]
        yield {
            "layer": layer["number"], "bytes": option["bytes"], "loss": max(option["loss"], 1e-12),
            "form": " ".join(p for p in (option["scheme"], option["storage"]) if p != "own"),
            "kept": option["parameters"] / layer["parameters"],
            "scheme": option["scheme"], "ranks": "×".join(map(str, option["ranks"])), "error": option["error"],
        }  # fmt: skip


def _predicted(report: Report) -> list[dict[str, float]]:
    """Return the least predicted loss at falling bytes: of every weight what is best at one price of a byte."""
    curves = [
        (np.array([o["bytes"] for o in c["options"]], float), np.array([max(o["loss"], 0.0) for o in c["options"]]))
        for c in report["sensitivity"]
        if c["options"]
    ]
    if not curves:
        return []
    rest = report["before"]["bytes"] - sum(sizes[0] for sizes, _ in curves)
    slopes = np.concatenate([losses[losses > 0] / np.maximum(sizes[losses > 0], 1) for sizes, losses in curves])
    if not slopes.size:
        return []
    points = {}
    for price in np.geomspace(slopes.min() / 100, slopes.max() * 100, PREDICTED):
        picks = [int(np.argmin(losses + price * sizes)) for sizes, losses in curves]
        size = rest + sum(sizes[i] for (sizes, _), i in zip(curves, picks, strict=True))
        points[float(size)] = float(sum(losses[i] for (_, losses), i in zip(curves, picks, strict=True)))
    whole = report["before"]["bytes"]
    return [{"bytes": size / whole, "loss": loss} for size, loss in sorted(points.items()) if loss > 0]


def _left(report: Report) -> Iterator[dict[str, Any]]:
    """Yield what stays as it is by reason, the largest first, with an example."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for skip in report["skips"]:
        groups.setdefault(skip["why"], []).append(skip)
    whole = report["before"]["parameters"]
    sizes = {why: sum(_count(skip) for skip in skips) for why, skips in groups.items()}
    for why, skips in sorted(groups.items(), key=lambda pair: -sizes[pair[0]]):
        largest = max(skips, key=_count)
        yield {
            "why": why, "weights": len(skips), "share": numbers.percent(sizes[why], whole),
            "example": f"{largest['weight']}: {largest['detail']}" if largest["detail"] else largest["weight"],
        }  # fmt: skip


def _count(skip: Mapping[str, Any]) -> int:
    return int(np.prod(skip["shape"], dtype=np.int64))


def _stages(seconds: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds of every stage, all plans' validations together."""
    stages: dict[str, float] = {}
    for name, value in seconds.items():
        key = "validating plans" if name.startswith("validating plan") else name
        stages[key] = stages.get(key, 0.0) + value
    return stages


def _notes(report: Report) -> Iterator[str]:
    """Yield the notes that the terminal shows: on the metric, the run, its time, and the verdicts."""
    yield report["metric"]
    yield from report["notes"]
    if report["latency"] and report["changed"]:
        yield from ratio_notes(_between(report["latency"]["ratio"]), report["predicted_latency_ratio"])
    for key, role in (("verdict", "validation"), ("test", "test")):
        if found := report[key]:
            agreement = _between(found["agreement"]) if found["agreement"] else None
            yield from role_notes(found["notes"], agreement, found["metric"], role)


def _between(value: Mapping[str, Any]) -> Interval:
    """Return an interval as it was before numbers that are not finite became null."""
    return Interval(**{key: math.nan if number is None else number for key, number in value.items()})


def _told(options: Mapping[str, Any]) -> Iterator[str]:
    """Yield every option that says something: all but what is off, empty or left to the tool."""
    for key, value in options.items():
        if isinstance(value, Mapping):
            yield from _told(value)
        elif value is True:
            yield key
        elif not (value is None or value is False or value in ([], "")):
            yield f"{key} {' '.join(map(str, value)) if isinstance(value, list) else value}"


def _repeat(report: Report) -> Iterator[tuple[str, str]]:
    """Yield what is needed to repeat the run."""
    options, goal = report["options"], report["goal"]
    yield "tool", f"onnx-lowrank {report['tool']}"
    yield "model", f"{report['source']}, sha256 {report['source_hash']}"
    yield "algorithm", report["algorithm"]
    yield "goal", ", ".join(f"{key} {value}" for key, value in goal.items() if key != "gate" and value is not None)
    yield "gate", ", ".join(f"{key} {value}" for key, value in goal["gate"].items() if value is not None)
    yield "options", ", ".join(_told(options))
    if certificate := report["certificate"]:
        yield "certificate", ", ".join(f"{key} {value}" for key, value in certificate.items())
    if report["output"]:
        yield "written", f"{report['output']}, sha256 {report['output_sha256']}"
    yield "host", ", ".join(f"{key} {value}" for key, value in report["host"].items())
    if report["command"]:
        yield "command", shlex.join(report["command"])
