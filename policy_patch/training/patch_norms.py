"""How long the vectors of a patch are, and how far training has moved them: two figures in every log entry.

Only the figures and their names; what is healthy is said in `health.py`.
"""

import torch

NORM = "patch/norm"  # mean L2 norm of one vector
DISTANCE = "patch/distance"  # from the stage's start, in multiples of how long all vectors together were there


def patch_norms(vectors: torch.Tensor, start: torch.Tensor) -> dict[str, float]:
    """Return the figures of one log entry.

    Args:
        vectors (`torch.Tensor`):
            `(num_virtual_tokens, hidden_size)`, the vectors as they are now.
        start (`torch.Tensor`):
            The same shape, the vectors as they were when the stage started.

    Returns:
        `dict[str, float]`: `patch/norm`, the mean L2 norm of the vectors, and `patch/distance`, the Frobenius norm of
        `vectors - start` over that of `start`: 0.1 is a tenth of the way to a patch that has nothing in common with
        the start. Both measures are our choice.

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
