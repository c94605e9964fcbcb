"""mkdocs: repository files that a page links come along into the site, so that a link holds in both places.

A page of docs/ links a file of the repository as the repository has it, `../tools/results/trust.md`. Pages of the site
lie where docs/ is, and linked files keep their path in the repository.
"""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCS = "docs/"
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")
"""The target of a link or an image, without an anchor; not an address."""


def repository_path(uri: str, known: frozenset[str]) -> str:
    """Return where a page of the site comes from; `known` are the site's addresses of pages of docs/."""
    return DOCS + uri if uri in known else uri


def site_path(path: str) -> str:
    """Return where a file of the repository lies in the site."""
    return path.removeprefix(DOCS)


def linked(text: str, source: str) -> set[str]:
    """Return the files of the repository that a page links."""
    found = {normpath(join(dirname(source), target)) for target in LINK.findall(text)}
    return {each for each in found if (ROOT / each).is_file()}


def moved(text: str, source: str) -> str:
    """Return a page with its links as the site has them; a folder of the repository has no page, so its name stays."""

    def target(match: re.Match[str]) -> str:
        path = normpath(join(dirname(source), match[1]))
        return relpath(site_path(path), dirname(site_path(source)) or ".")

    text = re.sub(
        r"\[([^\]]+)\]\(([^)#\s]+)\)",
        lambda m: m[1] if (ROOT / dirname(source) / m[2]).is_dir() else m[0],
        text,
    )
    return LINK.sub(target, text)


def _of_docs() -> frozenset[str]:
    return frozenset(p.relative_to(ROOT / DOCS).as_posix() for p in (ROOT / DOCS).rglob("*.md"))


def on_files(files: Any, *, config: Any) -> Any:
    """Add what pages link, and what those link in turn."""
    from mkdocs.structure.files import File

    there, todo = set(), [DOCS + uri for uri in _of_docs()]
    while todo:
        page = todo.pop()
        new = linked((ROOT / page).read_text(encoding="utf-8"), page) - there if page.endswith(".md") else set()
        there |= new
        todo += new
    for path in sorted(each for each in there if not each.startswith(DOCS)):
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Write a page's links as the site has them."""
    return moved(markdown, repository_path(page.file.src_uri, _of_docs()))
