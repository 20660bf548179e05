"""The first stage's other loss: the divergence from the teacher's whole distribution of each next token.

How the trainer comes by the logits is the business of `sft.py`.
"""

import torch
from torch.nn import functional

IGNORED = -100


def distillation_loss(
    logits: torch.Tensor, teacher_logits: torch.Tensor, labels: torch.Tensor, kl_weight: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the summed loss of the labelled tokens: `(1 - kl_weight) * cross-entropy + kl_weight * KL`.

    KL is that of the model's next-token distribution from the teacher's, `sum_v q_v (log q_v - log p_v)` with q the
    teacher's, at temperature 1 (Hinton et al., arXiv 1503.02531, on the sequences of the teacher as Kim and Rush,
    arXiv 1606.07947).

    Args:
        logits (`torch.Tensor`):
            `(batch, length, vocabulary)`, with gradient.
        teacher_logits (`torch.Tensor`):
            `(batch, length, vocabulary)`, for the same tokens. Where one vocabulary was padded further than the other,
            the tokens that both have are compared.
        labels (`torch.Tensor`):
            `(batch, length)`, -100 where no loss is wanted.
        kl_weight (`float`):
            0 (cross-entropy alone) to 1 (KL alone).

    Returns:
        The loss, and its parts as sums over the labelled tokens, without gradient: `kl`, `nll`, and `correct`, how
        often the label was the likeliest token.
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
