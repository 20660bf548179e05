"""The embeddings of single tokens. It imports torch only, so that a patch is read without importing any model."""

from collections.abc import Sequence

import torch
from torch import nn


def embedded(embeddings: nn.Module, ids: Sequence[int] | torch.Tensor) -> torch.Tensor:
    """Return the embeddings `(len(ids), hidden)` of tokens.

    They are looked up as a batch of one row, because hooks on the embeddings (NEFTune) expect a batch.
    """
    device = next(embeddings.parameters()).device
    return embeddings(torch.as_tensor(ids, device=device).unsqueeze(0))[0]
