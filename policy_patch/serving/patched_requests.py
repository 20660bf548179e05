"""Puts a patch into a request: as embeddings for vLLM, or by its name for a checkpoint with the patches baked in.

Which fields a request may have is in `request_rules.py`. Nothing is sent here.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from policy_patch.base.served_base import ServedBase
from policy_patch.errors import ServingError
from policy_patch.patch.prompt_embeds import Stack, encoded_embeds
from policy_patch.serving.request_rules import check_request

# Prompts of one request; vLLM itself takes 2,048 at most. Our choice, as each may be megabytes of embeddings.
MOST_PROMPTS = 64
# Tokens of all prompts of one request: at 4096 numbers in bf16 they are 0.5 GB of embeddings. Our choice.
MOST_TOKENS = 65_536


def patched_completion(
    body: Mapping[str, Any],
    stack: Stack,
    base: ServedBase,
    encode: Callable[[torch.Tensor], str] = lambda embeds: encoded_embeds(embeds).decode(),
) -> dict[str, Any]:
    """Return a request to `/completions` whose prompts are embeddings with the stack in them.

    Args:
        body (`Mapping[str, Any]`):
            The request: `prompt` is a text, a list of ids, or a list of those.
        stack ([`Stack`]):
            The patches.
        base ([`ServedBase`]):
            Its tokenizer and token embeddings. An engine takes either ids or embeddings for a whole prompt, so the
            tokens' own embeddings are sent along.
        encode (`Callable[[torch.Tensor], str]`, *optional*):
            Returns what stands in the request for embeddings `(length, hidden_size)`.

    Raises:
        ServingError: a field that is not allowed, no prompt, or prompts that are too long.
        ModelLoadError: an id that the base does not have.
    """
    check_request(body, "completions")
    prompts = [base.ids(prompt) for prompt in _prompts(body.get("prompt"))]
    _check_length(prompts, stack, base)
    embeds = [encode(stack.embedded(ids, base.rows)) for ids in prompts]
    # `prompt: ""` would be a second, empty prompt for vLLM.
    return {**body, "prompt": None, "prompt_embeds": embeds[0] if len(embeds) == 1 else embeds}


def _check_length(prompts: Sequence[Sequence[int]], stack: Stack, base: ServedBase) -> None:
    """Refuse prompts that the base has no positions for, before their embeddings fill the memory."""
    positions = getattr(base.config.get_text_config(), "max_position_embeddings", None)
    longest, total = max(map(len, prompts)), sum(map(len, prompts))
    if positions is not None and longest + len(stack.vectors) > positions:
        raise ServingError(
            f"A prompt has {longest:,} tokens and {len(stack.vectors)} vectors; the base has {positions:,} positions."
        )
    if total > MOST_TOKENS:
        raise ServingError(f"The prompts have {total:,} tokens; expected at most {MOST_TOKENS:,} in one request.")


def _prompts(prompt: Any) -> list[str | list[int]]:
    if isinstance(prompt, str):
        return [prompt]
    many = prompt if isinstance(prompt, list) else []
    if many and all(type(each) is int for each in many):
        return [many]
    fits = bool(many) and all(
        isinstance(each, str) or (isinstance(each, list) and each and all(type(one) is int for one in each))
        for each in many
    )
    if not fits or len(many) > MOST_PROMPTS:
        raise ServingError(
            f"`prompt` has to be a text, a list of token ids, or a list of 1 to {MOST_PROMPTS} of those."
        )
    return list(many)


def patched_chat(body: Mapping[str, Any], message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request to `/chat/completions` with the message that carries a stack before all others.

    Args:
        body (`Mapping[str, Any]`):
            The request.
        message (`Mapping[str, Any]`):
            [`Stack.chat_message`].

    Raises:
        ServingError: a field that is not allowed, or no messages.
    """
    check_request(body, "chat")
    return {**body, "messages": [message, *_messages(body)]}


def baked_chat(body: Mapping[str, Any], choice: str) -> dict[str, Any]:
    """Return a request to `/chat/completions` of a checkpoint with patches baked in, of which one is chosen by name.

    Raises:
        ServingError: as [`patched_chat`], or the last message is the assistant's: llama.cpp writes such a message after
            what the chat template renders, so the template cannot keep names of patch tokens out of it.
    """
    check_request(body, "chat")
    if _messages(body)[-1].get("role") == "assistant":
        raise ServingError(
            "The last message is the assistant's. A checkpoint with patches in its chat template continues none, "
            "because some engines write it past the template. End with a message of the user."
        )
    return {**body, "chat_template_kwargs": {**(body.get("chat_template_kwargs") or {}), "patch": choice}}


def _messages(body: Mapping[str, Any]) -> Sequence[Any]:
    messages = body.get("messages")
    if not isinstance(messages, list | tuple) or not messages or not all(isinstance(one, Mapping) for one in messages):
        raise ServingError("`messages` has to be a list of at least one message.")
    return messages
