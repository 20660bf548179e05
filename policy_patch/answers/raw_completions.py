"""Refuses raw completions of a llama.cpp server that has one of our files: there only chat carries the patch.

Only the server's own description is read, once for each address. Requests for answers are sent by `endpoint.py`.
"""

from collections.abc import Sequence
from typing import Any

from policy_patch.answers.addresses import shown_address
from policy_patch.errors import EndpointError

# A variable in every chat template that carries patch tokens; a test compares it with `export/chat_template.py`.
TEMPLATE_MARK = "policy_patch_prefixes"
_LOADING = 503  # llama.cpp's status until its model is loaded


async def check_carry_patches(clients: Sequence[Any], model: str, *, max_retries: int) -> None:
    """Raise `EndpointError` if a server is llama.cpp with one of our files.

    llama.cpp describes itself at `/props`, beside `/v1`, with the chat template of its file. A server that says nothing
    there is taken for another one, whose completions are what its tokenizer makes them.

    Args:
        clients (`Sequence[openai.AsyncOpenAI]`):
            One for each address.
        model (`str`):
            Name of the model at the host; a llama.cpp server with several describes this one.
        max_retries (`int`):
            How often a server that still loads its model is asked again.
    """
    for client in clients:
        if TEMPLATE_MARK in _templates(await _properties(client, model, max_retries)):
            address = shown_address(str(client.base_url).rstrip("/"))
            raise EndpointError(
                f"{address} is llama.cpp with a file of patches. Its raw completions are those of the base, without "
                f"any patch; only its chat carries them. Use `chat:{model}@...` in place of `openai:` (in Python "
                "`chat=True`). To ask the base itself, serve the base's own file."
            )


async def _properties(client: Any, model: str, max_retries: int) -> Any:
    """Return what a server says at `/props`, or None. Any failure counts as none: the real requests show it."""
    import httpx
    import openai

    url = str(client.base_url).rstrip("/").removesuffix("/v1") + "/props"
    asked: dict[str, Any] = {"cast_to": httpx.Response, "options": {"params": {"model": model}}}
    try:
        try:
            found = await client.with_options(max_retries=0).get(url, **asked)
        except openai.APIStatusError as error:
            if error.status_code != _LOADING:
                return None
            found = await client.with_options(max_retries=max_retries).get(url, **asked)
        return found.json()
    except (openai.OpenAIError, httpx.HTTPError, ValueError, RecursionError):
        return None


def _templates(properties: Any) -> str:
    """Return the chat templates in the answer; llama.cpp may have a second one, for tools."""
    if not isinstance(properties, dict):
        return ""
    return "\n".join(
        text for name, text in properties.items() if name.startswith("chat_template") and isinstance(text, str)
    )
