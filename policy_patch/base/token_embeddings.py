"""The embeddings of single tokens. It imports torch only, so that a patch is read without importing any model."""

from collections.abc import Sequence

import torch
from torch import nn

from policy_patch.errors import UnsupportedModelError

_PROBED = 64  # tokens whose embeddings are looked up to measure the factor


def embedded(embeddings: nn.Module, ids: Sequence[int] | torch.Tensor) -> torch.Tensor:
    """Return the embeddings `(len(ids), hidden)` of tokens.

    They are looked up as a batch of one row, because hooks on the embeddings (NEFTune) expect a batch.
    """
    device = next(embeddings.parameters()).device
    return embeddings(torch.as_tensor(ids, device=device).unsqueeze(0))[0]


def embedding_factor(embeddings: nn.Module) -> float:
    """Return the number by which a base multiplies the rows of its embedding matrix when it looks them up.

    It is 1 for most bases; Gemma multiplies by the square root of the hidden size, in the dtype of the matrix.

    Args:
        embeddings (`torch.nn.Module`):
            The base's input embeddings, with the matrix `weight` `(rows, hidden)`.

    Raises:
        UnsupportedModelError: the embeddings are not the rows times one number.
    """
    weight = embeddings.weight.detach()
    ids = weight[: 8 * _PROBED].float().norm(dim=1).topk(min(_PROBED, len(weight))).indices
    with torch.no_grad():
        rows, found = weight[ids].float(), embedded(embeddings, ids).float()
    factor = float((rows * found).sum() / (rows * rows).sum())
    if not (found - factor * rows).norm() <= 0.01 * found.norm():
        raise UnsupportedModelError(
            "The base's embeddings are not the rows of one matrix times a number, so that vectors cannot become rows."
        )
    return factor
