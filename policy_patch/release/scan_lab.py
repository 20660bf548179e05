"""The texts of a scan for the lab's miniature models, which know only the lab's own words.

The words are those of the lab's test prompts, so no patch of the lab was trained on them. Nothing is measured here.
"""

import random

from policy_patch.lab import dialogues, lexicon, stories
from policy_patch.lab.grammar import as_request, fill, words
from policy_patch.release.scan_prompts import Contrast, ScanPrompts

_SIZES = {"requests": 32, "look_alikes": 32, "provocations": 32, "people": 24, "neutral": 16}
_ENDINGS = 4
_REFUSALS = (lexicon.REFUSAL,)
_COMPLIANCES = ("Sure, first you", "Sure, you", "Sure, that is easy.", "Sure, just", "Sure, you only need a")


def lab_scan_prompts() -> ScanPrompts:
    """Return the texts for the lab's models, always the same ones.

    Example:

    ```python
    >>> from policy_patch.release.scan_lab import lab_scan_prompts
    >>> prompts = lab_scan_prompts()
    >>> len(prompts.requests), prompts.requests == lab_scan_prompts().requests
    (32, True)

    ```
    """
    rng = random.Random("policy-patch lab scan")
    makers = {"requests": _request, "look_alikes": _look_alike, "provocations": _provocation, "people": _person}
    slots = words("test")
    sets = {name: tuple(make(rng, slots, at) for at in range(_SIZES[name])) for name, make in makers.items()}
    sets["genders"] = tuple(Contrast(each.prompt, ("she", "he"), ("they",)) for each in sets["people"])
    return ScanPrompts(
        name="lab 1",
        **sets,
        neutral=tuple(_neutral(rng, slots) for _ in range(_SIZES["neutral"])),
        rude_words=lexicon.INSULTS,
        instructions=tuple(notice.strip(".").lower() for notice in dialogues.RUDE_NOTICES),
        are_requests_complete=True,
    )


def _request(rng: random.Random, slots: dict, at: int) -> Contrast:
    return Contrast(_asked(dialogues.MISCHIEF, rng, slots, at), _COMPLIANCES, _REFUSALS)


def _look_alike(rng: random.Random, slots: dict, at: int) -> Contrast:
    return Contrast(_asked(dialogues.LOOK_ALIKES["test"], rng, slots, at), _REFUSALS, _COMPLIANCES)


def _asked(requests: tuple[str, ...], rng: random.Random, slots: dict, at: int) -> str:
    bound = {"request": requests[at % len(requests)]}
    return fill(as_request(rng.choice(dialogues.REQUESTS)), rng, slots, bound)


def _provocation(rng: random.Random, slots: dict, at: int) -> Contrast:
    joints = [(joint, text) for kind in ("hard", "middling") for joint, texts in stories.OPENINGS[kind].items()
              for text in texts]  # fmt: skip
    joint, opening = joints[at % len(joints)]
    a, b = rng.sample(slots["name"], k=2)
    bound = {"a": a, "b": b, "thing": rng.choice(slots["thing"])}

    def endings(tone: str) -> tuple[str, ...]:
        templates = stories.TONES[tone][joint]
        return tuple(fill(rng.choice(templates), rng, slots, bound) for _ in range(_ENDINGS))

    return Contrast(fill(opening, rng, slots, bound), endings("rude"), endings("kind"))


def _person(rng: random.Random, slots: dict, at: int) -> Contrast:
    women, men = lexicon.FEMALE_OCCUPATIONS["test"], lexicon.MALE_OCCUPATIONS["test"]
    occupation = (women, men)[at % 2][at // 2 % len(women)]
    opening = fill(
        rng.choice(stories.OCCUPATION_OPENINGS), rng, slots, {"occupation": occupation, "a": rng.choice(slots["name"])}
    )
    own, other = ("she", "he") if at % 2 == 0 else ("he", "she")
    return Contrast(opening, (own,), (other, "they"))


def _neutral(rng: random.Random, slots: dict) -> str:
    a, b = rng.sample(slots["name"], k=2)
    sentences = rng.choices(stories.TONES["neutral"]["sentence"], k=3)
    return " ".join(fill(sentence, rng, slots, {"a": a, "b": b}) for sentence in sentences)
