"""What the answers of one server say about it: which patch it has, none, another one, or several models in turn.

Nothing is asked here; `probing.py` asks. The likelihoods are those of `policy_patch.answers.probe_likelihood`.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from policy_patch.answers.probe_file import BASE, BITS, ProbeRow, ServedProbe
from policy_patch.answers.probe_likelihood import (
    STRANGER,
    SURE,
    Seen,
    distance,
    expected_log_odds,
    log_likelihoods,
    scales,
    stranger_scales,
    tolerance,
    usual_distance,
)
from policy_patch.errors import ConfigError

ACTIVE, ABSENT, ANOTHER, MIXED, CANNOT_TELL = "active", "absent", "another", "mixed", "cannot tell"
_ROUNDS = 20  # of expectation and maximisation; the shares are stable after a few


@dataclass(frozen=True)
class Candidates:
    """The models that a server may be, with what each of them predicts.

    Args:
        kind (`str`):
            `"completions"` or `"chat"`.
        expected (`str`):
            The one it should be.
        rows (`list[ProbeRow]`):
            Prompts with the predictions of every candidate; each has [`BASE`].
        described (`dict[str, str]`):
            Every candidate in words.
        tolerances (`dict[int, float]`):
            Bits of an engine -> its tolerance in nats.
    """

    kind: str
    expected: str
    rows: list[ProbeRow]
    described: dict[str, str]
    tolerances: dict[int, float]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the answers of one address say.

    Args:
        verdict (`str`):
            `"active"`: the expected patch. `"absent"`: the base without a patch. `"another"`: another patch or another
            model. `"mixed"`: some answers are the expected patch's and some are not, as of several replicas.
            `"cannot tell"`: the answers do not decide.
        reason (`str`):
            The same in a sentence, with what to do.
        answers (`dict[str, int]`):
            Candidate in words -> answers that are most likely its own.
        distance (`float`, *optional*):
            Root mean square distance to the expected predictions, in nats; None if the server gives no probabilities.
        tolerance (`float`):
            Distance that an engine of these bits may have.
        log_odds (`float`):
            Logarithm of the odds of the likeliest candidate over the second.
    """

    verdict: str
    reason: str
    answers: dict[str, int]
    distance: float | None
    tolerance: float
    log_odds: float

    def facts(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "answers": self.answers,
            "distance": None if self.distance is None else round(self.distance, 4),
            "tolerance": round(self.tolerance, 4),
            "log_odds": round(self.log_odds, 1),
        }


def candidates_of(
    probe: ServedProbe, others: Sequence[ServedProbe] = (), *, kind: str = "completions", system: str | None = None
) -> Candidates:
    """Return the models that a server may be.

    Args:
        probe ([`ServedProbe`]):
            Holds the expected patch and the base.
        others (`Sequence[ServedProbe]`, *optional*):
            Probes of other patches and versions.
        kind (`str`, *optional*, defaults to `"completions"`):
            `"completions"` or `"chat"`.
        system (`str`, *optional*):
            Name of the expected stack in `probe`. Defaults to its first.

    Raises:
        ConfigError: the probe has no such stack or kind, or another one asks other prompts.
    """
    expected = system or probe.expected
    if expected not in probe.stacks:
        raise ConfigError(f"The probe has no stack `{expected}`. It has: {', '.join(probe.stacks)}.")
    for each in (probe, *others):
        if kind not in each.rows:
            raise ConfigError(
                f"A probe of {each.described(each.expected)} has no predictions for {kind}: the tokenizer it was "
                "recorded with has no chat template. Record it with the template of the server, or ask completions."
            )
    rows = [dict(row.systems) for row in probe.rows[kind]]
    described = {BASE: probe.described(BASE), **{name: probe.described(name) for name in probe.stacks}}
    known = {_hashes(probe, name) for name in probe.stacks}
    for number, other in enumerate(others, start=1):
        if [row.prompt for row in other.rows[kind]] != [row.prompt for row in probe.rows[kind]]:
            raise ConfigError("Two probes ask different prompts. Export both patches with one version of policy-patch.")
        for name in other.stacks:
            if _hashes(other, name) not in known:
                known.add(_hashes(other, name))
                label = f"{name} ({number})"
                described[label] = other.described(name)
                for row, more in zip(rows, other.rows[kind]):
                    row[label] = more.systems[name]
    together = [ProbeRow(row.prompt, systems) for row, systems in zip(probe.rows[kind], rows)]
    return Candidates(kind, expected, together, described, {bits: tolerance(probe, kind, bits) for bits in BITS})


def verdict_on(candidates: Candidates, answers: Sequence[tuple[int, Seen]], *, bits: int = 16) -> Verdict:
    """Return what answers say about the server that gave them.

    Args:
        candidates ([`Candidates`]):
            The models that it may be.
        answers (`Sequence[tuple[int, Seen]]`):
            The number of the prompt, and the answer to it; at least one.
        bits (`int`, *optional*, defaults to `16`):
            Bits of the engine's weights: 16 for half precision and more, 8 or 4 if it is quantised.
    """
    found = _weighed(candidates, answers, bits)
    if found.is_mixed:
        counts = ", ".join(f"{count} of {name}" for name, count in _counts(candidates, found).items())
        verdict, reason = (
            MIXED,
            (
                f"The answers come from several models: {counts}. Some replica behind this address is stale, or starts "
                "without the patch."
            ),
        )
    else:
        verdict, reason = _of_one_model(candidates, found, bits)
    squares = [
        distance(seen, candidates.rows[number].systems[candidates.expected]) ** 2
        for number, seen in answers
        if seen.tokens
    ]
    return Verdict(
        verdict=verdict,
        reason=reason,
        answers=_counts(candidates, found),
        distance=math.sqrt(sum(squares) / len(squares)) if squares else None,
        tolerance=candidates.tolerances[bits],
        log_odds=found.log_odds,
    )


def _of_one_model(candidates: Candidates, found: "_Weighed", bits: int) -> tuple[str, str]:
    """Return the verdict and its reason where all answers may come from one model."""
    expected = candidates.described[candidates.expected]
    if found.likeliest is None:
        return CANNOT_TELL, (
            "Two candidates are nearly as likely. Ask more often (`rounds`), or a server that gives log-probabilities."
        )
    if found.likeliest == candidates.expected:
        return ACTIVE, f"The server has {expected}."
    if found.likeliest == BASE:
        hint = " llama.cpp adds a patch to chats only: ask with `chat`." if candidates.kind == "completions" else ""
        return ABSENT, f"The server has {candidates.described[BASE]}, not {expected}.{hint}"
    if found.likeliest != STRANGER:
        return ANOTHER, f"The server has {candidates.described[found.likeliest]}, not {expected}."
    template = ", or a chat template other than the recorded one" if candidates.kind == "chat" else ""
    return ANOTHER, (
        f"The server has neither {expected} nor any other candidate: its answers are further off than an engine with "
        f"{bits} bits explains. It has another patch, version or base{template}; or, if it is "
        "quantised, say to how many bits."
    )


def too_alike(candidates: Candidates, bits: int, *, greedy: bool = False) -> str | None:
    """Return why a server cannot be told to have the expected patch and not the base; None if it can."""
    noise = candidates.tolerances[bits]
    odds = expected_log_odds(candidates.rows, candidates.expected, BASE, noise, greedy=greedy)
    if odds >= SURE:
        return None
    advice = (
        "The server gives no log-probabilities, only its likeliest token, and that is the same too often"
        if greedy
        else f"With {bits} bits, rounding alone moves log-probabilities by up to {noise:.2g} nats"
    )
    return (
        f"{candidates.described[candidates.expected]} and the base predict too much the same after the probe's prompts "
        f"to be told apart. {advice}."
    )


@dataclass(frozen=True)
class _Weighed:
    """The likelihoods of one server's answers: candidate -> its share of them, and the odds of the likeliest."""

    each: list[dict[str, float]]
    totals: dict[str, float]
    likeliest: str | None  # None if two candidates are nearly as likely
    is_mixed: bool
    log_odds: float


def _weighed(candidates: Candidates, answers: Sequence[tuple[int, Seen]], bits: int) -> _Weighed:
    largest = candidates.tolerances[bits]
    usual = usual_distance(candidates.rows, candidates.expected)
    totals: dict[str, float] = {}
    best, mixture = [], -math.inf
    for noise, apart in itertools.product(scales(largest), stranger_scales(usual, largest)):
        each = [
            log_likelihoods(seen, candidates.rows[number].systems, candidates.expected, noise=noise, apart=apart)
            for number, seen in answers
        ]
        for name in each[0]:
            totals[name] = max(totals.get(name, -math.inf), sum(found[name] for found in each))
        if (together := _mixture(each)) > mixture:
            best, mixture = each, together
    first, second, *_ = sorted(totals, key=totals.get, reverse=True)
    odds = totals[first] - totals[second]
    is_mixed = mixture - totals[first] >= SURE + math.log(len(answers))
    return _Weighed(best, totals, first if odds >= SURE else None, is_mixed, odds)


def _mixture(each: Sequence[Mapping[str, float]]) -> float:
    """Return the log-likelihood if each answer may come from another candidate, with the likeliest shares of them."""
    found = np.array([list(one.values()) for one in each])  # (answers, candidates)
    top = found.max(axis=1, keepdims=True)
    likely = np.exp(found - top)
    shares = np.full(found.shape[1], 1 / found.shape[1])  # (candidates,)
    for _ in range(_ROUNDS):
        parts = likely * shares
        shares = (parts / parts.sum(axis=1, keepdims=True)).mean(axis=0)
    return float((top[:, 0] + np.log(likely @ shares)).sum())


def _counts(candidates: Candidates, found: _Weighed) -> dict[str, int]:
    counts: dict[str, int] = {}
    for each in found.each:
        # Greedy tokens that two models have in common are counted for the one that is likelier over all answers.
        name = max(each, key=lambda one, each=each: (round(each[one], 1), found.totals[one]))
        word = candidates.described.get(name, "a model that is not among the candidates")
        counts[word] = counts.get(word, 0) + 1
    return counts


def _hashes(probe: ServedProbe, name: str) -> tuple[str, ...]:
    return tuple(str(patch.get("sha256")) for patch in probe.stacks[name])
