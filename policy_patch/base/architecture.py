"""The parts of an architecture that matter to a patch: backbone, learned positions, sliding windows.

They are read from a loaded base and its configuration; no model runs here. `self_check.py` tests whether a patch is
exact on the architecture.
"""

from typing import Any

from torch import nn
from transformers import PreTrainedModel


def backbone_of(base: PreTrainedModel) -> nn.Module | None:
    """Return the backbone: the module that runs between the token embeddings and the head; None if there is none."""
    backbone = base.base_model
    if backbone is base:  # Llama 4's text model has the multimodal model's `base_model_prefix`
        backbone = getattr(base, "model", None)
    return backbone if isinstance(backbone, nn.Module) else None


def learned_position_limit(base: PreTrainedModel) -> int | None:
    """Return the size of the table of learned absolute positions, or None if `base` has no such table."""
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
    """Return whether some layer of this configuration attends to the last columns only (sliding window, chunks)."""
    layer_types = getattr(config, "layer_types", None)
    if layer_types is not None:
        return any(kind != "full_attention" for kind in layer_types)
    return (
        getattr(config, "sliding_window", None) is not None or getattr(config, "attention_chunk_size", None) is not None
    )
