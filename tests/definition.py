"""The definition of a patched model, in the plainest words: concatenate embeddings, one row at a time, no padding.

Written from the text of the definition, not from the code under test; the oracle of all exactness tests.
"""

import torch
from transformers import PreTrainedModel

from tests.tiny_models import BOS


def logits_by_definition(
    base: PreTrainedModel, vectors: torch.Tensor, row: list[int], placement: str = "after_bos"
) -> torch.Tensor:
    """Return the logits `(len(row), vocabulary)` of the real tokens of `row` behind `vectors`."""
    length = vectors.shape[0]
    embeds = base.get_input_embeddings()(torch.tensor([row]))
    if placement == "after_bos" and row[0] == BOS:
        embeds = torch.cat([embeds[:, :1], vectors.unsqueeze(0), embeds[:, 1:]], dim=1)
    else:
        embeds = torch.cat([vectors.unsqueeze(0), embeds], dim=1)
    logits = base(inputs_embeds=embeds, use_cache=False).logits[0]
    return logits[length:]  # with BOS in front, the first of these is the output at the last vector


def generate_by_definition(
    base: PreTrainedModel, vectors: torch.Tensor, row: list[int], num_new_tokens: int, placement: str = "after_bos"
) -> list[int]:
    """Return greedy continuation ids of `row` behind `vectors`, without any cache."""
    row = list(row)
    for _ in range(num_new_tokens):
        row.append(int(logits_by_definition(base, vectors, row, placement)[-1].argmax()))
    return row[-num_new_tokens:]


def padded(rows: list[list[int]], side: str, pad: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask `(rows, longest)` of unequal rows, padded on the given side."""
    longest = max(len(row) for row in rows)
    ids, mask = [], []
    for row in rows:
        padding, ones = [pad] * (longest - len(row)), [1] * len(row)
        zeros = [0] * len(padding)
        ids.append(padding + row if side == "left" else row + padding)
        mask.append(zeros + ones if side == "left" else ones + zeros)
    return torch.tensor(ids), torch.tensor(mask)
