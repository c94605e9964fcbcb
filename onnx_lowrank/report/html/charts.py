"""The charts, by Altair: specifications with their data; colours are variables of the page's style."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from onnx_lowrank.results.parts import BOTH, FACTORED, INT8, LABELS

Content = Mapping[str, Any]
COLOURS = {"certified": "var(--good)", "observed": "var(--fair)", "failed": "var(--bad)"}
PALETTE = [f"var(--c{number})" for number in range(8)]
HEIGHT = 260
SHAPES = {FACTORED: "triangle-up", LABELS: "cross", INT8: "square", BOTH: "diamond"}
"""Marks of steps."""
SHARE = {"format": "%", "tickCount": 10}
LOG = {"format": "~e", "tickCount": 6}
"""Axes of numbers over many powers of ten."""
LARGEST = 25
"""Layers whose losses are drawn."""


def specs(altair: Any, content: Content) -> dict[str, Any]:
    """Return a Vega-Lite specification for every chart there is data for."""
    made = {
        "size": _size(altair, content),
        "loss": _predicted(altair, content),
        "sensitivity": _sensitivity(altair, content),
        "curve": _curve(altair, content),
        "spectrum": _spectrum(altair, content),
        "time": _time(altair, content),
        "checks": _checks(altair, content),
    }
    return {name: _styled(altair, chart).to_dict() for name, chart in made.items() if chart is not None}


def _styled(altair: Any, chart: Any) -> Any:
    axis = {"labelColor": "var(--text)", "titleColor": "var(--text)", "gridColor": "var(--line)",
            "domainColor": "var(--line)", "tickColor": "var(--line)", "titleFontWeight": "normal"}  # fmt: skip
    legend = {"labelColor": "var(--text)", "titleColor": "var(--text)", "titleFontWeight": "normal", "orient": "top"}
    font = {"font": "system-ui, sans-serif"}
    return (
        chart.configure(background="transparent", **font)
        .configure_view(stroke=None)
        .configure_axis(**axis)
        .configure_legend(**legend, labelLimit=400)
    )


def _rows(altair: Any, rows: Any, name: str) -> Any:
    return altair.Data(values=list(rows), name=name)


def _size(altair: Any, content: Content) -> Any:
    """Return the metric against size: measured plans with their intervals, the original, and the gate."""
    gate, plans = content["gate"], content["plans"]
    if not plans or gate is None:
        return None
    keys = list(content["resources"])
    names = list(content["resources"].values())
    wanted = altair.param(
        name="axis", value="bytes", bind=altair.binding_select(options=keys, labels=names, name="share of ")
    )
    rows = [{k: v for k, v in plan.items() if k not in ("choices", "command", "about")} for plan in plans]
    base = altair.Chart(_rows(altair, rows, "plans")).transform_calculate(share="datum[axis]")
    x = altair.X("share:Q", title="share of the original's, as chosen below", axis=altair.Axis(**SHARE))
    y = altair.Y("value:Q", title=gate["metric"], scale=altair.Scale(zero=False))
    shown = altair.Scale(domain=list(COLOURS), range=list(COLOURS.values()))
    colour = altair.Color("word:N", scale=shown, title=None)
    tips = [
        "name:N",
        "word:N",
        "file:N",
        altair.Tooltip("value:Q", format=".4f"),
        altair.Tooltip("bound:Q", format=".4f"),
    ]
    whiskers = base.mark_rule().encode(x=x, y=altair.Y("low:Q", title=gate["metric"]), y2="high:Q", color=colour)
    chosen = f"datum.number === {'null' if content['chosen'] is None else content['chosen']}"
    points = base.mark_point(filled=True, size=90, opacity=1).encode(
        x=x, y=y, color=colour, tooltip=tips,
        stroke=altair.condition(chosen, altair.value("var(--text)"), altair.value(None)),
    )  # fmt: skip
    drawn = [*_lines(altair, gate), whiskers, points, *_steps(altair, content["steps"], x, y)]
    return altair.layer(*drawn).add_params(wanted).properties(width="container", height=HEIGHT)


def _lines(altair: Any, gate: Content) -> list[Any]:
    """Return the lines of the original and of what is allowed; one name above its line, the other below."""
    above = gate["original"] >= gate["gate"]
    lines = [
        {"y": gate["original"], "name": "original", "above": above},
        {"y": gate["gate"], "name": "allowed", "above": not above},
    ]
    ruler = altair.Chart(_rows(altair, lines, "lines"))
    rules = ruler.mark_rule(strokeDash=[4, 3], color="var(--text)").encode(y="y:Q")
    words = [
        ruler.transform_filter(f"{no}datum.above")
        .mark_text(align="left", baseline=baseline, dx=4, dy=dy, color="var(--text)")
        .encode(y="y:Q", text="name:N", x=altair.value(0))
        for no, baseline, dy in (("", "bottom", -1), ("!", "top", 3))
    ]
    return [rules, *words]


def _steps(altair: Any, steps: Any, x: Any, y: Any) -> list[Any]:
    """Return what factoring and int8 do alone and together, each with its interval, its shape and its name."""
    if not steps:
        return []
    base = altair.Chart(_rows(altair, steps, "steps")).transform_calculate(share="datum[axis]")
    shape = altair.Shape("name:N", scale=altair.Scale(domain=list(SHAPES), range=list(SHAPES.values())), legend=None)
    tips = ["name:N", "word:N", "file:N", altair.Tooltip("value:Q", format=".4f")]
    align, aside = (
        altair.ExprRef(f"scale('x', datum.share) > width / 2 ? {right} : {left}")
        for right, left in (("'right'", "'left'"), (-7, 7))
    )
    words = base.mark_text(align=align, baseline="bottom", dx=aside, dy=-5, color="var(--c1)")
    return [
        base.mark_rule(color="var(--c1)").encode(x=x, y=altair.Y("low:Q"), y2="high:Q"),
        base.mark_point(size=150, opacity=1, color="var(--c1)").encode(x=x, y=y, shape=shape, tooltip=tips),
        words.encode(x=x, y=y, text="name:N"),
    ]


def _predicted(altair: Any, content: Content) -> Any:
    """Return the predicted loss against bytes, with the plans that were measured."""
    if len(content["predicted"]) < 2:
        return None
    x = altair.X("bytes:Q", title="share of the original's bytes", axis=altair.Axis(**SHARE))
    y = altair.Y(
        "loss:Q", title=f"predicted loss ({content['unit']})", scale=altair.Scale(type="log"), axis=altair.Axis(**LOG)
    )
    line = altair.Chart(_rows(altair, content["predicted"], "predicted"))
    curve = line.mark_line(strokeDash=[5, 4], color="var(--c0)").encode(x=x, y=y)
    rows = [{k: p[k] for k in ("name", "word", "bytes", "loss", "file")} for p in content["plans"] if p["loss"] > 0]
    shown = altair.Scale(domain=list(COLOURS), range=list(COLOURS.values()))
    points = (
        altair.Chart(_rows(altair, rows, "tried"))
        .mark_point(filled=True, size=60, opacity=1)
        .encode(x=x, y=y, color=altair.Color("word:N", scale=shown, title=None), tooltip=["name:N", "file:N", "loss:Q"])
    )
    return (curve + points if rows else curve).properties(width="container", height=HEIGHT)


def _sensitivity(altair: Any, content: Content) -> Any:
    """Return what every weight loses in the plan that is shown, with its standard error."""
    names = [layer["label"] for layer in content["layers"]]
    alone = [
        {"layer": place, "form": "", "loss": layer["loss"], "deviation": 0.0}
        for place, layer in enumerate(content["layers"])
    ]
    shown = content["plans"][content["chosen"] or 0]["choices"] if content["plans"] else alone
    largest = sorted((c for c in shown if c["loss"] > 0), key=lambda c: -c["loss"])[:LARGEST]
    rows = [
        {"name": names[c["layer"]], "form": c["form"], "loss": c["loss"], "deviation": c["deviation"],
         "low": max(c["loss"] - c["deviation"], 0.0), "high": c["loss"] + c["deviation"]}
        for c in largest
    ]  # fmt: skip
    if not rows:
        return None
    base = altair.Chart(_rows(altair, rows, "losses"))
    y = altair.Y("name:N", sort=None, title=None, axis=altair.Axis(labelLimit=240))
    x = altair.X("loss:Q", title=f"predicted loss ({content['unit']}), ± its standard error")
    bars = base.mark_bar(color="var(--c0)").encode(x=x, y=y, tooltip=["name:N", "form:N", "loss:Q", "deviation:Q"])
    errors = base.mark_rule(color="var(--text)").encode(x=altair.X("low:Q"), x2="high:Q", y=y)
    return (bars + errors).properties(width="container", height=18 * len(rows) + 4)


def _curve(altair: Any, content: Content) -> Any:
    """Return the options of one weight: loss against bytes, and how much of the weight ranks leave out."""
    if not content["options"]:
        return None
    layer = altair.param(name="layer", value=content["options"][0]["layer"])
    base = altair.Chart(_rows(altair, content["options"], "options")).transform_filter("datum.layer === layer")
    colour = altair.Color("form:N", scale=altair.Scale(range=PALETTE), title=None, legend=altair.Legend(columns=3))
    tips = [
        "form:N",
        "ranks:N",
        "bytes:Q",
        altair.Tooltip("loss:Q", format=".3e"),
        altair.Tooltip("error:Q", format=".3e"),
    ]
    x = altair.X("bytes:Q", title="bytes", axis=altair.Axis(format="~s"))
    y = altair.Y(
        "loss:Q", title=f"predicted loss ({content['unit']})", scale=altair.Scale(type="log"), axis=altair.Axis(**LOG)
    )
    points = base.mark_point(filled=True, size=30, opacity=0.9).encode(x=x, y=y, color=colour, tooltip=tips)
    return points.add_params(layer).properties(width="container", height=HEIGHT)


def _spectrum(altair: Any, content: Content) -> Any:
    """Return what ranks of one weight leave out of its output, against the share of its numbers that they keep."""
    least: dict[tuple[object, ...], Any] = {}  # of one rank in several number formats the one that loses least
    for row in content["options"]:
        key = tuple(row[name] for name in ("layer", "scheme", "ranks"))
        if row["ranks"] and 0 < row["error"] < least.get(key, {"error": math.inf})["error"]:
            least[key] = row
    rows = list(least.values())
    if not rows:
        return None
    layer = altair.param(name="layer", value=content["options"][0]["layer"])
    base = altair.Chart(_rows(altair, rows, "spectrum")).transform_filter("datum.layer === layer")
    colour = altair.Color("scheme:N", scale=altair.Scale(range=PALETTE), title=None, legend=altair.Legend(columns=3))
    x = altair.X("kept:Q", title="share of the weight's numbers kept", axis=altair.Axis(**SHARE))
    title = "relative squared error at its output"
    y = altair.Y("error:Q", title=title, scale=altair.Scale(type="log"), axis=altair.Axis(**LOG))
    tips = ["scheme:N", "ranks:N", altair.Tooltip("kept:Q", format=".1%"), altair.Tooltip("error:Q", format=".2e")]
    lines = base.mark_line(point=True).encode(x=x, y=y, color=colour, tooltip=tips)
    return lines.add_params(layer).properties(width="container", height=HEIGHT)


def _time(altair: Any, content: Content) -> Any:
    """Return the milliseconds of every weight as it was and in the plan, where time was measured weight by weight."""
    rows = timed_rows(content, content["plans"][content["chosen"] or 0]) if content["plans"] else []
    if not rows:
        return None
    base = altair.Chart(_rows(altair, rows, "times"))
    y = altair.Y("name:N", sort=None, title=None, axis=altair.Axis(labelLimit=240))
    was = base.mark_bar(color="var(--line)").encode(x=altair.X("was:Q", title="milliseconds of a sample"), y=y)
    tips = ["name:N", "form:N", altair.Tooltip("was:Q", format=".3f"), altair.Tooltip("ms:Q", format=".3f")]
    now = base.mark_bar(color="var(--c0)", size=6).encode(x=altair.X("ms:Q"), y=y, tooltip=tips)
    return (was + now).properties(width="container", height=18 * len(rows) + 4)


def timed_rows(content: Content, plan: Content) -> list[dict[str, Any]]:
    """Return the weights that take the most time, those first."""
    layers = content["layers"]
    rows = [
        {"name": layers[c["layer"]]["label"], "form": c["form"], "ms": c["ms"], "was": layers[c["layer"]]["ms"]}
        for c in plan["choices"]
        if layers[c["layer"]]["ms"]
    ]
    return sorted(rows, key=lambda row: -row["was"])[:LARGEST]


def _checks(altair: Any, content: Content) -> Any:
    """Return predicted against measured losses of whole plans, with the band of a factor of 2."""
    rows = [check for check in content["checks"] if check["predicted"] > 0 and (check["measured"] or 0) > 0]
    if not rows:
        return None
    ends = [min(c["predicted"] for c in rows) / 2, max(c["predicted"] for c in rows) * 2]
    band = [{"x": end, "low": end / 2, "high": end * 2} for end in ends]
    log = altair.Scale(type="log")
    x = altair.X("x:Q", title=f"predicted ({content['unit']})", scale=log, axis=altair.Axis(**LOG))
    area = altair.Chart(_rows(altair, band, "band")).mark_area(color="var(--c0)", opacity=0.15)
    points = (
        altair.Chart(_rows(altair, rows, "checks"))
        .mark_point(filled=True, size=70, color="var(--c0)", opacity=1)
        .encode(
            x=altair.X("predicted:Q", scale=log, axis=altair.Axis(**LOG)),
            y=altair.Y("measured:Q", title="measured", scale=log, axis=altair.Axis(**LOG)),
            tooltip=[altair.Tooltip("keep:Q", format=".0%"), "predicted:Q", "measured:Q"],
        )
    )
    shaded = area.encode(x=x, y=altair.Y("low:Q", title="measured", scale=log, axis=altair.Axis(**LOG)), y2="high:Q")
    return (shaded + points).properties(width="container", height=HEIGHT)
