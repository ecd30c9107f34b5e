"""What a mistyped word was probably meant to be."""

from __future__ import annotations

from difflib import SequenceMatcher, get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

# The lowest similarity that is offered; difflib's own default.
CUTOFF = 0.6


def nearest(word: str, candidates: Collection[str]) -> str | None:
    """The candidate most similar to ``word``, or None if none comes near."""
    close = get_close_matches(word, candidates, n=1, cutoff=CUTOFF)
    return close[0] if close else None


def nearest_key(key: str, keys: Collection[str]) -> str | None:
    """The dotted key most probably meant by ``key``.

    A neighbour with a similar last part wins (``optimizer.lrr`` → ``optimizer.lr``), then the same
    last part elsewhere (``batch_size`` → ``data.batch_size``), then a similar last part elsewhere.
    """
    parent, _, leaf = key.rpartition(".")
    neighbours = {other.rpartition(".")[2]: other for other in keys if _parent(other) == parent}
    sibling = nearest(leaf, neighbours)
    if sibling is not None:
        return neighbours[sibling]
    same_leaf = [other for other in keys if other.rpartition(".")[2] == leaf]
    if same_leaf:
        return max(same_leaf, key=lambda other: SequenceMatcher(None, key, other).ratio())
    by_leaf: dict[str, str] = {}
    for other in sorted(keys, key=lambda other: other.count(".")):
        by_leaf.setdefault(other.rpartition(".")[2], other)
    close = nearest(leaf, by_leaf)
    return by_leaf[close] if close is not None else None


def did_you_mean(guess: str | None, otherwise: str = "") -> str:
    """The ``how to fix`` part of an error about an unknown word."""
    return f"did you mean {guess}?" if guess else otherwise


def _parent(key: str) -> str:
    return key.rpartition(".")[0]
