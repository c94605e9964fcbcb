"""The report as one page for a browser: no network, dark and light, made of the JSON report alone."""

from onnx_lowrank.report.html.page import html_page, needed_for_html

__all__ = ["html_page", "needed_for_html"]
