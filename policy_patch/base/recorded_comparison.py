"""Compares two fingerprints with each other: whether two patches were made for the same base, without loading it.

`comparison.py` compares a fingerprint with a base.
"""

from collections.abc import Mapping
from typing import Any

import torch

from policy_patch.base.recorded_fingerprint import FORMAT, read_fingerprint
from policy_patch.base.weight_samples import Samples, moved_samples


def recorded_differences(one: dict[str, Any], other: dict[str, Any], sources: tuple[str, str]) -> list[str]:
    """Return in words how the bases of two fingerprints differ; an empty list if they are the same.

    The precision in which the bases were loaded does not matter. A tokenizer that one side did not record is not
    compared.

    Args:
        one, other (`dict`):
            Fingerprints, as they are in the patches.
        sources (`tuple[str, str]`):
            What errors call the two patches.

    Raises:
        ConfigError: a fingerprint is damaged or has a newer format.
    """
    first, second = (read_fingerprint(given, source) for given, source in zip((one, other), sources, strict=True))
    found = []
    if first.format != FORMAT or second.format != FORMAT:
        return [] if one == other else ["a fingerprint is of format 1, which is compared as a whole only"]
    if first.architecture != second.architecture:
        found.append("the architecture or a size differs")
    if None not in (first.tokenizer, second.tokenizer) and first.tokenizer != second.tokenizer:
        found.append("the tokenizer differs")
    if first.settings != second.settings or first.tied != second.tied:
        found.append("settings of the forward pass differ")
    if first.names != second.names:
        found.append(f"{len(first.names ^ second.names)} parameters are in one of them only")
    if moved := _moved(first.samples, second.samples):
        found.append(f"{moved} of {len(first.samples)} weights differ by more than rounding explains")
    return found


def _moved(one: Mapping[str, Samples], other: Mapping[str, Samples]) -> int:
    """Return how many weights differ by more than rounding explains."""
    by_count: dict[int, list[str]] = {}
    moved = 0
    for name in sorted(one.keys() & other.keys()):
        count = one[name].values.numel()
        if other[name].values.numel() == count:
            by_count.setdefault(count, []).append(name)
        else:
            moved += 1  # a weight of another shape
    for names in by_count.values():  # many at once: whether rounding explains a difference is decided over all of them
        sides = [_together([side[name] for name in names]) for side in (one, other)]
        moved += int(moved_samples(*sides).any(dim=1).sum())
    return moved


def _together(samples: list[Samples]) -> Samples:
    values, steps = (torch.stack([getattr(each, part) for each in samples]) for part in ("values", "steps"))
    return Samples(values, steps, tuple(dtype for each in samples for dtype in each.dtypes))
