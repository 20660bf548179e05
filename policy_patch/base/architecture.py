"""What an architecture is for a patch: its backbone, its learned positions, its sliding windows.

Read off a loaded base and its configuration; nothing is run here. Whether a patch is exact on it is asked in
`self_check.py`.
"""

from typing import Any

from torch import nn
from transformers import PreTrainedModel


def backbone_of(base: PreTrainedModel) -> nn.Module | None:
    """Return the module between token embeddings and head, which a causal language model calls; None if it has none."""
    backbone = base.base_model
    if backbone is base:  # a text model that was cut out of a multimodal one names itself after the whole (Llama 4)
        backbone = getattr(base, "model", None)
    return backbone if isinstance(backbone, nn.Module) else None


def learned_position_limit(base: PreTrainedModel) -> int | None:
    """Return how many absolute positions `base` has learned, or None if it does not look positions up in a table."""
    limit = getattr(base.config.get_text_config(), "max_position_embeddings", None)
    tokens = base.get_input_embeddings()
    for name, module in backbone_of(base).named_modules():
        is_table = isinstance(module, nn.Embedding) and module is not tokens
        if is_table and limit is not None and 0 <= module.num_embeddings - limit <= 2:  # OPT keeps two spare rows
            return limit
        if is_table and name.rsplit(".", 1)[-1] in ("wpe", "position_embeddings", "embed_positions"):
            return module.num_embeddings
    return None


def has_windows(config: Any) -> bool:
    """Return whether some layer of that configuration sees the last columns only."""
    layer_types = getattr(config, "layer_types", None)
    if layer_types is not None:
        return any(kind != "full_attention" for kind in layer_types)
    return (
        getattr(config, "sliding_window", None) is not None or getattr(config, "attention_chunk_size", None) is not None
    )
