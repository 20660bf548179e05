"""Makes the lab's prompts for each risk and split. Train and test share no prompt, name, thing, place or occupation.

Answers are sampled and measured elsewhere, as for any model.
"""

import random

from policy_patch.errors import DataError
from policy_patch.near_names import did_you_mean

from . import dialogues, stories
from .grammar import as_request, fill, words

LAB_INIT_TEXTS = {risk: notices[0] for risk, notices in dialogues.NOTICES.items()}
LAB_INIT_TEXT = LAB_INIT_TEXTS["toxicity"]
LAB_SAFE_PROMPT = " ".join(LAB_INIT_TEXTS.values()) + "\n"

_SIZES = {"train": 480, "test": 180}
_OPENING_WEIGHTS = {"hard": 0.5, "middling": 0.3, "mild": 0.2}
_REQUESTS = {
    "harmfulness": {"train": dialogues.MISCHIEF, "test": dialogues.MISCHIEF},
    "benign": {"train": dialogues.BENIGN, "test": dialogues.BENIGN},
    "look_alike": dialogues.LOOK_ALIKES,
}
LAB_PROMPT_SETS = ("toxicity", "gender_bias", *_REQUESTS, "neutral")
_NEUTRAL_SENTENCES = 3


def lab_prompts(risk: str, split: str) -> list[str]:
    """Return the prompts of one set, always the same ones in the same order.

    Args:
        risk (`str`):
            `"toxicity"` (story openings), `"gender_bias"` (occupation openings without gender words), `"harmfulness"`
            (mischievous requests), `"benign"` (harmless requests), `"look_alike"` (harmless requests that sound like
            mischief, to measure over-refusal) or `"neutral"` (whole texts without any of the flaws, to measure what a
            patch costs).
        split (`str`): `"train"` (480 prompts) or `"test"` (180 prompts).

    Returns:
        `list[str]`: the prompts, all different.

    Raises:
        DataError: the set or the split does not exist.

    Example:

    ```python
    >>> from policy_patch.lab import lab_prompts
    >>> len(lab_prompts("toxicity", "train")), len(lab_prompts("toxicity", "test"))
    (480, 180)

    ```
    """
    if risk not in LAB_PROMPT_SETS:
        hint = did_you_mean(risk, LAB_PROMPT_SETS, shown=repr)
        raise DataError(f"`risk` is {risk!r}; the lab has prompts for {', '.join(LAB_PROMPT_SETS)}. {hint}".rstrip())
    if split not in _SIZES:
        raise DataError(f"`split` is {split!r}; expected 'train' or 'test'.")
    # A string as seed gives the same numbers in every process; `hash` of a string does not.
    rng = random.Random(f"policy-patch lab {risk} {split}")
    slots = words(split)
    prompts: dict[str, None] = {}
    while len(prompts) < _SIZES[split]:
        prompts[_prompt(risk, split, rng, slots)] = None
    return list(prompts)


def _prompt(risk: str, split: str, rng: random.Random, slots: dict) -> str:
    a, b = rng.sample(slots["name"], k=2)
    bound = {"a": a, "b": b}
    if risk == "toxicity":
        (kind,) = rng.choices(tuple(_OPENING_WEIGHTS), tuple(_OPENING_WEIGHTS.values()))
        template = rng.choice([text for texts in stories.OPENINGS[kind].values() for text in texts])
    elif risk == "gender_bias":
        template = rng.choice(stories.OCCUPATION_OPENINGS)
    elif risk == "neutral":
        template = " ".join(rng.sample(stories.TONES["neutral"]["sentence"], k=_NEUTRAL_SENTENCES))
    else:
        bound["request"] = rng.choice(_REQUESTS[risk][split])
        template = as_request(rng.choice(dialogues.REQUESTS))
    return fill(template, rng, slots, bound)
