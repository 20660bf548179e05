"""What a request may ask of an engine while a patch is in it: rules that keep the patch where it was trained.

A field that could cut the prompt, move it, or bring embeddings of the client's own is refused. An unknown field is
refused too, since nobody has looked whether it does. How the patch gets into a request is in `patched_requests.py`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from policy_patch.errors import ServingError
from policy_patch.near_names import did_you_mean
from policy_patch.patch.prompt_embeds import PLACEHOLDER

# Fields of OpenAI's protocol and of vLLM 0.32 and llama.cpp that leave the prompt as it is.
_SAMPLING = {
    "model", "max_tokens", "min_tokens", "temperature", "top_p", "top_k", "min_p", "n", "seed", "stop",
    "stop_token_ids", "frequency_penalty", "presence_penalty", "repetition_penalty", "logit_bias", "logprobs", "stream",
    "stream_options", "user", "ignore_eos", "bad_words", "allowed_token_ids", "include_stop_str_in_output",
    "skip_special_tokens", "spaces_between_special_tokens", "detokenize", "return_tokens_as_token_ids",
    "return_token_ids", "priority", "request_id", "cache_salt", "response_format", "structured_outputs",
    "service_tier", "metadata", "safety_identifier", "prompt_cache_key", "store",
}  # fmt: skip
FIELDS = {
    "completions": _SAMPLING | {"prompt", "best_of"},
    "chat": _SAMPLING
    | {
        "messages", "max_completion_tokens", "top_logprobs", "tools", "tool_choice", "parallel_tool_calls",
        "reasoning_effort", "include_reasoning", "verbosity", "chat_template_kwargs", "add_generation_prompt",
        "continue_final_message", "cache_prompt",
    },
}  # fmt: skip
_REASONS = {
    "prompt_embeds": "embeddings are added by the server alone",
    "echo": "the prompt is embeddings, which the engine cannot echo",
    "suffix": "the engine takes no suffix with embeddings",
    "prompt_logprobs": "the engine gives none for embeddings",
    "truncate_prompt_tokens": "it would cut off the patch",
    "use_beam_search": "it has not been tried with embeddings",
    "add_special_tokens": "a second BOS would move the patch",
    "chat_template": "another template would move the patch, or leave it out",
    "documents": "they have not been tried with a patch",
}
# Names that a chat template of ours or of the base reads; a client could switch the patch with them.
_OWN_KWARGS = {"messages", "bos_token", "eos_token", "patch", "chat_template", "tokenize", "add_special_tokens"}


def check_request(body: Mapping[str, Any], kind: str) -> None:
    """Refuse a request that could change what the patch does, or that brings embeddings.

    Args:
        body (`Mapping[str, Any]`):
            The request, as parsed JSON.
        kind (`str`):
            `"completions"` or `"chat"`.

    Raises:
        ServingError: a field or value that is not allowed; the message names it.
    """
    for name, value in body.items():
        # False switches off what `_REASONS` knows; of an unknown field nobody has looked what False does.
        if name in FIELDS[kind] or value is None or (value is False and name in _REASONS):
            continue
        reason = _REASONS.get(name)
        hint = did_you_mean(name, FIELDS[kind], otherwise="Leave it out.")
        raise ServingError(
            f"`{name}` cannot be given with a patch: {reason}."
            if reason
            else f"`{name}` is not known to leave the patch as it is, so it is refused. {hint}"
        )
    kwargs = body.get("chat_template_kwargs") or {}
    if not isinstance(kwargs, Mapping) or _OWN_KWARGS & {name for name in kwargs if isinstance(name, str)}:
        raise ServingError(f"`chat_template_kwargs` has one of {', '.join(sorted(_OWN_KWARGS))}, or is no object.")
    for name, value in _inside(body):
        if isinstance(name, str) and name.endswith("_embeds"):
            raise ServingError(f"`{name}` cannot be given: embeddings are added by the server alone.")
        if name == "type" and isinstance(value, str) and value.endswith("_embeds"):
            raise ServingError(
                f"A part of the type `{value}` cannot be given: embeddings are added by the server alone."
            )
        if any(isinstance(each, str) and PLACEHOLDER in each for each in (name, value)):
            raise ServingError(
                f"A text has the word `{PLACEHOLDER}` in it, which marks embeddings. Write it otherwise."
            )


def _inside(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every key and value at any depth; places in lists have the key None."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping):
            pairs = list(one.items())
        elif isinstance(one, list | tuple):
            pairs = [(None, each) for each in one]
        else:
            continue
        yield from pairs
        waiting += [each for _, each in pairs if isinstance(each, Mapping | list | tuple)]
