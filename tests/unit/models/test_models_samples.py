"""The sets of the networks that the zoo trains: disjoint, labelled, and what the product reads."""

from __future__ import annotations

import gzip
import importlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from builders import build, node, normal, run, value, weight

from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.samples import read

ROOT = Path(__file__).resolve().parents[3]
TRAINED, CALIBRATED, VALIDATED, TESTED = 50, 8, 12, 9


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module


def write_idx(path: Path, values: np.ndarray) -> None:
    header = b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(gzip.compress(header + values.tobytes()))


@pytest.fixture
def fashion(module: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The data set in small: an image is all of the shade of its number, its label the number's last digit."""
    data = module("models.fashion_mnist")
    monkeypatch.setattr(data, "TRAINED_ON", TRAINED)
    monkeypatch.setattr(data, "CALIBRATED_ON", CALIBRATED)
    first = 0
    for split, count in (("train", TRAINED + CALIBRATED + VALIDATED), ("t10k", TESTED)):
        numbers = np.arange(first, first + count, dtype=np.uint8)
        write_idx(tmp_path / f"{split}-images-idx3-ubyte.gz", np.tile(numbers[:, None, None], (1, 28, 28)))
        write_idx(tmp_path / f"{split}-labels-idx1-ubyte.gz", numbers % 10)
        first += count
    monkeypatch.setattr(data, "DEBIAN_FOLDER", tmp_path)
    return data


def numbers(split: Any) -> list[int]:
    return [round(float(sample["input"][0, 0, 0]) * 255) for sample in split.samples]


def test_images_are_in_one_set_only_and_training_sees_the_first(fashion: Any, tmp_path: Path):
    splits = fashion.samples(tmp_path)
    seen = fashion.training_part(tmp_path).images[:, 0, 0].tolist()
    sets = [seen, *(numbers(splits.named()[name]) for name in ("calibration", "validation", "test"))]
    assert [len(each) for each in sets] == [TRAINED, CALIBRATED, VALIDATED, TESTED]
    assert [number for each in sets for number in each] == list(range(sum(map(len, sets))))


def test_images_are_in_0_to_1_with_their_labels(fashion: Any, tmp_path: Path):
    test = fashion.samples(tmp_path).tests["test"]
    first = TRAINED + CALIBRATED + VALIDATED
    assert test.labels.tolist() == [number % 10 for number in range(first, first + TESTED)]
    image = test.samples[0]["input"]
    assert (image.shape, image.dtype) == ((1, 28, 28), np.float32)
    np.testing.assert_allclose(image, first / 255, rtol=1e-6)


def test_a_missing_data_set_says_how_to_get_it(module: Callable[[str], Any], tmp_path: Path):
    with pytest.raises(module("models.fetch").RecipeError, match=r"missing: apt-get install dataset-fashion-mnist$"):
        module("models.fashion_mnist").samples(tmp_path / "none")


def classifier() -> onnx.ModelProto:
    """Return a linear classifier of images, as `models.trained` exports one."""
    nodes = [node("Flatten", ["input"], ["flat"]), node("MatMul", ["flat", "W"], ["logits"])]
    inputs = [value("input", ["batch", 1, 28, 28])]
    return build(nodes, inputs, [value("logits", ["batch", 10])], {"W": weight((784, 10), 1)})


def test_a_given_model_is_taken_as_it_is_and_measured(
    module: Callable[[str], Any], fashion: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(module("models.resnext50"), "samples", lambda: fashion.samples(tmp_path))
    model, out = classifier(), tmp_path / "zoo"
    onnx.save(model, tmp_path / "given.onnx")
    module("models.__main__").make("resnext50", out, tmp_path / "given.onnx")
    assert (out / "model.onnx").read_bytes() == (tmp_path / "given.onnx").read_bytes()
    recipe = json.loads((out / "recipe.json").read_text())
    runner = Runner(model)
    for name, count in (("calibration", CALIBRATED), ("validation", VALIDATED), ("test", TESTED)):
        about = recipe["splits"][name]
        found = read(out / about["file"], runner.inputs)
        assert len(found.feeds) == about["n"] == count
        if name != "calibration":
            best = [int(run(model, dict(feed))["logits"].argmax()) for feed in found.feeds]
            assert about["baseline"] == pytest.approx(np.mean(np.ravel(found.labels) == best), abs=1e-12)


SENTENCES = {
    "movieReviewSnippets_GroundTruth.txt": [(str(i), -2.0 + 4 * (i % 2), f"film {i} seen") for i in range(400)],
    "amazonReviewSnippets_GroundTruth.txt": [(f"{i // 4}_{i % 4}", 1.5, f"a lamp, {i} of them") for i in range(160)],
    "nytEditorialSnippets_GroundTruth.txt": [(f"{i // 5}_{i % 5}", -0.6, f"Law {i}") for i in range(200)],
    "tweets_GroundTruth.txt": [
        *((str(i), 3.0, f"so happy {i}") for i in range(100)),
        ("100", 0.4, "neither here nor there"),
        ("101", -3.0, "film 0 seen"),
    ],
}


@pytest.fixture
def text(module: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(module("models.texts"), "rated", SENTENCES.__getitem__)
    return module("models.text")


def test_texts_are_used_once_and_the_undecided_left_out(text: Any):
    found = [each.text for each in text.collected()]
    assert len(found) == len(set(found)) == 860
    assert "neither here nor there" not in found


def test_no_document_is_in_two_sets(text: Any):
    rated = text.collected()
    sets = text.by_purpose(rated)
    documents = [{each.document for each in found} for found in sets.values()]
    assert sum(map(len, documents)) == len(set().union(*documents)) == 20 + 40 + 40 + 100
    assert sorted(each.text for found in sets.values() for each in found) == sorted(each.text for each in rated)
    shares = [len(found) / 200 for found in documents]
    np.testing.assert_allclose(shares, list(text.SHARES.values()), atol=0.02)
    for found in documents:
        assert {document.split()[0] for document in found} == set(text.FILES)


def test_words_are_numbered_by_training_texts_alone(text: Any):
    sets = text.by_purpose(text.collected())
    words = text.vocabulary(sets["training"])
    counted = [word for each in sets["training"] for word in text.split_words(each.text)]
    assert set(words) == {word for word in counted if counted.count(word) >= text.RAREST}
    assert sorted(words.values()) == list(range(text.FIRST_WORD, text.FIRST_WORD + len(words)))
    line = text.numbered("So HAPPY, so unheard-of " * 40, words)
    assert len(line) == text.LIMIT
    assert line[:5].tolist() == [words["so"], words["happy"], words[","], words["so"], text.UNKNOWN]


def test_no_text_is_the_same_to_the_network_as_one_of_another_set(text: Any):
    def rated(*lines: str) -> list[Any]:
        return [text.Rated(line, "a", True) for line in lines]

    words = {word: text.FIRST_WORD + i for i, word in enumerate(["no", "yes", "!"])}
    long = "no " * text.LIMIT
    sets = {
        "training": rated("No!", "no!", "yes"),
        "calibration": rated("NO!", "no one", long),
        "validation": rated("yes", "no thing", "yes!"),
        "test": rated("no two", "yes no", "Yes no", long + "yes"),
    }
    found = {purpose: [each.text for each in kept] for purpose, kept in text.unlike(sets, words).items()}
    assert found == {
        "training": ["No!", "no!", "yes"],
        "calibration": ["no one", long],
        "validation": ["yes!"],
        "test": ["yes no"],
    }


@pytest.mark.parametrize("name", ["validation", "test"])
def test_the_texts_of_a_set_are_read_with_their_labels(
    text: Any, module: Callable[[str], Any], tmp_path: Path, name: str
):
    split = text.samples().named()[name]
    path = module("models.splits").write(split, tmp_path / name)
    nodes = [node("Gather", ["E", "tokens"], ["e"]), node("ReduceMean", ["e"], ["logits"], axes=[1], keepdims=0)]
    tokens = value("tokens", ["batch", "sequence"], onnx.TensorProto.INT64)
    model = build(nodes, [tokens], [value("logits", ["batch", 2])], {"E": normal([900, 2], 1)})
    found = read(path, Runner(model).inputs)
    assert np.ravel(found.labels).tolist() == split.labels.tolist()
    for feed, sample in zip(found.feeds, split.samples, strict=True):
        np.testing.assert_array_equal(feed["tokens"].reshape(-1), sample["tokens"].reshape(-1))


def test_a_stacked_text_is_filled_up_with_what_is_no_word(text: Any):
    words = text.vocabulary(text.by_purpose(text.collected())["training"])
    rated = [text.Rated("so happy", "a", True), text.Rated("so " * 99, "b", False)]
    short, long = text.filled_up(rated, words)
    assert short.tolist() == [words["so"], words["happy"], *[text.PADDING] * (text.LIMIT - 2)]
    assert set(long.tolist()) == {words["so"]}
    assert text.PADDING not in words.values()


def test_a_model_that_is_not_built_names_the_command(module: Callable[[str], Any], monkeypatch: Any, tmp_path: Path):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    with pytest.raises(FileNotFoundError, match=r"holds no built model: python -m models vgg --out .*vgg$"):
        module("benchmarks.zoo").read_entry(tmp_path, "vgg")


def test_the_bench_knows_every_model_of_the_zoo(module: Callable[[str], Any], monkeypatch: Any):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    assert sorted(module("benchmarks.zoo").MODELS) == sorted(module("models").NAMES)
