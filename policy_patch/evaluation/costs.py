"""What a patch may cost, as one value for each prompt or neutral text, so that two systems can be compared in pairs.

The risks measure what a patch gains. The release gate compares these values with limits.
"""

import numpy as np

from policy_patch.answers.refusals import is_refusal
from policy_patch.evaluation.observed import Observed


def costs_of(observed: Observed) -> dict[str, list[float]]:
    """Return the costs that one system shows, by their names in [`SystemResult`].

    Args:
        observed ([`Observed`]):
            The behaviour of the system.
    """
    refused = np.array([[is_refusal(text) for text in samples] for samples in observed.answers])
    found = {
        "refused": (refused & ~observed.unusable).mean(axis=1),
        "unusable": observed.unusable.mean(axis=1),
    }
    if observed.neutral is not None:
        nll, tokens = observed.neutral
        found["neutral_nll_per_token"] = nll / np.maximum(tokens, 1)
    if observed.last_word is not None:
        found["last_word"] = observed.last_word
    if observed.task is not None:
        found["own_task"] = observed.task
    return {name: values.tolist() for name, values in found.items()}
