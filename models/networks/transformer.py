"""Encoders of the transformer (Vaswani et al., arXiv 1706.03762), norms first: one for images, one for texts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

PADDING = 0
"""The token that fills up a batch: never attended to, never pooled."""
MASKED = -1e4


class Block(nn.Module):
    """Attention of several heads, then two wide layers, each added to its input."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.merge = nn.Linear(width, width)
        self.wide = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (batch, tokens, width); `mask` is added to the scores (batch, 1, 1, tokens)."""
        x = x + self.dropout(self.attention(self.first(x), mask))
        return x + self.dropout(self.wide(self.second(x)))

    def attention(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return softmax(q kᵀ / √size) v, heads side by side and merged."""
        batch, tokens, width = x.shape
        heads = [layer(x).reshape(batch, tokens, self.heads, self.size) for layer in (self.query, self.key, self.value)]
        query, key, value = (each.transpose(1, 2) for each in heads)
        scores = query @ key.transpose(2, 3) * self.size**-0.5
        if mask is not None:
            scores = scores + mask
        return self.merge((scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, tokens, width))


class VisionTransformer(nn.Module):
    """ViT (Dosovitskiy et al., arXiv 2010.11929), its tokens averaged instead of a class token (arXiv 2205.01580)."""

    def __init__(self, width: int = 256, depth: int = 4, heads: int = 4, patch: int = 7, classes: int = 10) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, patch, stride=patch)
        self.positions = nn.Parameter(torch.randn(1, (28 // patch) ** 2, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads, dropout=0.0) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return (batch, classes) of images (batch, 1, 28, 28) in 0…1."""
        x = self.patches(images * 2 - 1).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


class TextTransformer(nn.Module):
    """Embeddings of words and of positions, blocks, and the mean over the words that are there."""

    def __init__(
        self,
        words: int,
        limit: int,
        width: int = 128,
        depth: int = 2,
        heads: int = 4,
        classes: int = 2,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width, padding_idx=PADDING)
        self.positions = nn.Parameter(torch.randn(1, limit, width) * 0.02)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)
        nn.init.normal_(self.words.weight, std=0.1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (batch, classes) of token numbers (batch, at most `limit`), filled up with PADDING."""
        there = (tokens != PADDING).to(self.positions.dtype)
        mask = (1 - there)[:, None, None, :] * MASKED
        x = self.dropout(self.words(tokens) + self.positions[:, : tokens.shape[1]])
        for block in self.blocks:
            x = block(x, mask)
        there = there[:, :, None]
        mean = (self.norm(x) * there).sum(1) / there.sum(1).clamp(min=1.0)
        return self.head(self.dropout(mean))
