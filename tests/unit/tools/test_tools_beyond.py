"""Part "beyond": networks found beside the zoo, its page, and how often better is false."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tools_lines import page_of, raw, rows_of

Bench = Callable[[str], Any]
GAIN = {"n": 100, "top1": [0.7, 0.74, [0.04, 0.03, 0.05]], "flips": [6, 2], "loss": []}
OURS = {"reason": "certified better", "changed": True, "n": 50, "plan": "inputs, 10%", "kept": 0.1, "bound": -0.02}
DATA: dict[str, Any] = {
    "original": 0.7, "n": 100, "ours": {**OURS, **GAIN}, "truncation": GAIN, "truncation 0.3": None, "svd": GAIN,
    "last layer": GAIN, "whitened": GAIN, "pruned": GAIN, "early": GAIN, "decay": None,
}  # fmt: skip


def test_networks_are_found_with_their_sets(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "beyond"
    for name in ("mlp-noise20-s0", "fashion"):
        (folder / name).mkdir(parents=True)
    (folder / "mlp-noise20-s0/model.onnx").write_bytes(b"model")
    (folder / "mlp-noise20-s0/recipe.json").write_text(json.dumps({"data": "fashion"}))
    splits = {name: {"file": f"{name}.npz"} for name in ("calibration", "validation", "test")}
    (folder / "fashion/recipe.json").write_text(json.dumps({"splits": splits}))
    (entry,) = bench("benchmarks.beyond").found(tmp_path)
    assert entry.name == "mlp-noise20-s0"
    assert entry.calibration.path == folder / "fashion/calibration.npz"
    assert [test.path.name for test in entry.tests] == ["test.npz"]


def test_seeds_share_a_row_and_what_was_found_is_listed(bench: Bench) -> None:
    nothing = {**DATA, "ours": {"reason": "nothing could be certified", "changed": False, "n": 50}}
    lines = [raw("beyond", "mlp-noise20-s0", "search", DATA), raw("beyond", "mlp-noise20-s1", "search", nothing)]
    rivals = raw("beyond", "mlp-noise20-s0", "rivals", {"early": GAIN, "decay": GAIN})
    text = page_of(bench, "beyond", [*lines, rivals, raw("beyond", "vit", "search", DATA)])
    row = rows_of(text, "| noise20")[0]
    assert "| 2 | 0.7000 | +2.0 [0.0, 5.0] | +4.0 [3.0, 5.0] | – |" in row
    assert row.rstrip().endswith("| +4.0 [3.0, 5.0] | +4.0 [3.0, 5.0] |")  # the decay is known of one seed
    assert rows_of(text, "| mlp-noise20-s0")[0].startswith("| mlp-noise20-s0 | inputs, 10% | 10 % | better by at least")
    assert rows_of(text, "| mlp-noise20-s1 | – | – | nothing could be certified | – |")
    assert "## networks of the zoo, as they are" in text


def test_what_gains_is_claimed_and_what_does_not_is_not(bench: Bench) -> None:
    part, rng = bench("benchmarks.beyond"), np.random.default_rng(0)
    better = np.where(rng.random((12, 8000)) < 0.1, 1.0, 0.0)
    same = np.where(rng.random((12, 8000)) < 0.1, rng.choice([-1.0, 1.0], (12, 8000)), 0.0)
    assert part.drawn(better, 5, 2000, 0) == {"draws": 5, "size": 2000, "better": 5, "false": 0} | {
        "chosen": part.drawn(better, 5, 2000, 0)["chosen"]
    }
    assert part.drawn(same - 0.02, 5, 2000, 0)["better"] == 0


def test_false_claims_have_a_table(bench: Bench) -> None:
    data = {"pool": 15000, "plans": 57, "draws": 40, "size": 5000, "better": 3, "false": 1, "chosen": -0.002}
    text = page_of(bench, "beyond", [raw("beyond", "mlp-noise0-s0", "draws", data)])
    assert rows_of(text, "| mlp-noise0-s0 | 40 of 5,000 | 15,000 | 3 | 1 | −0.20 |")


def test_accuracy_against_size_is_drawn_where_it_was_measured(bench: Bench, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    curve = [
        {"name": name, "size": size, "kept": size - 0.01, "basis": "inputs", "gain": [gain, gain - 0.01, gain + 0.01]}
        for name, gain in (("ours", 0.03), ("svd", -0.2))
        for size in (0.5, 0.1)
    ]
    draw = bench("benchmarks.beyond_page").draw
    assert not draw([raw("beyond", "mlp-noise20-s0", "search", DATA)], tmp_path / "none.svg")
    lines = [raw("beyond", name, "search", {**DATA, "curve": curve}) for name in ("mlp-noise20-s0", "mlp-noise20-s1")]
    assert draw(lines, tmp_path / "beyond.svg")
    text = (tmp_path / "beyond.svg").read_text()
    for said in ("mlp, noise20", "ours", "SVD", "the original"):
        assert said in text
    assert "whitened" not in text
