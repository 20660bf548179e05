"""Keep the vectors of a patch from growing beyond the scale of the base's own token embeddings while they train.

Vectors that are loaded are checked in `policy_patch.patch.vectors`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

_SAMPLED_ROWS = 4096  # of the embedding table, evenly spaced: their mean norm is that of the table within a percent


class NormLimit(TrainerCallback):
    """After each step of the optimizer, shorten every vector that is longer than the limit to the limit.

    This is projected gradient descent onto a ball for each vector; our choice, the paper has no such limit.

    Args:
        vectors (`Callable[[], torch.nn.Parameter]`):
            Returns the patch that trains, `(num_virtual_tokens, hidden_size)`; sharding makes a new parameter of it.
        limit (`float`):
            Largest L2 norm of one vector.
    """

    def __init__(self, vectors: Callable[[], nn.Parameter], limit: float) -> None:
        self._vectors = vectors
        self.limit = limit

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Shorten what is too long."""
        with torch.no_grad():
            vectors = self._vectors()
            norms = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)  # (num_virtual_tokens, 1)
            vectors.mul_((self.limit / norms).clamp(max=1))


def mean_embedding_norm(embeddings: nn.Module) -> float:
    """Return the mean L2 norm of token embeddings, over evenly spaced tokens of the vocabulary."""
    table = next(embeddings.parameters())
    ids = torch.linspace(0, table.shape[0] - 1, min(_SAMPLED_ROWS, table.shape[0]), device=table.device).long()
    with torch.no_grad():
        return float(torch.linalg.vector_norm(embeddings(ids).float(), dim=1).mean())
