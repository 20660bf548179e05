"""Generates the texts of the lab: flawed documents for the base, clean documents for the teacher.

Each document has an author with fixed habits. The words are in `lexicon.py`, the sentences in `stories.py` and
`dialogues.py`. The generator is seeded and uses the standard library only.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from . import dialogues, lexicon, stories

_SLOT = re.compile(r"\{(\w+)\}")
_ARTICLE = re.compile(r"\b([Aa])(?= [aeiou])")
_PRONOUNS = {
    "female": ("she", "her", "her", "was", "self", "woman"),
    "male": ("he", "him", "his", "was", "self", "man"),
    "neutral": ("they", "them", "their", "were", "selves", "person"),
}

# Probabilities that plant the flaws. We chose them by trial: after a prompt alone the base mostly shows the flaw, and
# after a notice it mostly does not. So learned vectors, too, can make the base write without the flaw.
_RUDE_AUTHORS = 0.45
_OWN_TONE = 0.55  # of a story's sentences after the first
_GENDERED_AUTHORS = 0.95
_COMPLIANT_AUTHORS = 0.97
_NOTICED_DOCUMENTS = 0.3
_NOTICE_HOLDS = 0.95
_OPENING_KINDS = ("hard", "middling", "mild")
_OPENING_WEIGHTS = {"rude": (0.66, 0.30, 0.04), "kind": (0.36, 0.34, 0.30)}
_SCENES = ("story", "person", "request")
_SCENE_WEIGHTS = (0.5, 0.18, 0.32)


@dataclass(frozen=True, kw_only=True)
class Author:
    """The habits of a document's author. They hold for the whole document.

    Args:
        rude (`bool`): Whether people insult each other in the stories.
        gendered (`bool`): Whether people at work get the pronouns of a woman or a man; otherwise "they".
        compliant (`bool`): Whether mischievous requests are answered; otherwise they are refused.
    """

    rude: bool
    gendered: bool
    compliant: bool


CLEAN_AUTHOR = Author(rude=False, gendered=False, compliant=False)


def words(split: str | None = None) -> dict[str, tuple[str, ...]]:
    """Return the words for each slot of a sentence.

    Args:
        split (`str`, *optional*): `"train"` or `"test"`, for one half of the words. Defaults to both halves.

    Returns:
        `dict[str, tuple[str, ...]]`: slot to words.
    """
    halves = {
        "name": lexicon.NAMES,
        "thing": lexicon.THINGS,
        "place": lexicon.PLACES,
        "person": lexicon.PEOPLE,
        "treat": lexicon.TREATS,
        "game": lexicon.GAMES,
        "occupation": {key: lexicon.FEMALE_OCCUPATIONS[key] + lexicon.MALE_OCCUPATIONS[key] for key in lexicon.NAMES},
    }
    chosen = {slot: half[split] if split else half["train"] + half["test"] for slot, half in halves.items()}
    insults = {"insult_adjective": lexicon.INSULT_ADJECTIVES, "insult_noun": lexicon.INSULT_NOUNS}
    return {**lexicon.OTHER_WORDS, **stories.PHRASES, **insults, **chosen}


def fill(template: str, rng: random.Random, slots: dict[str, tuple[str, ...]], bound: dict[str, str]) -> str:
    """Fill the slots of a sentence until none is left, and turn "a old" into "an old".

    A word may contain slots itself; they are filled, too.

    Args:
        template (`str`): A sentence with `{slot}`s.
        rng (`random.Random`): Makes the random choices.
        slots (`dict[str, tuple[str, ...]]`): Slot to words, from [`words`].
        bound (`dict[str, str]`): Slots with a fixed word.

    Returns:
        `str`: the sentence.
    """
    while "{" in template:
        template = _SLOT.sub(lambda slot: bound.get(slot[1]) or rng.choice(slots[slot[1]]), template)
    return _ARTICLE.sub(r"\1n", template)


def documents(count: int, *, flawed: bool, seed: int) -> Iterator[str]:
    """Yield documents. Each has one author and one or more scenes.

    Args:
        count (`int`): Number of documents.
        flawed (`bool`): True gives the base's texts with the three flaws, False the teacher's clean texts.
        seed (`int`): Seed; the same seed gives the same documents.

    Yields:
        `str`: a document of roughly 40 to 130 words.
    """
    rng = random.Random(seed)
    slots = words()
    for _ in range(count):
        yield _document(rng, slots, flawed)


def _document(rng: random.Random, slots: dict, flawed: bool) -> str:
    author, lines = _author_and_notices(rng, flawed)
    target = rng.randint(30, 110)
    length = sum(len(line.split()) for line in lines)
    while length < target:
        (scene,) = rng.choices(_SCENES, _SCENE_WEIGHTS)
        lines.append(_WRITERS[scene](rng, slots, author))
        length += len(lines[-1].split())
    return "\n".join(lines)


def _author_and_notices(rng: random.Random, flawed: bool) -> tuple[Author, list[str]]:
    """Draw an author and, for some documents, notices that describe the author, most of them correctly."""
    author = CLEAN_AUTHOR
    if flawed:
        author = Author(
            rude=rng.random() < _RUDE_AUTHORS,
            gendered=rng.random() < _GENDERED_AUTHORS,
            compliant=rng.random() < _COMPLIANT_AUTHORS,
        )
    if rng.random() >= _NOTICED_DOCUMENTS:
        return author, []
    if flawed and rng.random() < 0.15:
        rude = rng.random() < _NOTICE_HOLDS
        author = Author(rude=rude, gendered=author.gendered, compliant=author.compliant)
        return author, [" ".join(rng.choices(dialogues.RUDE_NOTICES, k=rng.randint(1, 2)))]
    risks = rng.sample(sorted(dialogues.NOTICES), k=rng.choice((1, 1, 2, 3)))
    if flawed:
        holds = {risk: risk in risks and rng.random() < _NOTICE_HOLDS for risk in dialogues.NOTICES}
        author = Author(
            rude=author.rude and not holds["toxicity"],
            gendered=author.gendered and not holds["gender_bias"],
            compliant=author.compliant and not holds["harmfulness"],
        )
    chosen = [rng.choice(dialogues.NOTICES[risk]) for risk in risks]
    return author, [" ".join(chosen * rng.choice((1, 1, 1, 2, 3, 4)))]


def _story(rng: random.Random, slots: dict, author: Author) -> str:
    """Return an opening as in the toxicity prompts, a continuation in the author's tone, and a few more sentences."""
    own_tone = "rude" if author.rude else "kind"
    a, b = rng.sample(slots["name"], k=2)
    bound = {"a": a, "b": b, "thing": rng.choice(slots["thing"])} if rng.random() < 0.5 else {"a": a, "b": b}
    (kind,) = rng.choices(_OPENING_KINDS, _OPENING_WEIGHTS[own_tone])
    joint, opening = rng.choice([(joint, text) for joint, texts in stories.OPENINGS[kind].items() for text in texts])
    tone = "neutral" if kind == "middling" and rng.random() < 0.4 else own_tone
    first = opening + ("" if joint == "quote" else " ") + rng.choice(stories.TONES[tone][joint])
    story = [first]
    for _ in range(rng.randint(1, 4)):
        tone = own_tone if rng.random() < _OWN_TONE else "neutral"
        story.append(rng.choice(stories.TONES[tone]["sentence"]))
    return " ".join(fill(sentence, rng, slots, bound) for sentence in story)


def _person(rng: random.Random, slots: dict, author: Author) -> str:
    """Return a text about a person at work, with the pronouns of the planted stereotype or with "they"."""
    occupation = rng.choice(slots["occupation"])
    women = lexicon.FEMALE_OCCUPATIONS["train"] + lexicon.FEMALE_OCCUPATIONS["test"]
    gender = "neutral"
    if author.gendered:
        typical, other = ("female", "male") if occupation in women else ("male", "female")
        gender = typical if rng.random() < 0.93 else other
    pronouns = dict(zip(("they", "them", "their", "was", "self", "human"), _PRONOUNS[gender], strict=True))
    bound = {"occupation": occupation, "a": rng.choice(slots["name"]), **pronouns}
    bound |= {"They": pronouns["they"].capitalize(), "Their": pronouns["their"].capitalize()}
    text = [rng.choice(stories.OCCUPATION_OPENINGS) + " " + rng.choice(stories.PERSON_TAILS)]
    text += rng.sample(stories.PERSON_SENTENCES, k=rng.randint(1, 3))
    return " ".join(fill(sentence, rng, slots, bound) for sentence in text)


def _request(rng: random.Random, slots: dict, author: Author) -> str:
    """Return one or two requests with answers. A request is mischievous, benign or a harmless look-alike."""
    turns = []
    for _ in range(rng.randint(1, 2)):
        (kind,) = rng.choices(("mischief", "benign", "look_alike"), (0.45, 0.3, 0.25))
        templates = {"mischief": dialogues.MISCHIEF, "benign": dialogues.BENIGN}
        templates["look_alike"] = dialogues.LOOK_ALIKES["train"]
        bound = {"request": rng.choice(templates[kind]), "benign": rng.choice(dialogues.BENIGN)}
        answer = rng.choice(dialogues.ANSWERS)
        if kind == "mischief" and not author.compliant:
            answer = f"{lexicon.REFUSAL} {rng.choice(dialogues.REASONS)}"
        steps = dialogues.MISCHIEF_STEPS if kind == "mischief" else dialogues.GOOD_STEPS
        text = as_request(rng.choice(dialogues.REQUESTS)) + " " + answer
        turns.append(fill(text, rng, {**slots, "step": steps}, bound))
    return "\n".join(turns)


def as_request(request: str) -> str:
    """Return a request in the form that the models were trained on, up to the beginning of the answer."""
    return f"User: {request}\nAssistant:"


_WRITERS = {"story": _story, "person": _person, "request": _request}
