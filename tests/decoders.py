"""A small decoder with a key–value cache in and out, as language models are exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto
from tokenizers import Tokenizer, models, pre_tokenizers

from tests.builders import build, constant, node, value, weight

HEADS, WIDTH, VOCABULARY, LAYERS = 2, 16, 24, 2
WORDS = [f"w{i}" for i in range(VOCABULARY)]
SIZE = WIDTH // HEADS


def decoder(*, cache: bool = True, rank: int = 6) -> onnx.ModelProto:
    """Return a decoder of tokens to the scores of the next ones; its matrices have this rank, nearly."""
    weights: dict[str, np.ndarray] = {"embedding": weight((VOCABULARY, WIDTH), 1, rank=WIDTH).astype(np.float32)}
    nodes = [
        *(constant(name, np.array(number, np.int64)) for name, number in NUMBERS.items()),
        constant("scale", np.array(SIZE**-0.5, np.float32)),
        constant("nothing", np.array(0, np.float32)),
        constant("never", np.array(-1e9, np.float32)),
        node("Gather", ["embedding", "input_ids"], ["x0"]),
        node("Shape", ["attention_mask"], ["mask_shape"]),
        node("Gather", ["mask_shape", "one"], ["total"]),
        node("Range", ["zero", "total", "one"], ["places"]),
        node("Unsqueeze", ["position_ids", "axes_of_rows"], ["rows"]),
        node("LessOrEqual", ["places", "rows"], ["earlier"]),
        node("Unsqueeze", ["attention_mask", "axes_of_keys"], ["mask"]),
        node("Cast", ["mask"], ["seen"], to=TensorProto.BOOL),
        node("And", ["earlier", "seen"], ["allowed"]),
        node("Where", ["allowed", "nothing", "never"], ["bias"]),
    ]
    x = "x0"
    for layer in range(LAYERS):
        x = _layer(nodes, weights, layer, x, cache=cache, rank=rank)
    weights["head"] = weight((WIDTH, VOCABULARY), 99, rank=rank).astype(np.float32) * 4
    nodes.append(node("MatMul", [x, "head"], ["logits"], "head"))
    tokens = [value(name, ["b", "s"], TensorProto.INT64) for name in ("input_ids", "position_ids")]
    tokens.insert(1, value("attention_mask", ["b", "p + s" if cache else "s"], TensorProto.INT64))
    ends = [value("logits", ["b", "s", VOCABULARY])]
    if cache:
        tokens += [value(f"past_key_values.{i}.{kind}", ["b", HEADS, "p", SIZE]) for i, kind in PARTS]
        ends += [value(f"present.{i}.{kind}", ["b", HEADS, "p + s", SIZE]) for i, kind in PARTS]
    return build(nodes, tokens, ends, weights)


PARTS = [(i, kind) for i in range(LAYERS) for kind in ("key", "value")]
NUMBERS = {
    "zero": 0, "one": 1, "axes_of_rows": [1, 3], "axes_of_keys": [1, 2], "split": [0, 0, HEADS, SIZE],
    "joined": [0, 0, WIDTH],
}  # fmt: skip


def _layer(
    nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], layer: int, x: str, *, cache: bool, rank: int
) -> str:
    def linear(name: str, given: str, rows: int, columns: int) -> str:
        seed = 10 * layer + len(weights)
        weights[f"{layer}.{name}"] = weight((rows, columns), seed, rank=rank).astype(np.float32)
        nodes.append(node("MatMul", [given, f"{layer}.{name}"], [f"{layer}.{name}.out"], f"{layer}.{name}"))
        return f"{layer}.{name}.out"

    def at(op: str, *given: str, **attributes: object) -> str:
        name = f"{layer}.{op}.{len(nodes)}"
        nodes.append(node(op, list(given), [name], **attributes))
        return name

    parts = {}
    for name in ("query", "key", "value"):
        heads = at("Transpose", at("Reshape", linear(name, x, WIDTH, WIDTH), "split"), perm=[0, 2, 1, 3])
        if cache and name != "query":
            nodes.append(
                node("Concat", [f"past_key_values.{layer}.{name}", heads], [f"present.{layer}.{name}"], axis=2)
            )
            heads = f"present.{layer}.{name}"
        parts[name] = heads
    scores = at("Mul", at("MatMul", parts["query"], at("Transpose", parts["key"], perm=[0, 1, 3, 2])), "scale")
    seen = at("MatMul", at("Softmax", at("Add", scores, "bias"), axis=-1), parts["value"])
    joined = at("Reshape", at("Transpose", seen, perm=[0, 2, 1, 3]), "joined")
    x = at("Add", x, linear("out", joined, WIDTH, WIDTH))
    return at("Add", x, linear("down", at("Relu", linear("up", x, WIDTH, 2 * WIDTH)), 2 * WIDTH, WIDTH))


def decoder_folder(place: Path, *, cache: bool = True) -> Path:
    """Write a decoder, its tokenizer, and texts to calibrate and to validate; return the folder."""
    onnx.save(decoder(cache=cache), str(place / "model.onnx"))
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(place / "tokenizer.json"))
    rng = np.random.default_rng(0)
    for name, count in (("cal", 48), ("val", 64)):
        texts = [" ".join(rng.choice(WORDS, rng.integers(3, 12))) for _ in range(count)]
        (place / f"{name}.txt").write_text("\n".join(texts) + "\n")
    return place
