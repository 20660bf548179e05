"""`PromptEmbedsClient`: the openai client with `patches=[...]`, for a vLLM that serves the unmodified base.

The patch goes into each request as embeddings. Clients that know of no patches use the gateway, by model names.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import torch

from policy_patch.answers.endpoint import import_openai
from policy_patch.base.served_base import ServedBase, read_served_base
from policy_patch.errors import PatchNameError, ServingError
from policy_patch.hub.fetch import HubOptions
from policy_patch.hub.named_patch import NamedPatch, base_of, check_stack_scanned_before, load_named_patches
from policy_patch.near_names import did_you_mean
from policy_patch.patch.prompt_embeds import Stack, stack_of
from policy_patch.patch.stack_check import check_on_conflict
from policy_patch.serving.engine_check import check_engine
from policy_patch.serving.patched_requests import patched_chat, patched_completion
from policy_patch.serving.request_rules import check_request
from policy_patch.trust.stack_policy import on_conflict_in_force


class PromptEmbedsClient:
    """Asks a vLLM with `--enable-prompt-embeds` for answers with patches. Trusted clients only: see docs/gateway.md.

    `client.completions.create(...)` and `client.chat.completions.create(...)` are those of `openai.OpenAI`, with the
    argument `patches` more: names in order, or `[]` for the base as it is. Fields that could move or cut the patch are
    refused.

    Args:
        client (`openai.OpenAI` or `openai.AsyncOpenAI`):
            Knows address and key. With the second, `create` returns something to await.
        patches (`Sequence[str | os.PathLike]`):
            Folders or Hub ids, each maybe with a name: `"tox=org/tox-patch@v1.2.0"`.
        base (`str` or `os.PathLike`, *optional*):
            Folder or Hub id of the base, whose tokenizer and token embeddings are read; no layers. Defaults to what
            the patches name.
        model (`str`, *optional*):
            Name of the base at the engine. Defaults to `base`.
        dtype (`torch.dtype`, *optional*):
            What the engine serves the base with. Defaults to the dtype of its configuration.
        hub ([`HubOptions`], *optional*):
            Token, cache and so on.

    Raises:
        MissingExtraError: `openai` is not installed.
        BaseMismatchError: a patch of another base.
        PolicyPatchError: a patch or the base cannot be read.

    Example:

    ```python
    >>> import openai
    >>> from policy_patch.serving import PromptEmbedsClient
    >>> client = PromptEmbedsClient(openai.OpenAI(base_url="http://localhost:8000/v1"), ["org/tox"])  # doctest: +SKIP
    >>> client.completions.create(prompt="You are", patches=["tox"]).choices[0].text  # doctest: +SKIP

    ```
    """

    def __init__(
        self,
        client: Any,
        patches: Sequence[str | PathLike],
        *,
        base: str | PathLike | None = None,
        model: str | None = None,
        dtype: torch.dtype | None = None,
        hub: HubOptions | None = None,
        on_conflict: str = "warn",
    ) -> None:
        import_openai()
        self._hub = hub = hub or HubOptions()
        self.patches: dict[str, NamedPatch] = {one.name: one for one in load_named_patches(patches, hub)}
        name, revision = base_of(list(self.patches.values()), base)
        options = {"token": hub.token, "cache_dir": hub.cache_dir, "local_files_only": hub.local_files_only or None}
        self.base: ServedBase = read_served_base(name, revision=revision, dtype=dtype, **options)
        for one in self.patches.values():
            self.base.check_patch(one.config, one.vectors, f"The patch `{one.name}`")
        self.client, self.model = client, model or name
        self.completions, self.chat = _Completions(self), _Chat(self)
        self._stacks: dict[tuple[str, ...], Stack] = {}
        self._on_conflict = check_on_conflict(on_conflict)

    def stack(self, names: Sequence[str]) -> Stack:
        """Return the stack of some of the client's patches, in order.

        Raises:
            PatchNameError: a name that the client does not have, or twice.
            ConfigError: patches of different placement.
            PatchConflictError: the stack breaks a rule of a patch, and `on_conflict` is `"refuse"`.
            HostilePatchError: a policy requires a scan, and has no verdict that allows the stack.
        """
        key = (names,) if isinstance(names, str) else tuple(names)
        if key not in self._stacks:
            for name in key:
                if name not in self.patches:
                    hint = did_you_mean(name, self.patches, then=f"There are: {', '.join(self.patches)}.")
                    raise PatchNameError(f"The client has no patch `{name}`. {hint}")
            if len(set(key)) != len(key) or not key:
                raise PatchNameError(f"`patches={list(names)}`: expected each name once.")
            chosen = {name: (self.patches[name].config, self.patches[name].vectors) for name in key}
            origins = {name: (self.patches[name].repo_id, self.patches[name].commit) for name in key}
            check_stack_scanned_before([self.patches[name] for name in key], self._hub)
            self._stacks[key] = stack_of(
                chosen,
                self.base.rows.dtype,
                origins=origins,
                on_conflict=lambda: on_conflict_in_force(self._on_conflict),
            )
        return self._stacks[key]

    def check(self, *stacks: Sequence[str], chat: bool = True) -> dict[str, float]:
        """Prove that the engine does with embeddings what a patch needs; see [`check_engine`]. Not for async clients.

        Args:
            stacks (`Sequence[str]`):
                What is checked; by default each patch alone.
            chat (`bool`, *optional*, defaults to `True`):
                Check chat, too.

        Raises:
            ServingError: it does not.
        """
        chosen = stacks or tuple((name,) for name in self.patches)
        named = {"+".join(names): self.stack(names) for names in chosen}

        def post(path: str, body: dict[str, Any]) -> Mapping[str, Any]:
            return self.client.post(path, body=body, cast_to=object)

        import openai

        try:
            return check_engine(post, self.model, self.base, named, chat=chat)
        except openai.OpenAIError as error:
            raise ServingError(f"The engine does not answer the check: {error}") from error


class _Completions:
    def __init__(self, owner: PromptEmbedsClient) -> None:
        self._owner = owner

    def create(self, *, prompt: str | list, patches: Sequence[str], model: str | None = None, **options: Any) -> Any:
        """Complete a text with patches; the rest is `openai`'s own.

        Args:
            prompt (`str` or `list`):
                A text, a list of token ids, or a list of those.
            patches (`Sequence[str]`):
                Names in order; `[]` for the base as it is.
            model (`str`, *optional*):
                Defaults to the client's.
            options (*optional*):
                `max_tokens`, `temperature`, `stream` and so on; `extra_body` for fields that are vLLM's own.

        Raises:
            ServingError: a field that could move or cut the patch.
            PatchNameError: an unknown patch.
        """
        owner = self._owner
        extra, body = _split(options)
        asked = {**body, "prompt": prompt, "model": model or owner.model}
        if len(patches):
            sent = patched_completion(asked, owner.stack(patches), owner.base)
            extra["extra_body"] = {**extra["extra_body"], "prompt_embeds": sent["prompt_embeds"]}
            prompt = None
        else:
            check_request(asked, "completions")
        given = {name: options[name] for name in options if name not in _OUTSIDE}
        return owner.client.completions.create(model=asked["model"], prompt=prompt, **given, **extra)


class _Chat:
    def __init__(self, owner: PromptEmbedsClient) -> None:
        self.completions = _ChatCompletions(owner)


class _ChatCompletions:
    def __init__(self, owner: PromptEmbedsClient) -> None:
        self._owner = owner

    def create(
        self, *, messages: Sequence[Mapping[str, Any]], patches: Sequence[str], model: str | None = None, **options: Any
    ) -> Any:
        """Answer messages with patches; the rest is `openai`'s own. Arguments and errors as for completions."""
        owner = self._owner
        extra, body = _split(options)
        asked = {**body, "messages": list(messages), "model": model or owner.model}
        if len(patches):
            sent = patched_chat(asked, owner.stack(patches).chat_message())["messages"]
        else:
            check_request(asked, "chat")
            sent = asked["messages"]
        given = {name: options[name] for name in options if name not in _OUTSIDE}
        return owner.client.chat.completions.create(model=asked["model"], messages=sent, **given, **extra)


_OUTSIDE = ("extra_body", "extra_headers", "extra_query", "timeout")  # openai's own arguments around a request


def _split(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return openai's own arguments, and the fields of the request, with those of `extra_body`."""
    outside = {name: options[name] for name in _OUTSIDE if name in options}
    outside["extra_body"] = dict(outside.get("extra_body") or {})
    fields = {name: value for name, value in options.items() if name not in _OUTSIDE}
    return outside, {**fields, **outside["extra_body"]}
