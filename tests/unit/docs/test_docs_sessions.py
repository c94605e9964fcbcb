"""The sessions of README and manual, run again: lines are as the program prints them, but for what machines change.

That is time, in both; and in the one with int8 what was chosen and measured, for integers move it more than the last
digits (docs/reproducibility.md). A session that has changed is written anew by `python tools/readme_session.py`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools"))

import readme_session  # noqa: E402
from readme_session import shown  # noqa: E402

WIDTH = 80
INTERVAL = r"\d+\.\d+ \[\d+\.\d+, \d+\.\d+\]"
TIMES = (
    (re.compile(r"^ latency +\S+ ms +\S+ ms$", re.MULTILINE), " latency # ms # ms"),
    (re.compile(rf"^   ratio \(\d+ pairs\) +{INTERVAL}$", re.MULTILINE), "   ratio (# pairs) #"),
    (re.compile(r"^· time: [^·]*?(?=\n(?:·|saved))", re.MULTILINE), "· time: #"),
)
INT8 = (
    (re.compile(r"^certified: (.*?)$(?=\n…)", re.MULTILINE | re.DOTALL), "certified: #"),
    (re.compile(rf" +\S+ kB +0\.\d{{4}} +[−-]?0\.\d{{4}} \[[−\d., ]+\] +{INTERVAL}$", re.MULTILINE), " # kB # # #"),
    (re.compile(r" +0\.\d{4} +[−-]?0\.\d{4} \[[−\d., ]+\]$", re.MULTILINE), " # #"),
)


def masked(text: str, patterns: tuple[tuple[re.Pattern[str], str], ...]) -> list[str]:
    """Return the lines with `#` in place of what may differ; every pattern is there."""
    for pattern, instead in patterns:
        text, count = pattern.subn(instead, text)
        assert count, f"{pattern.pattern} is nowhere in\n{text}"
    return text.splitlines()


@pytest.fixture
def _this_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the commands on the package that is tested, wherever it is installed from."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.mark.parametrize("name", list(readme_session.PAGES))
def test_a_session_fits_the_page(name: str) -> None:
    assert max(map(len, shown(name).splitlines())) <= WIDTH


@pytest.mark.usefixtures("_this_tree")
def test_the_session_is_what_the_program_prints(tmp_path: Path) -> None:
    assert masked(readme_session.session(tmp_path), TIMES) == masked(shown("report"), TIMES)


def test_the_readme_has_the_beginning_of_the_manuals() -> None:
    assert readme_session.cut(shown("report")) == shown("session")


@pytest.mark.usefixtures("_this_tree")
def test_the_int8_session_is_what_the_program_prints(tmp_path: Path) -> None:
    readme_session.run(readme_session.SESSION[0], tmp_path)
    assert masked(readme_session.int8(tmp_path), INT8) == masked(shown("int8"), INT8)
