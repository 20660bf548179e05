"""The chat template with which vLLM puts the vectors of a request right after BOS, proved by rendering conversations.

vLLM renders the template with a word in place of the vectors, tokenises it, and replaces the word's token. So the word
has to be rendered at that place and nowhere else; a template that puts it elsewhere serves wrong text without an error.
Templates for baked checkpoints are in `chat_template.py`.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from policy_patch.errors import ExportError
from policy_patch.patch.prompt_embeds import PLACEHOLDER, Stack

# A message of the role `system` that begins with the word carries the vectors. vLLM joins it with a system message of
# the user by an empty line where it rewrites the role `developer` (`_consolidate_system_messages` in renderers/hf.py).
# Tags that only hold an empty string keep the whitespace of the original template from being trimmed.
_HEAD = """\
{#- Written by policy-patch: vectors that a request carries in its first message go right after BOS. -#}
{%- set policy_patch_word = '@WORD@' -%}
{%- set policy_patch_given = messages and messages[0]['role'] == 'system' and messages[0]['content'] is string and \
messages[0]['content'].startswith(policy_patch_word) -%}
{%- if policy_patch_given -%}
{%- set policy_patch_rest = messages[0]['content'][(policy_patch_word | length):] -%}
{%- if policy_patch_rest == '' -%}
{%- set messages = messages[1:] -%}
{%- elif policy_patch_rest.startswith('\\n\\n') -%}
{%- set messages = [{'role': 'system', 'content': policy_patch_rest[2:]}] + messages[1:] -%}
{%- else -%}
{{- raise_exception('The message with the vectors has other text in it.') -}}
{%- endif -%}
{%- endif -%}
{%- set policy_patch_rendered -%}{{ '' }}"""
_TAIL = """{{ '' }}{%- endset -%}
{%- if policy_patch_word in policy_patch_rendered -%}
{{- raise_exception('Vectors are taken at the start of the first message only.') -}}
{%- endif -%}
"""
_PLAIN = "{%- if not policy_patch_given -%}{{- policy_patch_rendered -}}"
_AFTER_BOS = (
    _PLAIN + "{%- elif policy_patch_rendered.startswith(@BOS@) -%}"
    "{{- @BOS@ + policy_patch_word + policy_patch_rendered[(@BOS@ | length):] -}}"
    "{%- else -%}{{- policy_patch_word + policy_patch_rendered -}}{%- endif -%}"
)
_FIRST = _PLAIN + "{%- else -%}{{- policy_patch_word + policy_patch_rendered -}}{%- endif -%}"

_USER, _ANSWER = {"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": " I am a test."}
_SYSTEM = {"role": "system", "content": "Be brief.\nBe kind."}
# Conversations that the proof renders; those that the base's own template refuses are left out.
_CONVERSATIONS = ([_USER], [_SYSTEM, _USER], [_USER, _ANSWER, _USER], [_SYSTEM, _USER, _ANSWER, _USER])


def vllm_chat_template(tokenizer: Any, stack: Stack, template: str | None = None) -> str:
    """Return the chat template for vLLM, after proving it.

    The proof renders four conversations, with and without a generation prompt, as vLLM does. With the vectors' word,
    the token ids must be those of the base's own template with one id more, at the place where the patch was trained;
    without it, they must be the base's own.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The base's tokenizer. Not changed.
        stack ([`Stack`]):
            Says where the vectors go.
        template (`str`, *optional*):
            The base's chat template. Defaults to the tokenizer's own.

    Raises:
        ExportError: there is no template, it loops over parts of a message's content, or the proof failed.
    """
    original = _own_template(tokenizer) if template is None else template
    if original is None:
        raise ExportError(
            "The tokenizer has no chat template, so there is no chat to put a patch into. Give one: "
            "`--set chat_template=FILE`, or leave chat out: `--set chat=false`."
        )
    check_no_loop_over_parts(original)
    bos = tokenizer.bos_token if stack.placement == "after_bos" and stack.bos_token_id is not None else None
    found = wrapped(original, bos)
    prove(tokenizer, original, found, stack)
    return found


def wrapped(original: str, bos: str | None) -> str:
    """Return a template that renders as `original`, with the vectors' word after `bos`, or first if that is None."""
    quoted = "'" + (bos or "").replace("\\", "\\\\").replace("'", "\\'") + "'"
    tail = _TAIL + (_FIRST if bos is None else _AFTER_BOS.replace("@BOS@", quoted))
    # Jinja drops one newline at the end of a template; within ours it would stay.
    return _HEAD.replace("@WORD@", PLACEHOLDER) + original.removesuffix("\n") + tail


def prove(tokenizer: Any, original: str, found: str, stack: Stack) -> None:
    """Raise `ExportError` unless `found` puts the vectors' word where the patch was trained, and is else `original`.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The base's.
        original, found (`str`):
            The base's own template, and the one for vLLM.
        stack ([`Stack`]):
            Says where the vectors go.
    """
    servers = copy.deepcopy(tokenizer)
    servers.add_special_tokens({"additional_special_tokens": [PLACEHOLDER]})
    [word] = servers.encode(PLACEHOLDER, add_special_tokens=False)
    proved = 0
    for messages, with_prompt, expected in _rendered(tokenizer, original):
        start = stack.starts_at(expected)
        carried = {"role": "system", "content": PLACEHOLDER}
        variants = [([carried, *messages], [*expected[:start], word, *expected[start:]]), (messages, expected)]
        if messages[0]["role"] == "system":  # as vLLM joins the two where it rewrites the role `developer`
            joined = {"role": "system", "content": f"{PLACEHOLDER}\n\n{messages[0]['content']}"}
            variants.append(([joined, *messages[1:]], variants[0][1]))
        for sent, wanted in variants:
            if _ids(servers, found, sent, with_prompt) != wanted:
                raise ExportError(
                    "The chat template for vLLM could not be proved: with the vectors it renders other tokens than the "
                    "base's own template with the vectors "
                    f"{'right after BOS' if start else 'in front'}. Bake the patch instead: `policy-patch bake`."
                )
            proved += 1
    if not proved:
        raise ExportError("The base's own chat template renders none of the four conversations of the proof.")


def check_no_loop_over_parts(template: str) -> None:
    """Refuse a template that loops over the parts of a message's content.

    vLLM takes such a loop as a sign that contents are lists, and gives it one in place of a text; the vectors then land
    in a printed list, and the server answers wrong text without an error.

    Raises:
        ExportError: there is such a loop, or the template is no Jinja template.
    """
    from jinja2 import nodes

    for loop in _parsed(template).find_all(nodes.For):
        words = {node.name for node in loop.iter.find_all(nodes.Name)} | {
            getattr(node, "attr", None) or getattr(getattr(node, "arg", None), "value", None)
            for node in (*loop.iter.find_all(nodes.Getattr), *loop.iter.find_all(nodes.Getitem))
        }
        if isinstance(loop.iter, nodes.Name):
            words.add(loop.iter.name)
        if isinstance(loop.iter, nodes.Getitem | nodes.Getattr):
            words.add(getattr(loop.iter, "attr", None) or getattr(getattr(loop.iter, "arg", None), "value", None))
        if "content" in words or words & _macro_parameters(template):
            raise ExportError(
                f"The base's chat template loops over the parts of a message's content (line {loop.lineno}); vLLM "
                "would then render lists, and the vectors would land in their text. Give a template that prints the "
                "content as a text: `--set chat_template=FILE`; or bake the patch: `policy-patch bake`."
            )


def _macro_parameters(template: str) -> set[str]:
    from jinja2 import nodes

    return {argument.name for macro in _parsed(template).find_all(nodes.Macro) for argument in macro.args}


def _parsed(template: str) -> Any:
    from jinja2 import TemplateSyntaxError
    from transformers.utils.chat_template_utils import _compile_jinja_template

    try:
        return _compile_jinja_template(template).environment.parse(template)
    except TemplateSyntaxError as error:
        raise ExportError(f"The chat template is no Jinja template: {error}") from error


def _own_template(tokenizer: Any) -> str | None:
    own = getattr(tokenizer, "chat_template", None)
    return own.get("default") if isinstance(own, dict) else own


def _rendered(tokenizer: Any, template: str) -> Iterator[tuple[list[dict[str, str]], bool, list[int]]]:
    from jinja2 import TemplateError

    for messages in _CONVERSATIONS:
        for with_prompt in (True, False):
            try:
                yield list(messages), with_prompt, _ids(tokenizer, template, messages, with_prompt)
            except TemplateError:  # such as one that takes no system message
                continue


def _ids(tokenizer: Any, template: str, messages: Sequence[dict[str, str]], with_prompt: bool) -> list[int]:
    text = tokenizer.apply_chat_template(
        list(messages), chat_template=template, add_generation_prompt=with_prompt, tokenize=False
    )
    return tokenizer(text, add_special_tokens=False)["input_ids"]
