"""The optional loss of the SFT stage: the divergence from the teacher's full distribution of each next token.

`sft.py` computes the logits.
"""

import torch
from torch.nn import functional

IGNORED = -100


def distillation_loss(
    logits: torch.Tensor, teacher_logits: torch.Tensor, labels: torch.Tensor, kl_weight: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the summed loss of the labelled tokens: `(1 - kl_weight) * cross-entropy + kl_weight * KL`.

    KL is `sum_v q_v (log q_v - log p_v)`, with the teacher's next-token distribution q and the model's distribution p,
    at temperature 1 (Hinton et al., arXiv 1503.02531). It is computed on sequences of the teacher (Kim and Rush, arXiv
    1606.07947).

    Args:
        logits (`torch.Tensor`):
            `(batch, length, vocabulary)`, with gradient.
        teacher_logits (`torch.Tensor`):
            `(batch, length, vocabulary)`, for the same tokens. If one vocabulary has more padding than the other, only
            the tokens of both are compared.
        labels (`torch.Tensor`):
            `(batch, length)`, token ids; -100 marks positions without loss.
        kl_weight (`float`):
            0 (cross-entropy only) to 1 (KL only).

    Returns:
        The loss, a 0-d tensor, and a dict of 0-d tensors without gradient, summed over the labelled tokens: `kl`, `nll`
        (negative log-likelihood), and `correct`, how often the label was the most likely token.
    """
    mask = labels[:, 1:] != IGNORED  # (batch, length - 1)
    wanted = labels[:, 1:][mask]  # (tokens,)
    shared = min(logits.shape[-1], teacher_logits.shape[-1])
    log_p = logits[:, :-1, :shared][mask].float().log_softmax(-1)  # (tokens, vocabulary)
    log_q = teacher_logits[:, :-1, :shared][mask].to(log_p).log_softmax(-1)
    kl = functional.kl_div(log_p, log_q, reduction="sum", log_target=True)
    nll = functional.nll_loss(log_p, wanted, reduction="sum")
    parts = {"kl": kl.detach(), "nll": nll.detach(), "correct": (log_p.argmax(-1) == wanted).sum()}
    return (1 - kl_weight) * nll + kl_weight * kl, parts
