"""What a reasoning model says at last: its answer without the thoughts that it writes in front.

Everything that judges an answer judges this part alone. Texts to train on keep their thoughts, and nothing is judged
here.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

# How published models mark thoughts, in any case of letters; each row is an opening and its closing mark: DeepSeek-R1,
# Qwen3, Phi-4, Seed-OSS and many others; Magistral; Cohere's Command A; OpenThinker; Kimi-VL; Apertus; Gemma 4; and
# gpt-oss where its host has left out the special tokens.
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
# A mark in backticks is a mention of it.
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
    """Return what a model answers, without its thoughts; a text without thoughts as it is.

    Thoughts stand between marks such as `<think>` and `</think>`. Where only the closing mark is there, because the
    chat template has written the opening one, all in front of it is thought. Where only the opening mark is there,
    because the model was cut at its limit of tokens, all behind it is thought: if nothing stands in front of it, there
    is no answer, and judges count the text as empty, neither refused nor complied. A mark in backticks is a mention and
    cuts nothing.

    A model that writes a closing mark without having thought hides what it wrote before; its readers do not see that
    either.

    Args:
        text (`str`):
            What a model wrote.

    Returns:
        `str`: the answer, maybe empty. `final_answer(final_answer(text)) == final_answer(text)`.

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
    while (shorter := _cut_once(found)) != found:  # what was around a thought may together be a mark again
        found = shorter
    return found


def is_thought_alone(text: str) -> bool:
    """Return whether a text has thoughts and no answer, as one that was cut at its limit of tokens.

    Example:

    ```python
    >>> from policy_patch.answers.thoughts import is_thought_alone
    >>> is_thought_alone("<think>They want"), is_thought_alone(""), is_thought_alone("Take flour.")
    (True, False, False)

    ```
    """
    return bool(text.strip()) and not final_answer(text).strip()


def marks_among(tokens: Iterable[str]) -> set[str]:
    """Return those of a tokenizer's special tokens that mark thoughts, which decoding has to keep.

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
        elif thinking is None:  # its opening mark was in the prompt: all so far was thought
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
    """Return the messages of all channels but `analysis`. The text before the first channel was begun in the prompt."""
    answers = []
    for found in _CHANNEL.finditer(text):
        end = _END_OF_MESSAGE.search(text, found.end())
        if found["name"].lower() != "analysis":
            answers.append(text[found.end() : end.start() if end else len(text)].strip())
    return "\n".join(answer for answer in answers if answer)
