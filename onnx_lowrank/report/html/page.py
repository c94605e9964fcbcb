"""The page: what is claimed, then everything behind it, from the most to the least asked for."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from onnx_lowrank.errors import DataError
from onnx_lowrank.report.html import charts
from onnx_lowrank.report.html.content import content_of

PACKAGES = ("altair", "vl_convert", "jinja2")
KIND = "onnx-lowrank report"


def html_page(report: Mapping[str, Any]) -> str:
    """Return the page of a report that `optimize --report` wrote, as it is in JSON.

    Raises DataError where the packages of the extra `report` are missing, or where it is no such report.
    """
    altair, vl_convert, jinja2 = needed_for_html()
    if report.get("format") != KIND:
        raise DataError(f"this is no report of optimize ({KIND!r} as its format): give the file that --report wrote")
    try:
        content = content_of(report)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(
            f"the report is damaged or of another version ({type(error).__name__}: {error}): make it again"
        ) from error
    specs = charts.specs(altair, content)
    folder = files("onnx_lowrank.report.html")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(folder.joinpath("page.html.j2").read_text("utf-8"))
    return str(
        template.render(
            content=content,
            drawn=list(specs),
            style=folder.joinpath("page.css").read_text("utf-8"),
            script=folder.joinpath("page.js").read_text("utf-8"),
            library=vl_convert.javascript_bundle().replace("</script", "<\\/script"),
            data=_embedded({"specs": specs, "plans": content["plans"], "chosen": content["chosen"]}),
        )
    )


def needed_for_html() -> tuple[Any, Any, Any]:
    """Return the modules that draw and write the page. Raises DataError where one is not installed."""
    altair, vl_convert, jinja2 = (_needed(name) for name in PACKAGES)
    return altair, vl_convert, jinja2


def _embedded(value: Any) -> str:
    """Return JSON that can stand in a script element, whatever names are in it."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _needed(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DataError(
            f"a report in HTML needs {name}, which is not installed: pip install 'onnx-lowrank[report]'"
        ) from error
