"""What the site is made of: every page has a place, every link holds, every public name is documented."""

from __future__ import annotations

import re
import sys
from collections import Counter
from posixpath import dirname, join, normpath

import pytest
from docs_pages import PAGES, PUBLIC, ROOT

sys.path.insert(0, str(ROOT / "tools"))

import site_hook

LINKS = [
    (page.relative_to(ROOT).as_posix(), target)
    for page in (*PAGES, ROOT / "CONTRIBUTING.md")
    for target in site_hook.LINK.findall(page.read_text(encoding="utf-8"))
]


def test_every_page_of_the_manual_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    shown = Counter(re.findall(r"(\w+\.md)$", navigation, re.MULTILINE))
    assert shown == Counter(page.name for page in PAGES if page.parent.name == "docs")


def test_nothing_is_fetched_when_pages_are_read() -> None:
    assert "\n  font: false\n" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize(("page", "target"), LINKS)
def test_links_hold_in_the_repository(page: str, target: str) -> None:
    assert (ROOT / normpath(join(dirname(page), target))).exists()


def test_every_public_name_is_documented_once() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    names = re.findall(r"^::: onnx_lowrank(?:\.pipeline)?\.([\w.]+)$", text, re.MULTILINE)
    assert Counter(name.rpartition(".")[2] for name in names) == Counter(PUBLIC)


@pytest.mark.parametrize(
    ("source", "text", "there"),
    [
        ("docs/trust.md", "[a](../tools/results/trust.md#x)", "[a](tools/results/trust.md#x)"),
        ("docs/trust.md", "[a](method.md), [b](https://example.org), [c](#d)", None),
        ("CONTRIBUTING.md", "[a](docs/method.md)", "[a](method.md)"),
        ("RESULTS.md", "![a](tools/plots/accuracy.svg)", None),
        ("docs/method.md", "in [tools/results](../tools/results).", "in tools/results."),
        ("tools/results/trust.md", "[a](../../docs/method.md)", "[a](../../method.md)"),
    ],
)
def test_links_are_written_as_the_site_has_them(source: str, text: str, there: str | None) -> None:
    assert site_hook.moved(text, source) == (text if there is None else there)


def test_what_a_page_links_comes_along() -> None:
    assert site_hook.linked("[a](../RESULTS.md#b) [c](../tools/results) [d](nowhere.md)", "docs/x.md") == {"RESULTS.md"}
