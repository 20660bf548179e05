"""The fingerprint of a base and its tokenizer: taken when a patch is made, checked when the patch is loaded.

It consists of a few values of every weight, the settings, and the base's predictions on a few fixed ids; taking it
changes nothing. It finds mistakes, not forgeries; only signatures can find those.
"""

import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from transformers.utils import logging

from policy_patch.base.comparison import Comparison
from policy_patch.base.probe import Probe, probe_of, why_not_comparable
from policy_patch.base.recorded_fingerprint import FORMAT, encoded, read_fingerprint
from policy_patch.base.settings import forward_settings
from policy_patch.base.sizes import architecture_of, check_architecture
from policy_patch.base.tokenizer_hash import tokenizer_hash
from policy_patch.base.weight_samples import Samples, read_samples
from policy_patch.base.weights import is_tied, request, weights_of
from policy_patch.errors import BaseMismatchError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.get_logger(__name__)

# Our choice. Related models are near 1; 64 samples of unrelated normal numbers reach 0.5 about once in 70,000.
_RELATED = 0.5


def base_fingerprint(base: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None" = None) -> dict[str, Any]:
    """Return a fingerprint that identifies `base` and its tokenizer, as plain JSON values.

    It runs the base once on 2 rows of 16 tokens.

    Args:
        base ([`~transformers.PreTrainedModel`]):
            A causal language model, in any precision and on any device. Not changed.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The base's tokenizer. Not changed.

    Returns:
        `dict`: `format` (2); `architecture`, sizes by name; `tokenizer`, a SHA-256 in hexadecimal, or `None`;
        `settings`, the configuration's settings that change a forward pass; `tied`, whether the head is tied to the
        token embeddings, or `None` if unknown; `weights`, a few elements of every parameter and persistent buffer by
        name, or `None` where a weight cannot be read (packed into fewer than 8 bits, not in memory, not finite): 64
        elements of the token embeddings and of the head, one of each expert, 8 of any other weight; `dtype`, the most
        frequent dtype, and `dtypes`, the others by name; `steps`, quantisation steps of 8-bit weights; `probe`,
        log-probabilities of 32 tokens at 4 places of a fixed sequence, with their precision and noise, or `None`.
        Elements are little-endian fp32 in base64; their positions are drawn from the weight's name and shape.

    Example:

    ```python
    >>> from policy_patch.base.fingerprint import base_fingerprint, check_base
    >>> fingerprint = base_fingerprint(tiny_model("llama"))
    >>> fingerprint["architecture"]["num_hidden_layers"]
    2
    >>> check_base(tiny_model("llama").bfloat16(), fingerprint)

    ```
    """
    weights = weights_of(base)
    samples = read_samples([request(name, *weight) for name, weight in weights.items()])
    samples = {name: found for name, found in samples.items() if found.values.isfinite().all()}
    dtypes = {name: _dtype_name(found) for name, found in samples.items()}
    most = Counter(dtypes.values()).most_common(1)
    main = most[0][0] if most else None
    probe = None if why_not_comparable(base) else probe_of(base)
    return {
        "format": FORMAT,
        "architecture": architecture_of(base),
        "tokenizer": None if tokenizer is None else tokenizer_hash(tokenizer),
        "settings": forward_settings(base),
        "tied": is_tied(base),
        "dtype": main,
        "dtypes": {name: dtype for name, dtype in dtypes.items() if dtype != main},
        "weights": {name: encoded(samples[name].values) if name in samples else None for name in weights},
        "steps": {name: encoded(found.steps) for name, found in samples.items() if found.steps.any()},
        "probe": None
        if not isinstance(probe, Probe)
        else {
            "precision": probe.precision,
            "noise": probe.noise,
            "log_probs": encoded(probe.log_probs.flatten()),
        },
    }


def _dtype_name(samples: Samples) -> str | None:
    return None if samples.dtypes[0] is None else str(samples.dtypes[0]).removeprefix("torch.")


def check_base(
    base: "PreTrainedModel",
    fingerprint: dict[str, Any] | None,
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    allow_mismatch: bool = False,
    probe: bool = True,
    source: str = "the patch",
) -> None:
    """Raise an error unless `base` is the model that `fingerprint` was made from.

    The precision does not matter: fp32, bf16, fp16 and 8 bits count as equal. Weights packed into fewer bits cannot be
    compared; then the embeddings, norms and other weights left in floating point decide.

    Args:
        base ([`~transformers.PreTrainedModel`]):
            The model that the patch is to be applied to. Not changed.
        fingerprint (`dict`, *optional*):
            From [`base_fingerprint`], in the current format or the previous one. If it is None, a warning is logged.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The base's tokenizer. Not compared if either side lacks one.
        allow_mismatch (`bool`, *optional*, defaults to `False`):
            Accept a fine-tuned or edited version of the base, with a warning.
        probe (`bool`, *optional*, defaults to `True`):
            Also compare the base's predictions, which takes one forward pass of 2 rows of 16 tokens.
        source (`str`, *optional*, defaults to `"the patch"`):
            Where the fingerprint comes from, for error messages.

    Raises:
        BaseMismatchError: the architecture, a size, the tokenizer or the model differs; without `allow_mismatch` also
            if `base` is a fine-tuned or edited version of the right model.
        ConfigError: `fingerprint` is damaged or has a newer format.
    """
    if fingerprint is None:
        logger.warning(
            f"{source} does not say which base it was made for (`base_fingerprint` is null), so only the length of its "
            "vectors was checked. Make sure that this is the right base."
        )
        return
    recorded = read_fingerprint(fingerprint, source)
    check_architecture(base, recorded.architecture, source)
    if tokenizer is not None and recorded.tokenizer is not None and tokenizer_hash(tokenizer) != recorded.tokenizer:
        raise BaseMismatchError(
            f"{source} was made with another tokenizer than the given one: vocabulary, special tokens or the ids of a "
            "probe text differ. Give the tokenizer of the base that the patch was made for."
        )
    comparison = Comparison(base, recorded)
    correlation = comparison.correlation()
    if not correlation >= _RELATED:
        raise BaseMismatchError(
            f"{source} was made for another model of the same shape: the correlation of the token embeddings is "
            f"{correlation:.2f}; that of a fine-tuned relative is at least {_RELATED}. Load the base that the "
            "patch was made for."
        )
    differences = comparison.moved() + comparison.names()
    if recorded.format == FORMAT:
        differences += comparison.settings() + comparison.tying()
    else:
        logger.warning(
            f"The fingerprint of {source} is of format 1: it cannot see a change of the head, of most layers or of "
            "settings. Patches that are made today have format 2; ask its maker for a release of it."
        )
    if probe and not differences:  # skip the forward pass once a difference is known
        differences = comparison.predictions()
    if not differences:
        if unknown := comparison.not_compared():
            logger.warning(
                f"Not compared with the base of {source}: {', and '.join(unknown)}. Weights that are packed, split or "
                "not in memory can hide a change. What was compared is the same."
            )
        return
    message = f"{source} was made for another state of this base: {'; '.join(differences)}"
    if not allow_mismatch:
        raise BaseMismatchError(
            f"{message}. This base is a fine-tuned or edited relative, on which the patch was never measured. Load the "
            "base that it was made for, or accept that with `allow_base_mismatch=True` (`--allow_base_mismatch` where "
            "a command has it)."
        )
    logger.warning(f"{message}. It is used on this relative of its base because `allow_base_mismatch=True`.")


def fingerprint_hash(fingerprint: dict[str, Any] | None) -> str | None:
    """Return the SHA-256 of a fingerprint's keys and values, in hexadecimal; None if there is no fingerprint."""
    if fingerprint is None:
        return None
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def renewed_fingerprint(
    base: "PreTrainedModel",
    fingerprint: dict[str, Any] | None,
    tokenizer: "PreTrainedTokenizerBase | None",
) -> dict[str, Any] | None:
    """Return `fingerprint`, or a new one if the vocabulary of `base` has changed since it was made.

    Tokens may be added after a patch was made; chat templates need them. With the old fingerprint the patch would be
    refused on the very base that it was trained on.

    Args:
        base ([`~transformers.PreTrainedModel`]):
            The base as it is now. Not changed.
        fingerprint (`dict`, *optional*):
            The fingerprint taken when the patch was made or loaded.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The tokenizer used then; tokens may have been added to it since.
    """
    if fingerprint is None:
        return None
    now, before = architecture_of(base), fingerprint["architecture"]
    rows = now.get("embedding_rows"), before.get("embedding_rows")
    known = fingerprint["tokenizer"] if tokenizer is not None else None
    if rows[0] == rows[1] and (known is None or known == tokenizer_hash(tokenizer)):
        return fingerprint
    logger.warning(
        f"The vocabulary of the base has changed since the patch was made or loaded (its embeddings had {rows[1]} rows "
        f"and have {rows[0]}). The patch is saved for the base as it is now, and loads on no other."
    )
    return base_fingerprint(base, tokenizer)
