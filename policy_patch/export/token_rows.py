"""Finds rows of the embeddings that can carry the vectors of patches: unused ones of the base first, then added ones.

A row is unused if no text can lead to it and no setting names it. What is written into rows is in `surgery.py`.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from policy_patch.errors import ExportError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Names that makers of bases give to tokens which they keep for others: Llama 3, Gemma, Mistral, Nemotron and Mistral's
# Tekken, Phi-3 and Phi-4, Qwen 1, Baichuan, BERT-like vocabularies, Falcon.
_RESERVED = re.compile(
    r"<\|reserved_special_token_\d+\|>|<unused\d+>|\[control_\d+\]|<SPECIAL_\d+>|<\|placeholder\d+\|>|<\|dummy_\d+\|>"
    r"|<\|extra_\d+\|>|<reserved_\d+>|<\|reserved_\d+\|>|\[unused\d+\]|>>UNUSED_\d+<<|<\|reserved_token_\d+\|>"
)


@dataclass(frozen=True)
class TokenRows:
    """The rows for the vectors, in the order in which they are used.

    Args:
        slack (`tuple[int, ...]`):
            Ids that the embeddings have and the tokenizer has not.
        reserved (`tuple[int, ...]`):
            Ids of tokens that the base's maker keeps for others.
        added (`tuple[int, ...]`):
            Ids of rows that are added after the last one.
    """

    slack: tuple[int, ...]
    reserved: tuple[int, ...]
    added: tuple[int, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        """All of them."""
        return (*self.slack, *self.reserved, *self.added)


def token_rows(
    base: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", count: int, *, reuse: bool = True
) -> TokenRows:
    """Return rows for `count` vectors.

    Args:
        base ([`~transformers.PreTrainedModel`]):
            The base, which is only read.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        count (`int`):
            Number of vectors.
        reuse (`bool`, *optional*, defaults to `True`):
            Take unused rows of the base first. If False, all rows are added, after any that the tokenizer lacks.

    Raises:
        ExportError: the tokenizer has ids for which the base has no row.
    """
    rows = base.get_input_embeddings().weight.shape[0]
    last = max(tokenizer.get_vocab().values())
    if last >= rows:
        raise ExportError(
            f"The tokenizer has the token id {last}; the base has {rows} rows of embeddings. They do not belong "
            "together, or tokens were added to the tokenizer alone: resize the base's embeddings and save both first."
        )
    free = range(last + 1, rows)  # a tokenizer gives new tokens the next free id, so these come first
    slack = tuple(free[:count])
    reserved = tuple(reserved_ids(base, tokenizer))[: count - len(slack)] if reuse else ()
    rest = count - len(slack) - len(reserved)
    return TokenRows(slack, reserved, tuple(range(rows, rows + rest)))


def reserved_ids(base: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> Iterator[int]:
    """Yield the ids of reserved tokens that nothing uses: no template, no setting, no part of the tokenizer."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    in_model = content["model"].get("vocab", {})
    # Only byte-pair encoding never builds a name that no merge leads to.
    only_added = content["model"]["type"] != "BPE"
    templates = tokenizer.chat_template or ""
    templates = templates if isinstance(templates, str) else "\n".join(templates.values())
    # Tokens with a role; the list of additional special tokens only says that they are never split.
    named = [name for name in tokenizer.special_tokens_map.values() if isinstance(name, str)]
    used = set(tokenizer.convert_tokens_to_ids(named))
    used |= {one for settings in _settings(base) for one in _token_ids(settings)}
    post_processor = json.dumps(content.get("post_processor"))
    for token in content["added_tokens"]:
        name = token["content"]
        if not _RESERVED.fullmatch(name) or token["id"] in used or (only_added and name in in_model):
            continue
        if name not in templates and json.dumps(name) not in post_processor:
            yield token["id"]


def _settings(base: "PreTrainedModel") -> list[dict[str, Any]]:
    generation = getattr(base, "generation_config", None)
    return [base.config.to_dict(), generation.to_dict() if generation is not None else {}]


def _token_ids(settings: Any, *, is_token: bool = False) -> Iterator[int]:
    """Yield the integers under keys that speak of tokens, such as `eos_token_id` and `suppress_tokens`."""
    if isinstance(settings, dict):
        for key, value in settings.items():
            yield from _token_ids(value, is_token=is_token or "token" in str(key) or str(key).endswith("_ids"))
    elif isinstance(settings, list | tuple):
        for value in settings:
            yield from _token_ids(value, is_token=is_token)
    elif is_token and isinstance(settings, int) and not isinstance(settings, bool):
        yield settings
