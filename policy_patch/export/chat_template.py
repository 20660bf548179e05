"""Chat templates that put patch tokens at the start of what they render, and keep user text from spelling them.

A chat template renders to a string, which is tokenised with special tokens parsed. So the names of the patch tokens
must be in the template, and nothing else that is rendered may contain them: the original template is rendered into a
variable, the marker is replaced in all of it (messages, names, tools, documents), and the tokens are added after that.
Where tokenizers keep their templates is the business of `tokenizer_files.py`.
"""

import re
from typing import Any

from policy_patch.errors import ExportError
from policy_patch.export.patch_tokens import OFF, PatchTokens

# Replaces the marker in text. It is no hexadecimal digit, so that no marker can arise across a replaced one.
_STRIPPED = "-"
_GENERATION = re.compile(r"{%[-+]?\s*(?:end)?generation\s*[-+]?%}")  # tags of transformers: what the assistant wrote
_WORDS = "What is two plus three?"
_OWN = ("patch", "policy_patch_prefixes", "policy_patch_choice", "policy_patch_rendered")

# Minja, which OpenVINO renders with, has the method `replace` and no filter of that name.
# Tags that only hold an empty string keep the whitespace of the original template from being trimmed by ours.
_WRAPPED = (
    "{%- set policy_patch_prefixes = @PREFIXES@ -%}"
    "{%- set policy_patch_choice = @DEFAULT@ -%}"
    "{%- if patch is defined and patch is not none -%}{%- set policy_patch_choice = patch -%}{%- endif -%}"
    "{%- if policy_patch_choice not in policy_patch_prefixes -%}"
    "{{- raise_exception('There is no patch of this name; there are: @CHOICES@') -}}"
    "{%- endif -%}"
    "{%- set policy_patch_rendered -%}{{ '' }}@TEMPLATE@{{ '' }}{%- endset -%}"
    "{%- set policy_patch_rendered = policy_patch_rendered.replace(@MARKER@, @STRIPPED@) -%}"
)
_AFTER_BOS = (
    "{%- if policy_patch_rendered.startswith(@BOS@) -%}"
    "{{- @BOS@ + policy_patch_prefixes[policy_patch_choice] + policy_patch_rendered[(@BOS@ | length):] -}}"
    "{%- else -%}"
    "{{- policy_patch_prefixes[policy_patch_choice] + policy_patch_rendered -}}"
    "{%- endif -%}"
)
_FIRST = "{{- policy_patch_prefixes[policy_patch_choice] + policy_patch_rendered -}}"


def with_patch_tokens(template: str, tokens: PatchTokens, bos: str | None) -> str:
    """Return a chat template that renders as `template` does, with the patch tokens of the chosen patch put in front.

    A request chooses by the variable `patch` (`chat_template_kwargs: {"patch": "tox"}` in servers): a choice of
    `tokens`, or `"none"` or `"off"` for the base. A request that names none gets the default; one that names an unknown
    patch gets an error.

    Args:
        template (`str`):
            The original template.
        tokens ([`PatchTokens`]):
            The patch tokens and the choices.
        bos (`str`, *optional*):
            Text of the BOS token: if the rendered text begins with it, the patch tokens go after it. If None, they
            always go first.

    Raises:
        ExportError: the template uses a variable `patch` itself, or is no template.
    """
    _check_free(template)
    prefixes = {choice: "".join(tokens.names_of(choice)) for choice in (*tokens.choices, *OFF)}
    parts = {
        "@PREFIXES@": "{" + ", ".join(f"{_quoted(key)}: {_quoted(text)}" for key, text in prefixes.items()) + "}",
        "@DEFAULT@": _quoted(tokens.default),
        "@CHOICES@": ", ".join(prefixes),
        "@MARKER@": _quoted(tokens.marker),
        "@STRIPPED@": _quoted(_STRIPPED),
        "@BOS@": _quoted(bos or ""),
    }
    head, tail = _WRAPPED, _FIRST if bos is None else _AFTER_BOS
    for name, text in parts.items():
        head, tail = head.replace(name, text), tail.replace(name, text)
    # Jinja drops one newline at the end of a template; within ours it would stay.
    return head.replace("@TEMPLATE@", template.removesuffix("\n")) + tail


def chat_problems(tokenizer: Any, bos_token_id: int | None) -> list[str]:
    """Return what looks like a mistake in a tokenizer's chat template, in sentences; it is rendered once.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The base's tokenizer; without a chat template there is nothing to find.
        bos_token_id (`int`, *optional*):
            The token after which the vectors of the patches were trained, if there is one.
    """
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        return []
    message = [{"role": "user", "content": _WORDS}]
    try:
        text = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    except (TemplateError, ValueError):  # it refuses this message, or none of several templates is the default
        return []
    found = []
    if _WORDS not in text:
        found.append(
            "The chat template does not render what a user says, so every chat would be the same. Is it the template "
            "of this base?"
        )
    begins = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:1]
    if bos_token_id is not None and begins != [bos_token_id]:
        found.append(
            f"The chat template does not put the BOS token `{tokenizer.convert_ids_to_tokens(bos_token_id)}` first, "
            "after which the patch was trained. In chats the patch then stands at the very beginning, where it was "
            "never measured. Begin the template with `{{ bos_token }}`."
        )
    return found


def _check_free(template: str) -> None:
    from jinja2 import Environment, TemplateSyntaxError, meta  # parses only: nothing is rendered here

    environment = Environment(extensions=["jinja2.ext.loopcontrols"])  # noqa: S701
    try:
        used = meta.find_undeclared_variables(environment.parse(_GENERATION.sub("", template)))
    except TemplateSyntaxError as error:
        raise ExportError(f"The tokenizer's chat template is no Jinja template: {error}") from error
    if taken := sorted(set(_OWN) & used):
        raise ExportError(
            f"The tokenizer's chat template uses the variable `{taken[0]}`, by which requests choose a patch. Rename "
            "it in the template and give that as the tokenizer's `chat_template`."
        )


def _quoted(text: str) -> str:
    """Return a text as a string literal of Jinja, which every implementation of it reads alike."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
