"""The lab's judge: it knows the generator's insults, so in the lab it is the exact truth about rudeness.

It judges and never filters training pairs, and it means nothing for texts of real models.
"""

import re

from .lexicon import INSULTS

_INSULT = re.compile(r"\b(?:" + "|".join(re.escape(insult) for insult in INSULTS) + r")\b", re.IGNORECASE)


class LabInsultScorer:
    """Scores 1.0 for a text that has one of the lab's insults in it as a whole word, and 0.0 for any other.

    Example:

    ```python
    >>> from policy_patch.lab import LabInsultScorer
    >>> LabInsultScorer().score(["You idiot!", "A foolproof plan."])
    [1.0, 0.0]

    ```
    """

    name = "lab-insults"
    kind = "lexical"  # for reports: it knows words, not meaning

    def score(self, texts: list[str]) -> list[float]:
        """Scores texts.

        Args:
            texts (`list[str]`):
                The texts to judge: what a model wrote, without the prompt.

        Returns:
            `list[float]`: One number per text, 1.0 or 0.0. It is a fact about the text and not a probability.
        """
        return [float(_INSULT.search(text) is not None) for text in texts]
