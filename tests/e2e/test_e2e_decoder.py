"""A decoder with a key–value cache, from a file of texts to a smaller one that goes on from the same caches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_lowrank.runtime.runner import Runner, TensorSpec
from onnx_lowrank.samples.conform import fit
from onnx_lowrank.samples.decoder import counting, filled_in, has_cache
from tests.decoders import HEADS, PARTS, SIZE, decoder, decoder_folder
from tests.unit.cli.cli_runs import run


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    return decoder_folder(tmp_path)


def smaller(folder: Path, *more: object, code: int = 0) -> dict[str, object]:
    texts = ("--text", folder / "cal.txt", "--validation", folder / "val.txt", "--tokenizer", folder)
    files = ("-o", folder / "out.onnx", "--report", folder / "report.json", "--force", "--threads", 1)
    gate = ("--observed", "--max-drop", 0.2, "--allow-weak-baseline")
    result = run("optimize", folder / "model.onnx", *texts, *files, *gate, *more)
    assert result.exit_code == code, result.output
    made: dict[str, object] = json.loads((folder / "report.json").read_text("utf-8"))
    return made


def test_one_command_from_texts_to_a_smaller_decoder(folder: Path):
    report = smaller(folder)
    notes = " ".join(report["notes"])  # type: ignore[arg-type]
    assert "labels are the tokens that follow" in notes
    assert "outputs of the key–value cache do not count: logits alone" in notes
    assert "top1" in str(report["metric"])
    plan = report["plan"]
    assert isinstance(plan, dict)
    changed = {choice["weight"] for choice in plan["choices"] if choice["option"]["ranks"]}
    assert len(changed) >= 3


def test_the_result_goes_on_from_its_caches(folder: Path):
    """Token after token it gives what it gives for the whole text."""
    smaller(folder)
    runner = Runner(onnx.load(folder / "out.onnx"))
    ids = np.array([[3, 1, 4, 1, 5]], np.int64)
    whole = runner.run(feed(ids, np.arange(5)[None], 5))
    given = feed(ids[:, :2], np.arange(2)[None], 2)
    before = runner.run(given)
    past = {f"past_key_values.{i}.{kind}": before[f"present.{i}.{kind}"] for i, kind in PARTS}
    after = runner.run({**feed(ids[:, 2:], np.arange(2, 5)[None], 5), **past})
    np.testing.assert_allclose(after["logits"], whole["logits"][:, 2:], rtol=1e-4, atol=1e-4)
    assert after["present.0.key"].shape == (1, HEADS, 5, SIZE)


def feed(ids: np.ndarray, positions: np.ndarray, total: int) -> dict[str, np.ndarray]:
    tokens = {"input_ids": ids, "position_ids": positions, "attention_mask": np.ones((1, total), np.int64)}
    return fit(tokens, Runner(decoder()).inputs, "here")


def test_two_decoders_are_compared_by_their_scores(folder: Path):
    smaller(folder)
    texts = ("--text", folder / "val.txt", "--tokenizer", folder, "--max-drop", 0.2, "--observed")
    result = run("compare", folder / "model.onnx", folder / "out.onnx", *texts, "--allow-weak-baseline")
    assert result.exit_code == 0, result.output
    assert "logits alone" in " ".join(result.output.split())


def test_the_cache_counts_where_it_is_named(folder: Path):
    report = smaller(folder, "--output", "logits", "--output", "present.0.key")
    assert not any("do not count" in note for note in report["notes"])  # type: ignore[attr-defined]


def test_a_decoder_is_judged_by_its_perplexity(folder: Path):
    report = smaller(folder, "--metric", "perplexity", "--max-drop", 5, "--drop-type", "relative", "--max-length", 6)
    assert "windows of 64 texts" in " ".join(report["notes"])  # type: ignore[arg-type]
    assert "perplexity" in str(report["metric"])
    verdict: dict[str, object] = report["verdict"]  # type: ignore[assignment]
    assert (verdict["drop_type"], verdict["bound"]["method"]) == ("relative", "bootstrap")  # type: ignore[index]
    lengths = [len(line.split()) for line in (folder / "val.txt").read_text("utf-8").splitlines()]
    windows = sum(length // 6 + (length % 6 >= 2) for length in lengths)  # one token alone is followed by none
    assert (verdict["units"], verdict["samples"]) == (64, windows)


def test_random_data_have_lengths_that_belong_together(folder: Path):
    result = run(
        "optimize", folder / "model.onnx", "--random-data", "--keep", 0.9, "-o", folder / "out.onnx", "--threads", 1
    )
    assert result.exit_code in (0, 3), result.output
    assert "error: cannot" not in result.output


def test_a_decoder_without_a_cache_takes_next_tokens_when_asked(tmp_path: Path):
    folder = decoder_folder(tmp_path, cache=False)
    assert "labels are the tokens that follow" in " ".join(smaller(folder, "--next-token")["notes"])  # type: ignore[arg-type]
    other = " ".join(smaller(folder)["notes"])  # type: ignore[arg-type]
    assert "labels are the tokens that follow" not in other


def test_next_tokens_go_with_texts_alone(folder: Path):
    result = run("optimize", folder / "model.onnx", "--data", folder / "x.npz", "--next-token")
    assert result.exit_code == 2
    assert "--next-token goes with --text" in result.output


F, B = "tensor(float)", "tensor(bool)"


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (TensorSpec("past_key_values.0.key", F, ("batch", 4, "past", 8)), (1, 4, 0, 8)),
        (TensorSpec("past.3.v", F, (None, None, 8)), (1, 0, 8)),
        (TensorSpec("model/past_key_0", "tensor(float16)", ("b", 2, -1, 8)), (1, 2, 0, 8)),
        (TensorSpec("use_cache_branch", B, (1,)), (1,)),
        (TensorSpec("past_key_values.0.key", F, ("batch", 4, 16, 8)), None),
        (TensorSpec("past_length", "tensor(int64)", ("a", "b", "c")), None),
        (TensorSpec("x", F, ("b", "c", "d")), None),
    ],
)
def test_what_is_filled_in(spec: TensorSpec, shape: tuple[int, ...] | None):
    array = filled_in(spec)
    assert (None if array is None else array.shape) == shape
    assert array is None or array.dtype == spec.dtype


def test_what_counts_of_a_decoder():
    runner = Runner(decoder())
    assert has_cache(runner.inputs)
    assert counting(runner.outputs) == ("logits",)
    assert counting(Runner(decoder(cache=False)).outputs) == ()
