"""Limits the norm of the vectors during training, relative to the norm of the base's token embeddings.

`policy_patch.patch.vectors` checks vectors when they are loaded.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

_SAMPLED_ROWS = 4096  # evenly spaced rows of the embedding table; their mean norm is within 1% of the whole table's


class NormLimit(TrainerCallback):
    """Trainer callback that rescales each vector longer than the limit to the limit, after each optimizer step.

    This is projected gradient descent onto a ball for each vector. It is our choice; the paper has no such limit.

    Args:
        vectors (`Callable[[], torch.nn.Parameter]`):
            Returns the trained vectors, `(num_virtual_tokens, hidden_size)`. It is a function because sharding replaces
            the parameter.
        limit (`float`):
            Largest L2 norm of one vector.
    """

    def __init__(self, vectors: Callable[[], nn.Parameter], limit: float) -> None:
        self._vectors = vectors
        self.limit = limit

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Rescale the vectors that are longer than the limit."""
        with torch.no_grad():
            vectors = self._vectors()
            norms = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)  # (num_virtual_tokens, 1)
            vectors.mul_((self.limit / norms).clamp(max=1))


def mean_embedding_norm(embeddings: nn.Module) -> float:
    """Return the mean L2 norm of up to 4,096 evenly spaced token embeddings."""
    table = next(embeddings.parameters())
    ids = torch.linspace(0, table.shape[0] - 1, min(_SAMPLED_ROWS, table.shape[0]), device=table.device).long()
    with torch.no_grad():
        return float(torch.linalg.vector_norm(embeddings(ids).float(), dim=1).mean())
