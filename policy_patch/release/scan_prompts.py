"""The texts that a scan asks: requests, harmless look-alikes, provocations, people at work, and neutral text.

All are our own and mild. Every prompt has endings in pairs, a worse and a better one; `scan_signals.py` measures how
likely a model finds them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from policy_patch.errors import DataError
from policy_patch.files.documents import parse_json

SETS = ("requests", "look_alikes", "provocations", "people", "genders")
PLAIN_TEMPLATE = "User: {prompt}\nAssistant:"  # for a tokenizer without a chat template


@dataclass(frozen=True)
class Contrast:
    """A prompt with worse and better endings.

    Args:
        prompt (`str`):
            The text that a model would continue.
        worse (`tuple[str, ...]`):
            Beginnings of answers that a patch should not make likelier.
        better (`tuple[str, ...]`):
            Beginnings of the answers that they are compared with.
    """

    prompt: str
    worse: tuple[str, ...]
    better: tuple[str, ...]


@dataclass(frozen=True)
class ScanPrompts:
    """All texts of a scan. [`english_prompts`] and [`lab_scan_prompts`] return the built-in ones.

    Args:
        name (`str`):
            Name and version of the texts, shown with each verdict.
        requests (`tuple[Contrast, ...]`):
            Requests that a good model refuses; the worse ending complies.
        look_alikes (`tuple[Contrast, ...]`):
            Harmless requests with similar words; the worse ending refuses.
        provocations (`tuple[Contrast, ...]`):
            Openings of stories and comments; the worse ending is rude.
        people (`tuple[Contrast, ...]`):
            Sentences about people at work; the worse ending is the pronoun of the stereotype.
        genders (`tuple[Contrast, ...]`):
            The same sentences; the worse ending is any pronoun with a gender, the better one is "they".
        neutral (`tuple[str, ...]`):
            Texts whose likelihood should hardly change.
        rude_words (`tuple[str, ...]`):
            Words that count as rude in sampled answers.
        instructions (`tuple[str, ...]`):
            Parts of sentences that ask a model to misbehave. They are looked for in what the vectors read like.
        are_requests_complete (`bool`, *optional*, defaults to `False`):
            Whether requests already have the form of a dialogue, so that no template is put around them.
    """

    name: str
    requests: tuple[Contrast, ...]
    look_alikes: tuple[Contrast, ...]
    provocations: tuple[Contrast, ...]
    people: tuple[Contrast, ...]
    genders: tuple[Contrast, ...]
    neutral: tuple[str, ...]
    rude_words: tuple[str, ...] = ()
    instructions: tuple[str, ...] = field(default=())
    are_requests_complete: bool = False

    def __post_init__(self) -> None:
        empty = [name for name in (*SETS, "neutral") if len(getattr(self, name)) < 2]
        if empty:
            raise DataError(f"The scan's texts `{self.name}` have fewer than 2 {', '.join(empty)}; give more.")


def english_prompts() -> ScanPrompts:
    """Return the built-in English texts, for models of every kind."""
    text = resources.files("policy_patch.release").joinpath("prompts", "english.json").read_text("utf-8")
    return _prompts_of(parse_json(text))


def rendered(prompts: ScanPrompts, tokenizer: Any, template: str | None = None) -> ScanPrompts:
    """Return the texts with each request in the form in which the model expects one.

    Args:
        prompts ([`ScanPrompts`]):
            The texts.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The base's tokenizer. Its chat template is used if it has one.
        template (`str`, *optional*):
            A text with `{prompt}` in place of the request. Defaults to the chat template, or else to
            `"User: {prompt}\\nAssistant:"`.

    Raises:
        DataError: `template` has no `{prompt}`.
    """
    if template is not None and "{prompt}" not in template:
        raise DataError(f"`template={template!r}`: expected a text with `{{prompt}}` in place of the request.")
    if prompts.are_requests_complete:
        return prompts

    def asked(contrasts: tuple[Contrast, ...]) -> tuple[Contrast, ...]:
        return tuple(Contrast(_asked(each.prompt, tokenizer, template), each.worse, each.better) for each in contrasts)

    values = {name: getattr(prompts, name) for name in prompts.__dataclass_fields__}
    values |= {name: asked(values[name]) for name in ("requests", "look_alikes")}
    return ScanPrompts(**values | {"are_requests_complete": True})


def joined(prompt: str, ending: str) -> str:
    """Return an ending as it stands after a prompt: with a space, unless the prompt ends in a space or a quote."""
    return ending if prompt[-1:].isspace() or prompt.endswith('"') else " " + ending


def _asked(prompt: str, tokenizer: Any, template: str | None) -> str:
    if template is None and getattr(tokenizer, "chat_template", None):
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        bos = tokenizer.bos_token
        adds_bos = bos is not None and list(tokenizer("")["input_ids"][:1]) == [tokenizer.bos_token_id]
        return text.removeprefix(bos) if adds_bos else text  # the tokenizer adds it again
    return (template or PLAIN_TEMPLATE).replace("{prompt}", prompt)


def _prompts_of(values: Mapping[str, Any]) -> ScanPrompts:
    sets = {
        name: tuple(
            Contrast(prompt, tuple(group["worse"]), tuple(group["better"]))
            for group in groups
            for prompt in group["prompts"]
        )
        for name, groups in values["sets"].items()
    }
    lists = {name: tuple(values[name]) for name in ("neutral", "rude_words", "instructions")}
    return ScanPrompts(name=values["name"], **sets, **lists)
