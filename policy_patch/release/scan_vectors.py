"""What the vectors of a patch look like without running the base: norms, nearest tokens, rank, repetition.

Trained vectors are near no token, so their nearest tokens rarely say what they do. Vectors that were copied from an
instruction do. What the vectors make the base say is measured in `scan_signals.py`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from policy_patch.base.token_embeddings import embedded

_CHUNK = 8192  # token embeddings in memory at a time
COPIED = 0.9  # cosine from which on a vector counts as a token's embedding; chosen by us
_SAME = 0.9999  # cosine from which on two vectors count as equal; chosen by us
_NEGATIONS = {"not", "never", "no", "nobody", "refuse", "avoid", "don", "without", "instead"}
_REACH = 4  # words before a phrase that may negate it
_NEGLIGIBLE = 1e-3  # singular values below this share of the largest do not count for the rank; chosen by us


@dataclass(frozen=True)
class VectorFacts:
    """Facts about the vectors of a patch.

    Args:
        num_vectors (`int`):
            Vectors of the patch, or of the whole stack.
        largest_norm, median_norm (`float`, *optional*):
            Norms as multiples of the base's median token embedding. None if the embeddings cannot be read.
        rank (`int`):
            Singular values above a thousandth of the largest.
        repeated (`int`):
            Vectors that equal an earlier one.
        copied (`int`):
            Vectors whose nearest token has a cosine of 0.9 or more: they read as that token.
        mean_cosine (`float`, *optional*):
            Mean over vectors of the cosine to the nearest token.
        nearest_text (`str`):
            The nearest tokens as one text, repetitions included. It is readable only where vectors are copied.
        instruction (`str`, *optional*):
            A part of an instruction to misbehave that was found in `nearest_text` or in the declared start text.
    """

    num_vectors: int
    largest_norm: float | None
    median_norm: float | None
    rank: int
    repeated: int
    copied: int
    mean_cosine: float | None
    nearest_text: str
    instruction: str | None


def vector_facts(
    vectors: torch.Tensor,
    embeddings: torch.nn.Module,
    tokenizer: Any,
    *,
    declared: Sequence[str] = (),
    instructions: Sequence[str] = (),
) -> VectorFacts:
    """Return the facts about vectors.

    Args:
        vectors (`torch.Tensor`):
            `(num_vectors, hidden_size)`.
        embeddings (`torch.nn.Module`):
            The base's input embeddings.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The base's tokenizer.
        declared (`Sequence[str]`, *optional*):
            Texts that the patch says its vectors started from.
        instructions (`Sequence[str]`, *optional*):
            Parts of sentences that ask a model to misbehave.
    """
    vectors = vectors.detach().float()
    unit = torch.nn.functional.normalize(vectors, dim=1)
    singular = torch.linalg.svdvals(vectors.double())
    alike = (unit @ unit.T).tril(-1) >= _SAME
    nearest, cosines, usual = _nearest(unit, embeddings, len(tokenizer))
    norms = vectors.norm(dim=1)
    text = "" if nearest is None else tokenizer.decode(nearest, skip_special_tokens=True)
    found = next((each for part in (text, *declared) for each in instructions if _asks_for(part, each)), None)
    return VectorFacts(
        num_vectors=len(vectors),
        largest_norm=float(norms.max()) / usual if usual else None,
        median_norm=float(norms.median()) / usual if usual else None,
        rank=int((singular > _NEGLIGIBLE * singular[0]).sum()),
        repeated=int(alike.any(dim=1).sum()),
        copied=0 if cosines is None else int((cosines >= COPIED).sum()),
        mean_cosine=None if cosines is None else float(cosines.mean()),
        nearest_text=text,
        instruction=found,
    )


def _nearest(
    unit: torch.Tensor, embeddings: torch.nn.Module, size: int
) -> tuple[list[int] | None, torch.Tensor | None, float | None]:
    """Return for each vector the nearest token and the cosine, and the median norm of all token embeddings."""
    table = next(embeddings.parameters())
    if table.is_meta or table.numel() == 0 or hasattr(table, "full_tensor"):
        return None, None, None
    best = torch.full((len(unit),), -2.0)
    ids = torch.zeros(len(unit), dtype=torch.long)
    norms = []
    for start in range(0, size, _CHUNK):
        with torch.no_grad():
            rows = embedded(embeddings, torch.arange(start, min(start + _CHUNK, size))).float()
        norms.append(rows.norm(dim=1).cpu())
        cosines = (unit.to(rows.device) @ torch.nn.functional.normalize(rows, dim=1).T).cpu()
        top, where = cosines.max(dim=1)
        ids = torch.where(top > best, where + start, ids)
        best = torch.maximum(top, best)
    usual = float(torch.cat(norms).median())
    return ids.tolist(), best, usual if usual > 0 else None


def _asks_for(text: str, phrase: str) -> bool:
    """Return whether a text has the words of a phrase in a row, and no negation in the few words before them."""
    words, wanted = _words(text), _words(phrase)
    return any(
        words[at : at + len(wanted)] == wanted and not _NEGATIONS & set(words[max(0, at - _REACH) : at])
        for at in range(len(words) - len(wanted) + 1)
    )


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.lower())
