"""`probe`: asks a running server whether a patch is active there, and says active, absent, another or cannot tell.

What the answers mean is decided in `verdict.py`; what is expected was stored by `policy_patch.answers.served_probe`.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from policy_patch.answers.addresses import shown_address
from policy_patch.answers.endpoint import OpenAIEndpoint
from policy_patch.answers.next_tokens import next_tokens, served_models
from policy_patch.answers.probe_file import BITS, ServedProbe, read_probe
from policy_patch.errors import ConfigError, EndpointError, ServingError
from policy_patch.serving.verdict import (
    ABSENT,
    ACTIVE,
    ANOTHER,
    CANNOT_TELL,
    MIXED,
    Candidates,
    Verdict,
    candidates_of,
    too_alike,
    verdict_on,
)

UNREACHABLE = "unreachable"


@dataclass(frozen=True)
class ProbeReport:
    """What a probe has found.

    Args:
        expected (`str`):
            The patch that was looked for, in words.
        addresses (`dict[str, Verdict]`):
            Address of each server or replica, as it may be shown -> what its answers say.
    """

    expected: str
    addresses: dict[str, Verdict]

    @property
    def verdict(self) -> str:
        """`"active"` if that is every address's verdict, else the first of the others, the clear ones first."""
        found = [each.verdict for each in self.addresses.values()]
        clear = [each for each in found if each in (ABSENT, ANOTHER, MIXED)]
        return next(iter(clear), next((each for each in found if each != ACTIVE), ACTIVE))

    @property
    def is_active(self) -> bool:
        """Whether the patch is active at every address."""
        return self.verdict == ACTIVE

    @property
    def exit_code(self) -> int:
        """0: active; 1: absent, another or mixed; 2: it cannot be told, or a replica does not answer."""
        return {ACTIVE: 0, CANNOT_TELL: 2, UNREACHABLE: 2}.get(self.verdict, 1)

    def facts(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {
            "verdict": self.verdict,
            "expected": self.expected,
            "addresses": {address: found.facts() for address, found in self.addresses.items()},
        }


def probe(
    url: str,
    patch: str | os.PathLike | ServedProbe,
    *,
    model: str | None = None,
    chat: bool = False,
    replicas: Sequence[str] = (),
    others: Sequence[str | os.PathLike | ServedProbe] = (),
    system: str | None = None,
    bits: int = 16,
    rounds: int = 1,
    extra_body: Mapping[str, Any] | None = None,
    timeout: float = 60.0,
) -> ProbeReport:
    """Ask a running OpenAI-compatible server whether a patch is active there.

    Each of the 20 stored prompts is sent in a request with a connection of its own, and the log-probabilities of the
    first token are compared with the stored ones of each candidate: the expected patch, the base, other stacks of the
    same file, and `others`. The likeliest candidate wins if the odds are above 1000 to 1. A server that gives no
    log-probabilities is judged by its likeliest tokens.

    Args:
        url (`str`):
            Address up to and including `/v1`.
        patch (`str`, `os.PathLike` or [`ServedProbe`]):
            A `policy_patch_probe.json`, or the export or baked checkpoint that holds one.
        model (`str`, *optional*):
            Name of the model at the server. Defaults to the only one that it lists.
        chat (`bool`, *optional*, defaults to `False`):
            Ask by chat instead of completions.
        replicas (`Sequence[str]`, *optional*):
            Addresses of more servers that should have the patch; each is judged by itself.
        others (`Sequence`, *optional*):
            Probes of other patches or versions that the server may have, as `patch`.
        system (`str`, *optional*):
            Name of the expected stack, if the file has several. Defaults to the first.
        bits (`int`, *optional*, defaults to `16`):
            Bits of the engine's weights: 16 for half precision or more, 8 or 4 for a quantised engine. It sets how far
            answers may be from the stored predictions.
        rounds (`int`, *optional*, defaults to `1`):
            How often all prompts are sent. More rounds meet more replicas behind one address.
        extra_body (`Mapping[str, Any]`, *optional*):
            More fields of each request, such as `{"chat_template_kwargs": {"patch": "tox"}}`.
        timeout (`float`, *optional*, defaults to `60.0`):
            Seconds to wait for one answer.

    Returns:
        [`ProbeReport`].

    Raises:
        EndpointError: the only server cannot be reached or gives no valid answers. With `replicas`, one that does not
            answer is `"unreachable"` in the report instead.
        PatchNotFoundError, ConfigError: there is no probe in `patch`, or it does not fit the arguments.
        ServingError: the server lists several models, and `model` does not say which.
        MissingExtraError: the package `openai` is not installed.
    """
    if bits not in BITS or rounds < 1:
        raise ConfigError(f"`bits={bits}`, `rounds={rounds}`: expected bits of {BITS}, and at least 1 round.")
    stored, *more = (one if isinstance(one, ServedProbe) else read_probe(one) for one in (patch, *others))
    candidates = candidates_of(stored, more, kind="chat" if chat else "completions", system=system)
    expected = candidates.described[candidates.expected]
    if (reason := too_alike(candidates, bits)) is not None:
        return ProbeReport(expected, {shown_address(url): _undecided(candidates, bits, CANNOT_TELL, reason)})
    found: dict[str, Verdict] = {}
    for address in dict.fromkeys((url, *replicas)):
        endpoint = OpenAIEndpoint(model or "", address, chat=chat, timeout=timeout, max_retries=1)
        try:
            endpoint.model = model or _only_model(endpoint)
            found[endpoint.address] = _asked(endpoint, candidates, bits, rounds, extra_body)
        except EndpointError as error:
            if not replicas:
                raise
            found[endpoint.address] = _undecided(candidates, bits, UNREACHABLE, str(error))
    return ProbeReport(expected, found)


def watch(url: str, patch: str | os.PathLike | ServedProbe, *, seconds: float, **options: Any) -> Iterator[ProbeReport]:
    """Probe a server again and again, and yield each report; a server that does not answer is in it as unreachable.

    Args:
        url, patch:
            As [`probe`].
        seconds (`float`):
            Pause between two probes.
        options (*optional*):
            As [`probe`].
    """
    while True:
        replicas = [*options.get("replicas", ()), url]  # so that a dead server is reported and does not end the watch
        yield probe(url, patch, **{**options, "replicas": replicas})
        time.sleep(seconds)


def _only_model(endpoint: OpenAIEndpoint) -> str:
    names = served_models(endpoint)
    if len(names) != 1:
        listed = ", ".join(name[:100] for name in names[:20] if name.isprintable()) or "none"
        raise ServingError(f"{endpoint.address} lists {len(names)} models ({listed}); say which with `model`.")
    return names[0]


def _asked(
    endpoint: OpenAIEndpoint,
    candidates: Candidates,
    bits: int,
    rounds: int,
    extra_body: Mapping[str, Any] | None,
) -> Verdict:
    numbers = list(range(len(candidates.rows))) * rounds
    answers = next_tokens(endpoint, [candidates.rows[number].prompt for number in numbers], extra_body=extra_body)
    if not any(seen.tokens for seen in answers):
        reason = too_alike(candidates, bits, greedy=True)
        if reason is not None:
            return _undecided(candidates, bits, CANNOT_TELL, reason)
    return verdict_on(candidates, list(zip(numbers, answers)), bits=bits)


def _undecided(candidates: Candidates, bits: int, verdict: str, reason: str) -> Verdict:
    return Verdict(
        verdict=verdict,
        reason=reason,
        answers={},
        distance=None,
        tolerance=candidates.tolerances[bits],
        log_odds=0.0,
    )
