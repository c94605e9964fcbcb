"""README and manual, taken apart: fenced blocks, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import onnx_lowrank

ROOT = Path(__file__).resolve().parents[3]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- (?:parsed|command|run|olive): ([^>]+) -->\s*\Z")
"""Before a block that is not run with its page: why; what CI runs it for; or in which test it is run."""
MADE = re.compile(r"<!-- \w+: begin -->\s*\Z")
"""Before a session that a tool writes and a test runs again."""


@dataclass(frozen=True)
class Block:
    """A fenced block. reason: why it is not run, "" where it is."""

    page: Path
    language: str
    text: str
    reason: str
    made: bool

    @property
    def name(self) -> str:
        """Where it stands, and how it begins."""
        return f"{self.page.name}: {self.text.splitlines()[0]}"

    @property
    def commands(self) -> list[list[str]]:
        """The arguments of every `onnx-lowrank …` in it."""
        return [words for line in self._lines() for words in _calls(line)]

    def _lines(self) -> Iterator[str]:
        text = self.text.replace("\\\n", " ")
        for line in text.splitlines():
            if self.language == "sh":
                yield line
            elif line.startswith("$ "):
                yield line[2:]


def _calls(line: str) -> Iterator[list[str]]:
    words = shlex.split(line, comments=True)
    while words:
        end = next((place for place, word in enumerate(words) if word in ("&&", "||", "|")), len(words))
        if words[0].rpartition("/")[2] == "onnx-lowrank":
            yield words[1:end]
        words = words[end + 1 :]


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        before = text[: match.start()]
        reason = NOT_RUN.search(before)
        found.append(
            Block(page, match["language"], match["text"], reason[1] if reason else "", MADE.search(before) is not None)
        )
    return found


PUBLIC = {n for n, of in vars(onnx_lowrank).items() if not (n.startswith("_") or isinstance(of, ModuleType))}
"""What a user may take from the package: more than what `import *` gives."""
BLOCKS = tuple(block for page in PAGES for block in blocks(page))
EVERYTHING = "".join(page.read_text(encoding="utf-8") for page in PAGES)
