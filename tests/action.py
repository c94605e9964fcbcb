"""The action of action.yml without GitHub: expressions filled in, a step's script run by bash, its outputs read."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
ACTION: Mapping[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS: Mapping[str, Mapping[str, Any]] = {step["id"]: step for step in ACTION["runs"]["steps"]}


@dataclass(frozen=True)
class Done:
    """What a step left: its exit code, outputs, summary, and all that it printed."""

    code: int
    outputs: Mapping[str, str]
    summary: str
    printed: str


def run_step(name: str, folder: Path, inputs: Mapping[str, str], known: Mapping[str, str]) -> Done:
    """Run a step in `folder` as a runner does; inputs that are not given have their defaults.

    known: the values of all other expressions, as "steps.install.outputs.python".
    """
    step = STEPS[name]
    given = {key: inputs.get(key, about.get("default", "")) for key, about in ACTION["inputs"].items()}
    values = {f"inputs.{key}": value for key, value in given.items()} | dict(known)
    env = {key: re.sub(r"\$\{\{ (.+?) \}\}", lambda m: values[m[1]], text) for key, text in step["env"].items()}
    files = {key: folder / key.lower() for key in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    for file in files.values():
        file.write_text("", encoding="utf-8")
    script = folder / f"{name}.sh"
    script.write_text(step["run"], encoding="utf-8")
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
        cwd=folder, env={**os.environ, **env, **{key: str(file) for key, file in files.items()}},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    outputs, summary = (file.read_text(encoding="utf-8") for file in files.values())
    return Done(done.returncode, read_outputs(outputs), summary, done.stdout + done.stderr)


def read_outputs(text: str) -> dict[str, str]:
    """Return the outputs in a file of them: `name=value`, or `name<<END`, lines, `END`."""
    found, lines = {}, iter(text.splitlines())
    for line in lines:
        name, mark, rest = re.match(r"([\w-]+)(=|<<)(.*)", line).groups()  # type: ignore[union-attr]
        if mark == "=":
            found[name] = rest
        else:
            found[name] = "\n".join(iter(lambda end=rest: next(lines), rest))
    return found
