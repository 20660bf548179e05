"""How likely it is that a served model's predictions come from one model or another: the arithmetic of the probe.

Pure numbers: nothing is asked here and no model is run. `probe_file.py` holds what is expected.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from policy_patch.answers.probe_file import BASE, NextTokens, ProbeRow, ServedProbe

SURE = math.log(1000)  # a decision needs odds of 1000 to 1 over all answers; our choice
STRANGER = "another model"  # stands for every model whose predictions are not stored
COMPARED = 10  # tokens of an answer that are compared; less likely ones move more under rounding
# Least tolerances in nats, for what rounding in our own runs does not show: other kernels, a cache in half precision,
# the rows of a baked head. Our choice, above what was measured (docs/probe.md).
LEAST_NOISE = {16: 0.03, 8: 0.05, 4: 0.15}
_TIMES_NOISE = 1.5  # engines round in other blocks than `probe_noise.py` does
_DEGREES = 4  # of Student's t: a single answer far off does not decide alone
# How many of the tokens count as independent of each other. Our choice: rounding moves some of them together.
_INDEPENDENT = 0.4
_LEAST_SCALE = 0.002  # nats; what the same weights in other kernels differ by
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


@lru_cache(maxsize=4096)
def distance(seen: Seen, expected: NextTokens) -> float:
    """Return how far log-probabilities are from the expected ones: root mean square over tokens, in nats.

    A token that one side does not list has at most the smallest log-probability of that side; only what lies above
    that counts.
    """
    seen_texts = _by_text(seen.tokens[:COMPARED])
    known = _by_text(zip(expected.texts, expected.log_probs))
    stripped = _by_text((text.strip(), value) for text, value in known.items())
    lowest, lowest_seen = min(expected.log_probs), min(value for _, value in seen.tokens[:COMPARED])
    off = []
    for text, value in seen_texts.items():
        found = known.get(text, stripped.get(text.strip()))
        off.append(max(0.0, value - lowest) if found is None else value - found)
    listed = {*seen_texts, *(text.strip() for text in seen_texts)}
    for text, value in list(known.items())[: len(seen_texts)]:
        if text not in listed and text.strip() not in listed:
            off.append(max(0.0, value - lowest_seen))
    return math.sqrt(sum(one * one for one in off) / max(1, len(off)))


def tolerance(probe: ServedProbe, kind: str, bits: int) -> float:
    """Return the distance, in nats, that an engine of so many bits may have from the stored predictions on average."""
    return max(LEAST_NOISE[bits], _TIMES_NOISE * probe.noise[kind][bits])


def log_likelihoods(
    seen: Seen, row: Mapping[str, NextTokens], expected: str, *, noise: float, apart: float
) -> dict[str, float]:
    """Return the log-likelihood of one answer under each model, and under [`STRANGER`].

    The differences of an answer's log-probabilities from a model's predictions follow a multivariate Student's t with
    the scale `noise` if that model answers; those from the expected predictions one with the scale `apart` if a
    stranger does.

    Args:
        seen ([`Seen`]):
            The answer.
        row (`Mapping[str, NextTokens]`):
            Model -> what it predicts after the prompt.
        expected (`str`):
            The model that a stranger is compared with.
        noise (`float`):
            One of [`scales`].
        apart (`float`):
            One of [`stranger_scales`].
    """
    if not seen.tokens:
        found = {name: math.log(_chance(seen.greedy or "", tokens, noise)) for name, tokens in row.items()}
        agrees = _same(seen.greedy or "", row[expected].texts[0])
        return {**found, STRANGER: math.log(_STRANGER_AGREES if agrees else _STRANGER_OTHERWISE)}
    away = {name: distance(seen, tokens) for name, tokens in row.items()}
    size = len(seen.tokens[:COMPARED])
    found = {name: _student(off, noise, size) for name, off in away.items()}
    return {**found, STRANGER: _student(away[expected], apart, size)}


def stranger_scales(usual: float, noise: float) -> list[float]:
    """Return the distances at which a stranger is looked for: the usual one of two models, down to 4 tolerances.

    A model that is nearer than about 2 tolerances is taken for the expected one, unless it is a candidate itself.
    """
    found = [max(usual, 2 * noise)]
    while found[-1] >= 8 * noise:
        found.append(found[-1] / 2)
    return found


def scales(largest: float) -> list[float]:
    """Return the scales of the noise that are tried, from the tolerance of an engine down to that of other kernels."""
    found = [largest]
    while found[-1] > _LEAST_SCALE:
        found.append(found[-1] / 2)
    return found


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
            seen = seen_of(mine)
            off = math.hypot(noise, distance(seen, theirs))
            total += _student(noise, noise, len(seen.tokens)) - _student(off, noise, len(seen.tokens))
    return total


def _student(off: float, scale: float, tokens: int) -> float:
    """Return the log-density of a root mean square difference over so many tokens, up to a constant."""
    count = max(1.0, _INDEPENDENT * tokens)
    square = count * (off / scale) ** 2
    return -count * math.log(scale) - (count + _DEGREES) / 2 * math.log1p(square / _DEGREES)


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
    """Return log-probabilities by text; of several tokens with one text, that of the likeliest.

    Pieces of a character are left out: all have the text U+FFFD, and hosts that answer by text keep any one of them.
    """
    found: dict[str, float] = {}
    for text, value in tokens:
        text = _plain(text)
        if "\ufffd" not in text:
            found[text] = max(value, found.get(text, -math.inf))
    return found


def _plain(text: str) -> str:
    """Return the text of a token without the marks that vocabularies have in place of a space."""
    return text.replace("\u2581", " ").replace("\u0120", " ").replace("\u010a", "\n")
