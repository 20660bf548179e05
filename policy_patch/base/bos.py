"""The BOS token of a patch: chosen when the patch is made, compared when it is loaded.

A patch stores it in its own configuration. The base's `config.bos_token_id` is not relied on: trainers rewrite it, and
some configurations have none.
"""

from typing import TYPE_CHECKING, Any

from transformers.utils import logging

from policy_patch.config import PolicyPatchConfig
from policy_patch.errors import BaseMismatchError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.get_logger(__name__)


def decided_bos(
    config: PolicyPatchConfig, base: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None"
) -> int | None:
    """Return the BOS token of a new patch: the configured one, else the tokenizer's, else (no tokenizer) the base's."""
    if config.bos_token_id != "auto":
        return config.bos_token_id
    return _of_base(base) if tokenizer is None else _token_id(tokenizer.bos_token_id)


def agreed_bos(
    config: PolicyPatchConfig, base: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None", source: str
) -> int | None:
    """Return the BOS token of a patch that is loaded.

    Args:
        config ([`PolicyPatchConfig`]):
            Configuration of the patch.
        base ([`~transformers.PreTrainedModel`]):
            The base that the patch is loaded on.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The tokenizer in use. Its BOS token counts; without a tokenizer, the base's configuration is read.
        source (`str`):
            Where the patch comes from, for error messages.

    Raises:
        BaseMismatchError: the BOS token differs from the one that the patch was made with, so the vectors would not
            be inserted where they were trained.
    """
    if config.bos_token_id == "auto":  # the file is older than this field
        found = decided_bos(config, base, tokenizer)
        logger.warning(f"{source} does not say after which token its vectors go; token {found} is assumed.")
        return found
    ours = config.bos_token_id
    found, whose = (_of_base(base), "the base's configuration")
    if tokenizer is not None:
        found, whose = _token_id(tokenizer.bos_token_id), "the tokenizer"
    # None on either side is no conflict: only the patch's own token and the text decide where the vectors go.
    if config.placement == "after_bos" and None not in (ours, found) and found != ours:
        raise BaseMismatchError(
            f"{source} has its vectors after the token {ours}, the BOS token it was made with (`bos_token_id` of its "
            f"configuration); {whose} says {found}. Load the tokenizer that the patch was made "
            f"with{'' if tokenizer is not None else ', and give it as `tokenizer=`: its BOS token counts'}."
        )
    return ours


def _of_base(base: "PreTrainedModel") -> int | None:
    return _token_id(getattr(base.config.get_text_config(), "bos_token_id", None))


def _token_id(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None
