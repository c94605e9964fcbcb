"""The page for a browser: made of the JSON report alone, whole, without a network, and safe from what names hold."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from builders import build, node, value, weight
from click.testing import CliRunner
from reports import ended_early, made, step, verdict, with_trust

from onnx_lowrank.cli import main
from onnx_lowrank.errors import DataError
from onnx_lowrank.report.html import html_page
from onnx_lowrank.report.html.content import content_of

HOSTILE = '</script><img src=x onerror="alert(1)">'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a weight of a hostile name, and the report of a run on it."""
    here = tmp_path_factory.mktemp("page")
    weights = {HOSTILE: weight((32, 64), 1, rank=8).astype(np.float32), "W2": weight((64, 4), 2).astype(np.float32)}
    nodes = [node("MatMul", ["x", HOSTILE], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "W2"], ["y"])]
    onnx.save(build(nodes, [value("x", ["n", 32])], [value("y", ["n", 4])], weights), str(here / "m.onnx"))
    x = np.random.default_rng(0).normal(size=(664, 32)).astype(np.float32)
    labels = (np.maximum(x @ weights[HOSTILE], 0) @ weights["W2"]).argmax(1)
    np.savez(here / "cal.npz", x=x[:64], labels=labels[:64])
    np.savez(here / "val.npz", x=x[64:], labels=labels[64:])
    files = {"--data": "cal.npz", "--validation": "val.npz", "--report": "r.json", "--html": "r.html"}
    paths = ["optimize", str(here / "m.onnx"), *(w for name, file in files.items() for w in (name, str(here / file)))]
    done = CliRunner().invoke(main, [*paths, "--threads", "1", "-q"])
    assert done.exit_code in (0, 3), done.output
    return here


def report_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "r.json").read_text("utf-8")))


def test_the_run_writes_the_page_that_its_report_gives(folder: Path) -> None:
    done = CliRunner().invoke(main, ["report", str(folder / "r.json"), "-o", str(folder / "again.html")])
    assert done.exit_code == 0, done.output
    assert (folder / "again.html").read_text("utf-8") == (folder / "r.html").read_text("utf-8")


def test_nothing_is_loaded_from_elsewhere(folder: Path) -> None:
    text = html_page(report_of(folder))
    page = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:)""", page.replace("&#39;", ""))


def test_names_of_the_model_are_text_everywhere(folder: Path) -> None:
    text = html_page(report_of(folder))
    assert HOSTILE not in text
    assert "<img src=x" not in text
    assert text.count("<script") == text.count("</script>") == 4


def test_all_that_was_measured_is_in_it(folder: Path) -> None:
    report = report_of(folder)
    content = content_of(report)
    assert len(content["plans"]) == len(report["trials"])
    assert len(content["layers"]) == len(report["sites"]) > 0
    assert {row["layer"] for row in content["options"]} == {layer["number"] for layer in content["layers"]}
    assert content["gate"]["gate"] < content["gate"]["original"]
    assert content["repeat"]["host"]
    assert content["repeat"]["command"].startswith("onnx-lowrank")
    for plan in content["plans"]:
        assert plan["low"] <= plan["value"] <= plan["high"]
    if report["changed"]:
        assert content["plans"][content["chosen"]]["bytes"] == pytest.approx(
            report["after"]["bytes"] / report["before"]["bytes"], rel=0.2
        )


def test_many_layers_are_drawn_with_few_options_each(folder: Path) -> None:
    report = report_of(folder)
    one = report["sensitivity"][0]
    report["sensitivity"] = [{**one, "options": one["options"] * 50}]
    assert len(content_of(report)["options"]) <= 160


@pytest.mark.parametrize("wrong", [{}, {"format": "onnx-lowrank plan"}, {"format": "onnx-lowrank report"}])
def test_what_is_no_report_is_one_line(wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError) as caught:
        html_page(wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 3}'])
def test_a_file_that_is_no_report(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    done = CliRunner().invoke(main, ["report", str(tmp_path / "r.json")])
    assert done.exit_code == 1
    assert done.output.startswith("error: ")
    assert not (tmp_path / "r.html").exists()


def with_layers(report: dict[str, Any], count: int) -> dict[str, Any]:
    """Return a report of a network of `count` layers, each with all that was found of one."""

    def copies(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {
                **item,
                **{
                    key: f"block.{i // 3}.{i % 3}.{item[key]}"
                    for key in ("id", "site", "weight", "node")
                    if key in item
                },
            }
            for i in range(count // len(report["sites"]))
            for item in items
        ]

    def plan(one: dict[str, Any] | None) -> dict[str, Any] | None:
        return one and {**one, "choices": copies(one["choices"])}

    changed = {"sites": copies(report["sites"]), "sensitivity": copies(report["sensitivity"])}
    trials = [{**trial, "plan": plan(trial["plan"])} for trial in report["trials"]]
    return {**report, **changed, "trials": trials, "plan": plan(report["plan"])}


def browser(page: Path, profile: Path, width: int, *more: str) -> subprocess.CompletedProcess[str]:
    words = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    words += ["--virtual-time-budget=8000", f"--window-size={width},4000", f"--user-data-dir={profile}"]
    return subprocess.run([*words, *more, f"file://{page}"], capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium")
@pytest.mark.parametrize("layers", [2, 300])
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1200, "light")])
def test_a_browser_draws_it_without_a_message(
    folder: Path, tmp_path: Path, width: int, scheme: str, layers: int
) -> None:
    """Pictures are kept in the folder that `ONNX_LOWRANK_PICTURES` names."""
    report, page = report_of(folder), tmp_path / "page.html"
    page.write_text(html_page(report if layers == 2 else with_layers(report, layers)), encoding="utf-8")
    colors = f"--blink-settings=preferredColorScheme={int(scheme == 'light')}"
    done = browser(page, tmp_path / "profile", width, colors, "--dump-dom")
    assert "CONSOLE" not in done.stderr
    assert 'data-drawn="1"' in done.stdout
    assert done.stdout.count("<svg") >= 3
    if kept := os.environ.get("ONNX_LOWRANK_PICTURES"):
        Path(kept).mkdir(parents=True, exist_ok=True)
        picture = Path(kept).resolve() / f"report-{layers}-layers-{width}-{scheme}.png"
        browser(page, tmp_path / "profile", width, colors, f"--screenshot={picture}")
        assert picture.stat().st_size > 10_000


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium")
@pytest.mark.parametrize(
    ("report", "shown"),
    [
        (made(steps=[step("factored alone", 0.5), step("int8 alone", 0.25), step("both", 0.1)]), ">int8 alone</text>"),
        (made(), ">certified below 0.0094</span>"),
        (made(verdict=verdict("failed", None), changed=False), ">allowed 0.01</span>"),
        (with_trust(0.05), ">1.0e-1*</td>"),
        (ended_early(), ">1 of 1</span>"),
    ],
    ids=["steps", "certified", "no bound", "corrected", "ended at once"],
)
def test_a_browser_shows_what_the_run_found(report: dict[str, Any], shown: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(html_page(report), encoding="utf-8")
    done = browser(tmp_path / "page.html", tmp_path / "profile", 1000, "--dump-dom")
    assert "CONSOLE" not in done.stderr
    assert 'data-drawn="1"' in done.stdout
    assert shown in done.stdout
    assert 'class="bound"' not in done.stdout
