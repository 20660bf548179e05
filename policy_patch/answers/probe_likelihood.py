"""How likely it is that a served model's predictions come from one model or another: the arithmetic of the probe.

Pure numbers: nothing is asked here and no model is run. `probe_file.py` holds what is expected.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from policy_patch.answers.probe_file import BASE, NextTokens, ProbeRow, ServedProbe

SURE = math.log(1000)  # a decision needs odds of 1000 to 1 over all answers; our choice
STRANGER = "another model"  # stands for every model whose predictions are not stored
COMPARED = 10  # tokens of an answer that are compared; less likely ones move more under rounding
# Least tolerances in nats, for what rounding in our own runs does not show: other kernels, a cache in half precision,
# the rows of a baked head. Our choice, above what was measured (docs/probe.md).
LEAST_NOISE = {16: 0.03, 8: 0.05, 4: 0.15}
_TIMES_NOISE = 1.5  # engines round in other blocks than `probe_noise.py` does
_DEGREES = 4  # of Student's t: a single answer far off does not decide alone
_LEAST_CHANCE = 1e-3  # of a greedy token that a model should not give
_STRANGER_AGREES = 0.5  # share of greedy tokens that two models have in common; our choice
_STRANGER_OTHERWISE = 0.05


@dataclass(frozen=True)
class Seen:
    """One answer of a server.

    Args:
        tokens (`tuple[tuple[str, float], ...]`):
            Texts and log-probabilities of the likeliest next tokens; empty if the server gives none.
        greedy (`str`, *optional*):
            The text of the token that the server chose; used only if `tokens` is empty.
    """

    tokens: tuple[tuple[str, float], ...] = ()
    greedy: str | None = None


def seen_of(expected: NextTokens) -> Seen:
    """Return the answer of a server that predicts exactly what is expected."""
    return Seen(tuple(zip(expected.texts, expected.log_probs))[:COMPARED])


def distance(seen: Seen, expected: NextTokens) -> float:
    """Return how far log-probabilities are from the expected ones: root mean square over tokens, in nats.

    A token that one side does not list has at most the smallest log-probability of that side; only what lies above
    that counts.
    """
    seen_texts = _by_text(seen.tokens[:COMPARED])
    known = _by_text(zip(expected.texts, expected.log_probs))
    stripped = _by_text((text.strip(), value) for text, value in known.items())
    lowest, lowest_seen = min(expected.log_probs), min(seen_texts.values())
    off = []
    for text, value in seen_texts.items():
        found = known.get(text, stripped.get(text.strip()))
        off.append(max(0.0, value - lowest) if found is None else value - found)
    listed = {*seen_texts, *(text.strip() for text in seen_texts)}
    for text, value in list(known.items())[: len(seen_texts)]:
        if text not in listed and text.strip() not in listed:
            off.append(max(0.0, value - lowest_seen))
    return math.sqrt(sum(one * one for one in off) / len(off))


def tolerance(probe: ServedProbe, kind: str, bits: int) -> float:
    """Return the distance, in nats, that an engine of so many bits may have from the stored predictions on average."""
    return max(LEAST_NOISE[bits], _TIMES_NOISE * probe.noise[kind][bits])


def log_likelihoods(
    seen: Seen, row: Mapping[str, NextTokens], expected: str, *, noise: float, apart: float
) -> dict[str, float]:
    """Return the log-likelihood of one answer under each model, and under [`STRANGER`].

    The distance of an answer from a model's predictions follows Student's t with the scale `noise` if that model
    answers; from those of the expected one with the scale `apart` if a stranger does.

    Args:
        seen ([`Seen`]):
            The answer.
        row (`Mapping[str, NextTokens]`):
            Model -> what it predicts after the prompt.
        expected (`str`):
            The model that a stranger is compared with.
        noise (`float`):
            From [`tolerance`].
        apart (`float`):
            Usual distance of two different models; see [`usual_distance`].
    """
    if not seen.tokens:
        found = {name: math.log(_chance(seen.greedy or "", tokens, noise)) for name, tokens in row.items()}
        agrees = _same(seen.greedy or "", row[expected].texts[0])
        return {**found, STRANGER: math.log(_STRANGER_AGREES if agrees else _STRANGER_OTHERWISE)}
    away = {name: distance(seen, tokens) for name, tokens in row.items()}
    found = {name: _student(off, noise) for name, off in away.items()}
    return {**found, STRANGER: _student(away[expected], max(apart, 2 * noise))}


def usual_distance(rows: Sequence[ProbeRow], one: str, other: str = BASE) -> float:
    """Return the root mean square distance of two systems of a probe over its prompts, in nats."""
    squares = [distance(seen_of(row.systems[one]), row.systems[other]) ** 2 for row in rows]
    return math.sqrt(sum(squares) / len(squares))


def expected_log_odds(rows: Sequence[ProbeRow], one: str, other: str, noise: float, *, greedy: bool = False) -> float:
    """Return the log-odds of system `one` over `other` that a server which is `one` will show, one answer a prompt."""
    total = 0.0
    for row in rows:
        mine, theirs = row.systems[one], row.systems[other]
        if greedy:
            chances = [_chance(mine.texts[0], tokens, noise) for tokens in (mine, theirs)]
            total += math.log(chances[0] / chances[1])
        else:
            total += _student(noise, noise) - _student(math.hypot(noise, distance(seen_of(mine), theirs)), noise)
    return total


def _student(off: float, scale: float) -> float:
    return -math.log(scale) - (1 + _DEGREES) / 2 * math.log(1 + off * off / (_DEGREES * scale * scale))


def _chance(text: str, expected: NextTokens, noise: float) -> float:
    """Return the probability that a token is the likeliest one once each log-probability has moved by the noise."""
    values = [value for own, value in zip(expected.texts, expected.log_probs) if _same(own, text)]
    others = [value for own, value in zip(expected.texts, expected.log_probs) if not _same(own, text)]
    if not values:
        return _LEAST_CHANCE
    ahead = max(values) - max(others, default=-math.inf)
    return min(max(0.5 * math.erfc(-ahead / (2 * noise)), _LEAST_CHANCE), 1 - _LEAST_CHANCE)


def _same(one: str, other: str) -> bool:
    return _plain(one).strip() == _plain(other).strip()


def _by_text(tokens: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Return log-probabilities by text; of several tokens with one text, that of the likeliest."""
    found: dict[str, float] = {}
    for text, value in tokens:
        text = _plain(text)
        found[text] = max(value, found.get(text, -math.inf))
    return found


def _plain(text: str) -> str:
    """Return the text of a token without the marks that vocabularies have in place of a space."""
    return text.replace("\u2581", " ").replace("\u0120", " ").replace("\u010a", "\n")
