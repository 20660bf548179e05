"""The options that a watch and a canary share: whom to ask what, and how answers are scored.

What each does with the answers is in `drift.py` and `canary.py`.
"""

from typing import TYPE_CHECKING

from policy_patch.recipes.evaluate import SCORERS_HELP
from policy_patch.recipes.models import DTYPES, MODEL_HELP, load_model
from policy_patch.recipes.options import checked, option
from policy_patch.recipes.pairs import DEVICE_HELP, DTYPE_HELP
from policy_patch.recipes.recipe import Recipe

if TYPE_CHECKING:
    from policy_patch.evaluation import PerplexityModel


@checked
class ServedOptions(Recipe):
    """What is asked of a served model.

    Args:
        prompts, safe_prompts (`str`, *optional*):
            Prompts, and harmless look-alikes for over-refusal: for a watch, those that the release's report measured.
            Default to the risk's own.
        scorers (`list[str]`, *optional*):
            Names of scorers or judges. Default to those of the report, or of the risk.
        perplexity_model (`str`, *optional*):
            Model that tells gibberish from text. Without it, only empty and repetitive answers count as gibberish, and
            a watch refuses risks that count gibberish.
        num_prompts (`int`, *optional*, defaults to `100`):
            Prompts that are asked: of one look, or the first so many, and so many look-alikes.
        concurrency (`int`, *optional*, defaults to `8`):
            Requests at the same time.
        timeout (`float`, *optional*, defaults to `120.0`):
            Seconds to wait for one answer.
        device, dtype (`str`, *optional*):
            Of the perplexity model.
    """

    prompts: str | None = option(None, "Prompts; of a watch, those of its report. Default: the risk's own.")
    safe_prompts: str | None = option(None, "Harmless look-alikes, in the same way. Default: the risk's own.")
    scorers: list[str] = option([], f"{SCORERS_HELP} Default: those of the report, or of the risk.")
    perplexity_model: str | None = option(None, f"Tells gibberish from text. {MODEL_HELP}")
    num_prompts: int = option(100, "Prompts to ask; the next look of a watch goes on with the next ones.", least=1)
    concurrency: int = option(8, "Requests at the same time.", least=1)
    timeout: float = option(120.0, "Seconds to wait for one answer.", above=0)
    device: str | None = option(None, DEVICE_HELP)
    dtype: str = option("auto", DTYPE_HELP, choices=DTYPES)

    def loaded_perplexity_model(self) -> "PerplexityModel | None":
        """Return the perplexity model, loaded; None if none is named.

        Raises:
            ModelLoadError: it cannot be loaded.
        """
        from policy_patch.evaluation import PerplexityModel

        if self.perplexity_model is None:
            return None
        model, tokenizer = load_model(self.perplexity_model, device=self.device, dtype=self.dtype)
        return PerplexityModel(model=model, tokenizer=tokenizer, name=self.perplexity_model)


SHARED = tuple(ServedOptions.__dataclass_fields__)
