"""Every block of README and manual: its options exist, and it runs on the demo's model, unless it says why not.

What runs has defaults that make it short: one weight, coarse ranks, few samples, no timing. What a block asks for wins.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from docs_pages import BLOCKS, PAGES, Block, blocks
from PIL import Image
from threadpoolctl import threadpool_limits

import onnx_lowrank as lr
from onnx_lowrank.cli import main
from onnx_lowrank.demo import MODEL, demo_samples

LANGUAGES = {"sh", "console", "python", "toml", "yaml", "json", ""}
COUNTS = {"calibration": 40, "validation": 512, "test": 320}
WEIGHT = "7.weight"
SHORT = {"include": (WEIGHT,), "rank_multiple": 160, "refit": False}
DEFAULTS: dict[str, dict[str, Any]] = {
    "optimize": {**SHORT, "threads": 1, "force": True},
    "apply": {"threads": 1, "force": True},
    "compare": {"threads": 1},
    "report": {"force": True},
    "demo": {"force": True},
}


def pictures(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Write images into a sub-folder a class."""
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = folder / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rint(image[0] * 255).astype(np.uint8)).save(place / f"{number}.png")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write what blocks call model.onnx, cal.npz, val.npz, test.npz, train and val; and the demo's files in demo."""
    folder = tmp_path_factory.mktemp("files")
    shutil.copy(MODEL, folder / "model.onnx")
    for (name, arrays), path in zip(demo_samples().items(), ("cal", "val", "test"), strict=True):
        few = {key: values[: COUNTS[name]] for key, values in arrays.items()}
        np.savez(folder / f"{path}.npz", **few)
        if path != "test":
            pictures(folder / {"cal": "train"}.get(path, path), few["image"], few["labels"])
    return folder


@pytest.fixture
def _here(files: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stand in that folder; BLAS has one thread, for on a busy machine several wait for each other."""
    monkeypatch.chdir(files)
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(variable, str(files / "kept"))
    with threadpool_limits(1):
        yield


def run(words: list[str]) -> None:
    """Run a command; nothing acceptable found (3) is an answer as well."""
    done = CliRunner().invoke(main, words, default_map=DEFAULTS)
    assert done.exit_code in (0, 3), f"{words}\n{done.output}"
    assert done.exit_code == 0 or "cannot certify" in done.output, f"{words}\n{done.output}"


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    assert {block.language for block in BLOCKS} <= LANGUAGES
    assert [block.name for block in BLOCKS if block.language == "console" and not block.made] == []
    assert [block.name for block in BLOCKS if block.language == "sh" and not (block.commands or block.reason)] == []


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.commands], ids=lambda block: block.name)
def test_the_options_of_every_command_exist(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lowrank.toml").touch()
    for words in block.commands:
        name, command, rest = main.resolve_command(click.Context(main), words)
        assert command is not None
        command.make_context(name, rest)


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize(
    "page", [p for p in PAGES if any(not b.reason and not b.made for b in blocks(p))], ids=lambda page: page.name
)
def test_what_a_page_shows_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the page, in one place: later blocks use what earlier ones wrote."""
    short = functools.partial(lr.Options, **{"runtime": lr.Runtime(threads=1), **SHORT})
    monkeypatch.setattr(lr, "Options", short)
    names: dict[str, object] = {}
    for block in blocks(page):
        if block.reason or block.made:
            continue
        if block.language == "python":
            exec(compile(block.text, block.name, "exec"), names)
        elif block.language == "toml":
            Path(block.text.splitlines()[0].removeprefix("# ")).write_text(block.text, encoding="utf-8")
        for words in block.commands:
            run(words)


def test_the_weight_that_is_factored_is_the_largest() -> None:
    rows = lr.inspect(MODEL).rows
    assert max(rows, key=lambda row: np.prod(row.site.shape)).site.weight == WEIGHT
