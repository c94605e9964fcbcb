"""Print the command that the README gives for a purpose (`demo` or `test`), so that CI runs what readers run."""

from __future__ import annotations

import re
import sys
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"


def command(purpose: str, text: str) -> str:
    """Return the one-line shell command after the marker `<!-- command: PURPOSE -->`. Raises LookupError."""
    found = re.search(rf"<!-- command: {re.escape(purpose)} -->\s*```sh\n(.+)\n```", text)
    if found is None:
        raise LookupError(f"README.md has no command for {purpose!r}")
    return found[1].strip()


if __name__ == "__main__":
    print(command(sys.argv[1], README.read_text(encoding="utf-8")))
