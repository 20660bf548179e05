"""The token that text of a base begins with: decided when a patch is made, compared when it is loaded.

A patch keeps it in its configuration. The base's own `config.bos_token_id` is no authority: trainers rewrite it, and
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
    """Return the BOS token of a new patch: the given one, the tokenizer's, or without a tokenizer the base's."""
    if config.bos_token_id != "auto":
        return config.bos_token_id
    return _of_base(base) if tokenizer is None else _token_id(tokenizer.bos_token_id)


def agreed_bos(
    config: PolicyPatchConfig, base: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None", source: str
) -> int | None:
    """Return the BOS token of a patch that is loaded.

    Args:
        config ([`PolicyPatchConfig`]):
            Of the patch.
        base ([`~transformers.PreTrainedModel`]):
            The base that it is loaded on.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The tokenizer in use. It decides; without one the base's configuration is asked.
        source (`str`):
            Where the patch comes from, for error messages.

    Raises:
        BaseMismatchError: text begins with another token here than where the patch was made, so that its vectors would
            not go where they were trained.
    """
    if config.bos_token_id == "auto":  # a file written before the field was there
        found = decided_bos(config, base, tokenizer)
        logger.warning(f"{source} does not say which token its vectors go behind; {found} is taken for it.")
        return found
    ours = config.bos_token_id
    found, whose = (_of_base(base), "the base's configuration")
    if tokenizer is not None:
        found, whose = _token_id(tokenizer.bos_token_id), "the tokenizer"
    # None on either side changes nothing: where the vectors go hangs on the patch's own token and on the text alone.
    if config.placement == "after_bos" and None not in (ours, found) and found != ours:
        raise BaseMismatchError(
            f"{source} has its vectors behind the token {ours}, with which text began where it was made "
            f"(`bos_token_id` of its configuration); {whose} says {found}. Load the tokenizer that the patch was made "
            f"with{'' if tokenizer is not None else ', and give it as `tokenizer=`: it decides'}."
        )
    return ours


def _of_base(base: "PreTrainedModel") -> int | None:
    return _token_id(getattr(base.config.get_text_config(), "bos_token_id", None))


def _token_id(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None
