"""Texts: cut into tokens by a tokenizer.json, as the model's inputs name them; each at its own length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import TensorSpec, first_line
from onnx_lowrank.samples.conform import listed, shape_text
from onnx_lowrank.samples.decoder import has_cache, is_cache, is_switch
from onnx_lowrank.samples.formats.format import Encoder, column_of
from onnx_lowrank.samples.rows.row import Row, needed
from onnx_lowrank.types import Array

IGNORED = -100
"""The label of a position that does not count, as metrics and losses have it."""
COLUMNS = (
    "text",
    "sentence",
    "sentence1",
    "text_a",
    "text1",
    "content",
    "review",
    "question",
    "query",
    "premise",
    "txt",
)
SECOND = ("sentence2", "text_pair", "text_b", "text2", "hypothesis", "answer", "context", "passage")
"""Columns of the second text of a pair."""
MEANINGS = {
    "ids": ("input_ids", "ids", "tokens", "input_tokens", "input"),
    "attention_mask": ("attention_mask", "mask", "input_mask"),
    "type_ids": ("token_type_ids", "segment_ids", "type_ids"),
    "positions": ("position_ids", "positions"),
}
"""What a tokenizer gives, and the tokens' numbers from 0 -> the names under which models take it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFormat:
    """How texts become tokens. tokenizer: a tokenizer.json, or the folder that holds it.

    length: tokens at most; None: what the tokenizer says, or the model's input where that is fixed. The rest is cut off
    or, where labels are the tokens that follow, more samples (windows that do not overlap). Its own padding is off: a
    batch has one length only where the model's is fixed. pair: columns of two texts that belong together; None: two
    columns of usual names are a pair. next_token: labels are the tokens that follow, as for language models; None:
    where the model goes on from a key–value cache, and the texts have no labels.
    """

    tokenizer: Path
    length: int | None = None
    pair: tuple[str, str] | None = None
    next_token: bool | None = None

    def __post_init__(self) -> None:
        if self.length is not None and self.length < 2:
            raise DataError(f"texts must be allowed 2 tokens or more, not {self.length}: raise --max-length")

    def fitted(self, inputs: Sequence[TensorSpec], columns: Sequence[str], source: str) -> Encoder:
        """Return what makes texts fit the model's inputs. Raises DataError where they take no tokens."""
        tokenizer = self._opened()
        every, inputs = inputs, [spec for spec in inputs if not (is_cache(spec) or is_switch(spec))]
        meanings = {spec.name: _meaning(spec, inputs, source) for spec in inputs}
        fixed = {size for spec in inputs for size in spec.shape[1:] if isinstance(size, int) and size > 0}
        if len(fixed) > 1:
            lengths = ", ".join(map(str, sorted(fixed)))
            raise DataError(f"{source}: the model's inputs have different lengths ({lengths}); give an .npz a sample")
        want = next(iter(fixed), None)
        texts = self.pair or _texts(columns, source)
        padding = tokenizer.padding or {}
        own = (tokenizer.truncation or {}).get("max_length")
        length = min((each for each in (self.length, want, own if self.length is None else None) if each), default=None)
        tokenizer.no_padding()
        if length:
            tokenizer.enable_truncation(length)
        else:
            tokenizer.no_truncation()

        def arrays_of(encoding: Any) -> dict[str, Array]:
            if want:
                encoding.pad(want, pad_id=padding.get("pad_id", 0), pad_token=padding.get("pad_token", "[PAD]"))
            return {
                spec.name: np.asarray([_of(encoding, meanings[spec.name])], spec.dtype or np.int64) for spec in inputs
            }

        def tokens(row: Row, place: str) -> Any:
            return tokenizer.encode(*(_text(row[name], place) for name in texts))

        def encode(row: Row, place: str) -> dict[str, Array]:
            return arrays_of(tokens(row, place))

        next_token = has_cache(every) if self.next_token is None else self.next_token
        labels = _following(meanings, source) if next_token else None

        def windows(row: Row, place: str) -> list[dict[str, Array]]:
            first = tokens(row, place)
            made = [arrays_of(encoding) for encoding in (first, *first.overflowing)]
            return [made[0], *(each for each in made[1:] if labels is not None and (labels(each) != IGNORED).any())]

        in_windows = labels is not None and length is not None and len(texts) == 1
        cut = f"{'in windows of' if in_windows else 'cut at'} {length} tokens" if length else "of any length"
        padded = f", padded to {want}" if want else ""
        note = f"{source}: texts of {' and '.join(texts)} by {self.tokenizer}, {cut}{padded}"
        return Encoder(encode, (note,), labels, windows if in_windows else None)

    def _opened(self) -> Any:
        module = needed("tokenizers", "reading texts", "text")
        path = self.tokenizer / "tokenizer.json" if self.tokenizer.is_dir() else self.tokenizer
        if not path.is_file():
            raise DataError(f"{path}: no such file; give --tokenizer tokenizer.json, as Hugging Face models have it")
        try:
            return module.Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises Exception itself
            raise DataError(f"{path} is no tokenizer.json ({first_line(error)}); give another") from error


def _of(encoding: Any, meaning: str) -> Any:
    return range(len(encoding.ids)) if meaning == "positions" else getattr(encoding, meaning)


def _following(meanings: dict[str, str], source: str) -> Callable[[dict[str, Array]], Array]:
    """Return what makes labels of a sample's tokens: each position's is the next token, of the last one and of padding
    none. Raises DataError where the model takes no tokens.
    """
    names = {meaning: name for name, meaning in meanings.items()}
    if "ids" not in names:
        raise DataError(f"{source}: --next-token needs an input of tokens, and the model has none")

    def labels(arrays: dict[str, Array]) -> Array:
        ids = np.asarray(arrays[names["ids"]], np.int64)[0]
        following = np.append(ids[1:], IGNORED)
        if "attention_mask" in names:
            seen = np.append(arrays[names["attention_mask"]][0][1:], 0)
            following = np.where(seen > 0, following, IGNORED)
        return following

    return labels


def _texts(columns: Sequence[str], source: str) -> tuple[str, ...]:
    """Return the column of the text, or those of a pair: two of usual names. Raises DataError where unclear."""
    usual = [name for name in columns if name in (*COLUMNS, *SECOND)]
    if len(columns) > 1 and len(usual) == 2 and usual[1] in SECOND:
        return tuple(usual)
    return (column_of(columns, COLUMNS, "text", source),)


def _meaning(spec: TensorSpec, inputs: Sequence[TensorSpec], source: str) -> str:
    """Return which of a tokenizer's results an input takes. Raises DataError where its name does not tell."""
    if spec.dtype is None or spec.dtype.kind not in "iu" or len(spec.shape) != 2:
        raise DataError(
            f"{source}: input {spec.name!r} takes {spec.type} {shape_text(spec)}, which are no tokens of a text; give"
            " an .npz a sample, or FILE.py that yields dicts"
        )
    for meaning, names in MEANINGS.items():
        if spec.name.lower() in names or (meaning == "ids" and len(inputs) == 1):
            return meaning
    known = [name for names in MEANINGS.values() for name in names]
    raise DataError(
        f"{source}: what of a text goes into input {spec.name!r} is not clear from its name; known are {listed(known)}"
    )


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{place} holds no text but a {type(value).__name__}; name another column with --column")
    return value
