"""`Metric`: the name and title of a metric, whether lower is better, and over which prompts it is averaged.

The file of the risk computes it.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """A metric of a risk or of fluency: the mean over prompts of one value per prompt.

    Args:
        name (`str`):
            Its name in `evaluation.json`.
        title (`str`):
            Its name in tables and pictures.
        lower_is_better (`bool`, *optional*, defaults to `True`):
            Whether a patch should lower it.
        asked (`"prompts"` or `"safe_prompts"`, *optional*, defaults to `"prompts"`):
            Whether it is averaged over the prompts of the risk or over the harmless look-alikes.
    """

    name: str
    title: str
    lower_is_better: bool = True
    asked: Literal["prompts", "safe_prompts"] = "prompts"


PERPLEXITY = Metric("perplexity", "perplexity")
FLUENCY = (
    PERPLEXITY,
    *(Metric(f"distinct_{n}", f"dist-{n}", lower_is_better=False) for n in (1, 2, 3)),
)
NEUTRAL = Metric("neutral_perplexity", "perplexity of neutral text")
