"""Parts "forms" and "shelved": pages of their lines, and a session of plain factors beside interpolative ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from builders import found_in, mlp
from tools_lines import page_of, raw, rows_of

from onnx_lowrank.schemes import fitting

Bench = Callable[[str], Any]
FORM = {
    "kept": 0.7, "factored": 5, "predicted": 0.012, "loss": [0.011, 0.01, 0.012], "macs": 0.81,
    "latency": {"1": [0.9, 0.8, 1.0], "2": [0.95, 0.9, 1.0]},
}  # fmt: skip


def test_a_row_has_both_forms_and_their_difference(bench: Bench) -> None:
    data = {"keep": 0.7, "pairs": {**FORM, "macs": 0.84}, "interpolative": FORM, "n": 256, "unit": "nats of KL"}
    data["difference"] = [-0.002, -0.003, -0.001]
    weights = {"pairs": {"median": 1.05, "n": 9}, "interpolative": {"median": 1.11, "n": 8}}
    lines = [
        raw("forms", "minilm", "0.7", data), raw("forms", "minilm", "weights", weights),
        raw("forms", "minilm", "0.2", {"keep": 0.2, "pairs": None, "interpolative": FORM, "n": 256, "unit": "nats"}),
        raw("forms", "minilm", "grid", {"all": {"options": 7, "losses": [0.1, None] + [0.2] * 5}}),
    ]  # fmt: skip
    text = page_of(bench, "forms", lines)
    (row,) = rows_of(text, "| 70 %")
    assert "−0.002 [−0.003, −0.001]" in row
    assert ".840 → .810" in row
    (other,) = rows_of(text, "| 20 %")
    assert "– → 0.012" in other
    assert "interpolative 1.110 (8 weights and ranks)" in text
    assert rows_of(text, "| all | 7 | 0.1 | – |")


def test_switches_are_told_by_their_change(bench: Bench) -> None:
    sizes = {"n": 512, "unit": "nats of KL", "default": [0.1, 0.09, 0.11], "changes": {"refit, 64": [0.01, 0.0, 0.02]}}
    signed = {"labels": 10000, "sizes": {"0.6": {"top1": [0.9, 0.9, [0.0, -0.001, 0.001]], "loss": [1, 1, [0, 0, 0]]}}}
    lines = [raw("shelved", "vit", "0.6", sizes), raw("shelved", "vit", "signed", signed)]
    text = page_of(bench, "shelved", lines)
    first, second = rows_of(text, "| 60 %")
    assert "| – | 0.01 [0, 0.02] | – |" in first
    assert ".0000 [−.0010, .0010]" in second
    assert "10000 labels" in text


@pytest.mark.parametrize("plain", [True, False])
def test_operators_that_store_identities_offer_ranks_to_the_break_even_alone(bench: Bench, *, plain: bool) -> None:
    inventory = found_in(mlp([16, 16], [None], 0))
    (site,) = (bench("benchmarks.workbench").plain_inventory(inventory) if plain else inventory).sites
    ((_, ranks),) = fitting(site, 1)
    assert ranks[-1] == ((7,) if plain else (15,))
