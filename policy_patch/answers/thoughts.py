"""Separates the answer of a reasoning model from the thoughts that it writes first.

Scorers and judges see the answer only. Training texts keep their thoughts, and nothing is judged here.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

# How published models mark thoughts, in upper or lower case; each row has an opening and a closing mark: DeepSeek-R1,
# Qwen3, Phi-4, Seed-OSS and many others; Magistral; Cohere's Command A; OpenThinker; Kimi-VL; Apertus; Gemma 4; and
# gpt-oss if its host removes the special tokens.
_NAMES = r"(?:[a-z]+:)?(?:think|thinking|thoughts?|reasoning|reflection|scratchpad)"
_KINDS = (
    (rf"<\|?{_NAMES}(?:\s[^<>\n]*)?\|?>", rf"<\|?/{_NAMES}\s*\|?>"),
    (r"\[THINK\]", r"\[/THINK\]"),
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    (r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),
    (r"<\|channel>thought", r"<channel\|>"),
    (r"\A\s*(?-i:analysis(?=[A-Z]))", r"(?-i:assistant(?:final|commentary))"),
)
# A mark in backticks is quoted and marks nothing.
_MARK = re.compile(
    "|".join(
        f"(?<!`)(?:(?P<open{number}>{begin})|(?P<close{number}>{end}))" for number, (begin, end) in enumerate(_KINDS)
    ),
    re.IGNORECASE,
)

# gpt-oss ("harmony"): `<|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...`.
_CHANNEL = re.compile(r"<\|channel\|>\s*+(?P<name>\w*+)[^<]*+(?:<\|message\|>|\Z)")
_END_OF_MESSAGE = re.compile(r"<\|(?:start|end|return|call|channel)\|>")

_CHANNEL_TOKENS = {"<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|return|>", "<|call|>"}
_PARTS_OF_MARKS = {"<|channel>", "<channel|>"}


def final_answer(text: str) -> str:
    """Return a model's answer without its thoughts. A text without thoughts is returned unchanged.

    Thoughts stand between marks such as `<think>` and `</think>`. If only the closing mark is there, because the chat
    template wrote the opening one, everything before it is thought. If only the opening mark is there, because the
    model was cut at its token limit, everything after it is thought; if nothing precedes it, there is no answer, and
    judges count the text as empty: neither refused nor complied. A mark in backticks is quoted and cuts nothing.

    A model that writes a closing mark without an opening one hides the text before it, here as in a chat window.

    Args:
        text (`str`):
            The text that a model wrote.

    Returns:
        `str`: the answer; it may be empty. `final_answer(final_answer(text)) == final_answer(text)`.

    Example:

    ```python
    >>> from policy_patch.answers.thoughts import final_answer
    >>> final_answer("<think>I cannot see a problem.</think>\\n\\nTake flour and water.")
    'Take flour and water.'
    >>> final_answer("They want bread. That is fine.</think>Take flour."), final_answer("<think>They want")
    ('Take flour.', '')

    ```
    """
    found = text
    while (shorter := _cut_once(found)) != found:  # removing a thought may join the text around it into a new mark
        found = shorter
    return found


def is_thought_alone(text: str) -> bool:
    """Return whether a text has thoughts but no answer, for example because it was cut at the token limit.

    Example:

    ```python
    >>> from policy_patch.answers.thoughts import is_thought_alone
    >>> is_thought_alone("<think>They want"), is_thought_alone(""), is_thought_alone("Take flour.")
    (True, False, False)

    ```
    """
    return bool(text.strip()) and not final_answer(text).strip()


def marks_among(tokens: Iterable[str]) -> set[str]:
    """Return the special tokens that mark thoughts. Decoding has to keep these.

    Example:

    ```python
    >>> from policy_patch.answers.thoughts import marks_among
    >>> sorted(marks_among(["[THINK]", "[/THINK]", "</s>", "<|end|>"])), len(marks_among(["<|channel|>", "<|end|>"]))
    (['[/THINK]', '[THINK]'], 2)

    ```
    """
    tokens = set(tokens)
    known = _PARTS_OF_MARKS | (_CHANNEL_TOKENS if "<|channel|>" in tokens else set())
    return {token for token in tokens if token in known or _MARK.fullmatch(token)}


def _cut_once(text: str) -> str:
    if _CHANNEL.search(text):
        return _without_channels(text)
    parts, thinking, begin, cut = [], None, 0, False
    for mark in _marks(text):
        if thinking is None and mark.opens:
            parts.append(text[begin : mark.start])
            thinking, cut = mark.kind, True
        elif thinking is None:  # the opening mark was in the prompt: everything so far was thought
            parts, begin, cut = [], mark.end, True
        elif not mark.opens and mark.kind == thinking:
            thinking, begin = None, mark.end
    if not cut:
        return text
    if thinking is None:
        parts.append(text[begin:])
    return "\n".join(part for part in (part.strip() for part in parts) if part)


class _Mark(NamedTuple):
    kind: str
    opens: bool
    start: int
    end: int


def _marks(text: str) -> Iterator[_Mark]:
    for found in _MARK.finditer(text):
        group = found.lastgroup or ""
        kind = group.removeprefix("open").removeprefix("close")
        if kind == "0":  # many names: `</reflection>` within `<think>` ends no thought
            kind = re.sub(r"[^a-z]", "", found[0].split()[0].lower())
        yield _Mark(kind, group.startswith("open"), *found.span())


def _without_channels(text: str) -> str:
    """Return the messages of all channels except `analysis`. Text before the first channel began in the prompt."""
    answers = []
    for found in _CHANNEL.finditer(text):
        end = _END_OF_MESSAGE.search(text, found.end())
        if found["name"].lower() != "analysis":
            answers.append(text[found.end() : end.start() if end else len(text)].strip())
    return "\n".join(answer for answer in answers if answer)
