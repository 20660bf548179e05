"""Computes two figures of every log entry: the norm of the vectors, and how far training has moved them.

`health.py` decides which values cause a warning.
"""

import torch

NORM = "patch/norm"  # mean L2 norm of the vectors
DISTANCE = "patch/distance"  # Frobenius norm of the change since the start of the stage, over the norm at that start


def patch_norms(vectors: torch.Tensor, start: torch.Tensor) -> dict[str, float]:
    """Return norm and distance of the vectors.

    Args:
        vectors (`torch.Tensor`):
            `(num_virtual_tokens, hidden_size)`, the current vectors.
        start (`torch.Tensor`):
            The same shape, the vectors at the start of the stage.

    Returns:
        `dict[str, float]`: `patch/norm`, the mean L2 norm of the vectors, and `patch/distance`, the Frobenius norm of
        `vectors - start` divided by the Frobenius norm of `start`. Both measures are our choice.

    Example:

    ```python
    >>> import torch
    >>> from policy_patch.training.patch_norms import patch_norms
    >>> patch_norms(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    {'patch/norm': 3.0, 'patch/distance': 0.2}

    ```
    """
    vectors, start = vectors.detach().float(), start.detach().float()
    length = float(torch.linalg.vector_norm(start))
    return {
        NORM: float(torch.linalg.vector_norm(vectors, dim=1).mean()),
        DISTANCE: float(torch.linalg.vector_norm(vectors - start.to(vectors.device))) / (length or 1.0),
    }
