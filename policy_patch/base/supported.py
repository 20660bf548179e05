"""Which bases can carry a patch, and how many vectors of which size.

`self_check.py` tests whether the injection is exact on an architecture.
"""

from inspect import signature
from typing import Any

from transformers import PreTrainedModel

from policy_patch.base.architecture import backbone_of, learned_position_limit
from policy_patch.errors import PositionLimitError, UnsupportedModelError

# Arguments for caches that are not a transformers `Cache`: RWKV; XLNet; Reformer.
_OWN_CACHES = {"state", "mems", "past_buckets_states"}


def check_supported(base: Any) -> None:
    """Raise `UnsupportedModelError` unless `base` is a causal language model on which a patch is exact."""
    if not isinstance(base, PreTrainedModel):
        raise UnsupportedModelError(
            f"`base` is a {type(base).__name__}; expected a causal language model of transformers, as "
            "`AutoModelForCausalLM.from_pretrained` returns it. Merge or unload PEFT adapters first."
        )
    if base.config.is_encoder_decoder:
        raise UnsupportedModelError(
            f"`base` is an encoder-decoder model ({type(base).__name__}). A patch goes in front of the one text of a "
            "decoder-only model; give such a model."
        )
    if base.get_output_embeddings() is None or backbone_of(base) is None or not base.can_generate():
        raise UnsupportedModelError(
            f"`base` is a {type(base).__name__} without a language-modelling head over a backbone; expected a causal "
            "language model, as `AutoModelForCausalLM.from_pretrained` returns it."
        )
    if any(parameter.is_meta for parameter in base.get_input_embeddings().parameters()):
        raise UnsupportedModelError(
            "The token embeddings of `base` are not in memory (offloaded, or a model without weights); a patch starts "
            "from them. Leave them on a device: a `device_map` may offload the layers after them."
        )
    own = _OWN_CACHES & set(signature(backbone_of(base).forward).parameters)
    if own:
        raise UnsupportedModelError(
            f"`base` is a {type(base).__name__}, which remembers text in a cache of its own (`{min(own)}`). Whether "
            "that begins with a patch cannot be seen, so it is refused."
        )


def check_length(base: PreTrainedModel, num_virtual_tokens: int) -> None:
    """Raise `PositionLimitError` if the vectors leave no room for text in the positions that `base` has learned."""
    limit = learned_position_limit(base)
    if limit is not None and num_virtual_tokens >= limit:
        raise PositionLimitError(
            f"{num_virtual_tokens} vectors leave no room for text: the base has learned {limit} positions. Use fewer, "
            "e.g. `num_virtual_tokens=50`."
        )


def embedding_size(base: PreTrainedModel) -> int:
    """Return the length of one token embedding of the base, which is not always its `hidden_size`."""
    embeddings = base.get_input_embeddings()
    return getattr(embeddings, "embedding_dim", None) or embeddings.weight.shape[-1]
