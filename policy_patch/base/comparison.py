"""The differences between a base and a fingerprint, in words: one method for each kind of difference.

`fingerprint.py` decides what follows from a difference.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from policy_patch.base.probe import probe_of, why_not_comparable
from policy_patch.base.recorded_fingerprint import FORMAT, Recorded, shown
from policy_patch.base.settings import changed_settings, forward_settings
from policy_patch.base.weight_samples import Samples, moved_samples, read_samples
from policy_patch.base.weights import (
    EMBEDDING,
    HEAD,
    MAX_WEIGHTS,
    is_tied,
    packed_modules,
    request,
    request_of_format_1,
    tensors_of,
    weights_of,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NAMED = 3  # parameters that an error names


class Comparison:
    """Compares a base with a fingerprint. Each method describes one kind of difference; an empty list means equal.

    Args:
        base ([`~transformers.PreTrainedModel`]):
            A causal language model of the right architecture. Not changed.
        recorded ([`Recorded`]):
            The fingerprint.
    """

    def __init__(self, base: "PreTrainedModel", recorded: Recorded) -> None:
        self._base, self._recorded = base, recorded
        self._weights, self._tensors = weights_of(base), tensors_of(base)
        self._found = self._read()

    def _read(self) -> dict[str, Samples]:
        """Read from the base the elements that the fingerprint holds; weights that cannot be read are left out."""
        all_of_it = self._tensors | self._weights  # packages keep 8-bit weights in buffers
        names = [name for name in self._recorded.samples if name in all_of_it]
        if self._recorded.format == FORMAT:
            return read_samples([request(name, *all_of_it[name]) for name in names])
        found = read_samples([request_of_format_1(name, *all_of_it[name]) for name in names])
        return {name or EMBEDDING: samples for name, samples in found.items()}

    def correlation(self) -> float:
        """Return the correlation of the token embeddings with the recorded ones, from -1 to 1; 1 if none are recorded.

        NaN if either side is constant or not finite.
        """
        if EMBEDDING not in self._found:
            return 1.0
        recorded, found = self._recorded.samples[EMBEDDING], self._found[EMBEDDING]
        if not moved_samples(recorded, found).any():
            return 1.0
        one, other = (side.values.double() - side.values.double().mean() for side in (recorded, found))
        return float((one * other).sum() / (one.norm() * other.norm()))

    def moved(self) -> list[str]:
        """Return the weights whose samples differ by more than loading in another precision can explain."""
        return moved_weights(self._recorded.samples, self._found)

    def names(self) -> list[str]:
        """Return the parameters that are missing or new. A fingerprint of format 1 lists only a few parameters."""
        packed, known = packed_modules(self._base), self._recorded.names

        def counts(name: str) -> bool:
            return name.rpartition(".")[0] not in packed

        lacking = [name for name in known - self._tensors.keys() if counts(name)]
        words = [f"it lacks {len(lacking)} parameters, {_some(lacking)}"] if lacking else []
        if self._recorded.format != FORMAT or len(known) >= MAX_WEIGHTS:
            return words
        new = self._weights.keys() - known - {EMBEDDING, HEAD}
        new = [name for name in new if isinstance(self._weights[name][1], nn.Parameter) and counts(name)]
        words += [f"it has {len(new)} more parameters, {_some(new)}"] if new else []
        return words + (["layers of PEFT are in it"] if any(".base_layer." in name for name in self._weights) else [])

    def settings(self) -> list[str]:
        """Return the settings of the configuration that differ."""
        return changed_settings(self._recorded.settings, forward_settings(self._base))

    def tying(self) -> list[str]:
        """Return the difference if the head is tied to the token embeddings on one side only."""
        tied = is_tied(self._base)
        if None in (tied, self._recorded.tied) or tied == self._recorded.tied:
            return []
        words = {True: "the table of its token embeddings", False: "a matrix of its own"}
        return [f"its head is {words[tied]}, expected {words[self._recorded.tied]}"]

    def predictions(self) -> list[str]:
        """Return the difference of the predictions. Runs the base."""
        if self._recorded.probe is None or why_not_comparable(self._base) is not None:
            return []
        found = probe_of(self._base)
        if isinstance(found, str):
            return [f"it cannot be run on the ids of the check, but the right base could ({found})"]
        recorded = self._recorded.samples
        same = all(torch.equal(recorded[name].values, each.values) for name, each in self._found.items())
        off = self._recorded.probe.differs_from(found, same_weights=same)
        if off is None:
            return []
        return [
            f"with the same weights and settings it predicts other tokens (log-probabilities off by {off:.2g} of their "
            "spread): an adapter, a hook or replaced code changes it. `base_probe=False` leaves this check out"
        ]

    def not_compared(self) -> list[str]:
        """Return the parts that were not compared: unreadable weights, and missing or useless predictions."""
        if self._recorded.format != FORMAT:
            return [] if self._found else ["any weight"]
        names = self._recorded.names | ({EMBEDDING, HEAD} & self._recorded.samples.keys())
        unread = [name for name in names if name not in self._found]
        why_not = why_not_comparable(self._base)
        if self._recorded.probe is None:
            why_not = why_not or "the fingerprint has no predictions of the right base"
        weights = [f"{len(unread)} of {len(names)} weights ({_some(unread)})"] if unread else []
        return weights + ([f"its predictions ({why_not})"] if why_not else [])


def moved_weights(recorded: Mapping[str, Samples], found: Mapping[str, Samples]) -> list[str]:
    """Return in words which weights of `found` moved further than another precision explains; those of both count."""
    moved, by_count = {}, {}
    for name, samples in found.items():
        count = samples.values.numel()
        if recorded[name].values.numel() == count:
            by_count.setdefault(count, []).append(name)
        else:
            moved[name] = count  # a weight of another shape
    for names in by_count.values():  # many parameters at once
        sides = [_together([samples[name] for name in names]) for samples in (recorded, found)]
        moved |= {name: int(count) for name, count in zip(names, moved_samples(*sides).sum(1)) if count}
    if not moved:
        return []
    total = sum(samples.values.numel() for samples in found.values())
    return [
        f"{sum(moved.values())} of {total} samples of its weights moved further than rounding explains, those of "
        f"{_some(moved)}"
    ]


def _together(samples: list[Samples]) -> Samples:
    values, steps = (torch.stack([getattr(each, part) for each in samples]) for part in ("values", "steps"))
    return Samples(values, steps, tuple(dtype for each in samples for dtype in each.dtypes))


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return ", ".join(map(shown, listed[:_NAMED])) + more
