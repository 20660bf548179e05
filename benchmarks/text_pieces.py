"""Pieces of harmless texts, drawn anywhere in them, for the benchmarks that need text which nobody answered."""

import random
from collections.abc import Sequence
from pathlib import Path


def text_pieces(paths: Sequence[Path], *, count: int, num_words: int, seed: int) -> list[str]:
    """Return so many pieces of so many words; the texts take turns."""
    texts = [path.read_text(encoding="utf-8").split() for path in paths]
    draw = random.Random(seed)
    found = []
    for number in range(count):
        words = texts[number % len(texts)]
        start = draw.randrange(len(words) - num_words)
        found.append(" ".join(words[start : start + num_words]))
    return found
