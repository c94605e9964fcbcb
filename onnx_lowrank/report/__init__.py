"""Results as people and programs read them. Formatting, no decisions."""

from onnx_lowrank.report.analysis_page import render_analysis
from onnx_lowrank.report.cache_page import render_cache
from onnx_lowrank.report.comparison_page import render_comparison
from onnx_lowrank.report.difference_page import render_difference
from onnx_lowrank.report.inspection_page import render_inspection
from onnx_lowrank.report.json_report import (
    analysis_json,
    comparison_json,
    error_json,
    inspection_json,
    result_json,
    schema,
    schema_kinds,
)
from onnx_lowrank.report.result_page import ending, render_result

__all__ = [
    "analysis_json",
    "comparison_json",
    "ending",
    "error_json",
    "inspection_json",
    "render_analysis",
    "render_cache",
    "render_comparison",
    "render_difference",
    "render_inspection",
    "render_result",
    "result_json",
    "schema",
    "schema_kinds",
]
