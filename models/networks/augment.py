"""What training does to its inputs; random numbers are torch's global ones, so a checkpoint holds their state."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def shifted_and_flipped(images: Tensor) -> Tensor:
    """Return each image moved by up to two pixels either way, and mirrored half of the time."""
    count, _, height, width = images.shape
    padded = nn.functional.pad(images, (2, 2, 2, 2))
    rows = torch.arange(height) + torch.randint(0, 5, (count, 1))
    columns = torch.arange(width) + torch.randint(0, 5, (count, 1))
    mirrored = torch.rand(count, 1) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    which = torch.arange(count)[:, None, None]
    return padded[which, 0, rows[:, :, None], columns[:, None, :]][:, None]


def shifted_flipped_erased(images: Tensor, largest: int = 12) -> Tensor:
    """Return the same, and half of the images with a rectangle of up to `largest` pixels a side blacked out.

    Random erasing, Zhong et al., arXiv 1708.04896.
    """
    images = shifted_and_flipped(images)
    count, _, height, width = images.shape
    erased = torch.rand(count, 1, 1) < 0.5
    rows = _run(count, height, largest)[:, :, None]
    columns = _run(count, width, largest)[:, None, :]
    return images.masked_fill((rows & columns & erased)[:, None], 0.0)


def _run(count: int, length: int, largest: int) -> Tensor:
    """Return (count, length): in each row a run of 1 to `largest` true values somewhere."""
    sizes = torch.randint(1, largest + 1, (count, 1))
    starts = (torch.rand(count, 1) * (length - sizes + 1)).long()
    places = torch.arange(length)
    return (places >= starts) & (places < starts + sizes)


def words_dropped(tokens: Tensor, unknown: int, share: float = 0.1) -> Tensor:
    """Return tokens of which a random `share` of those above `unknown` has become `unknown`."""
    dropped = (torch.rand(tokens.shape) < share) & (tokens > unknown)
    return tokens.masked_fill(dropped, unknown)
