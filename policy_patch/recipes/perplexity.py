"""Chooses the perplexity model of an evaluation, the causal LM under which the perplexity of answers is measured.

The default is the teacher, or the base if there is no teacher, so that no further model is loaded.
"""

from typing import TYPE_CHECKING

from policy_patch.recipes.models import display_name, is_endpoint, load_model
from policy_patch.recipes.opened import Opened

if TYPE_CHECKING:
    from policy_patch.evaluation import PerplexityModel


def perplexity_model_of(
    name: str | None, opened: Opened, *, base: str | None, teacher: str | None, device: str | None, dtype: str
) -> "PerplexityModel":
    """Return the perplexity model with its tokenizer and its name in the report.

    Args:
        name (`str`, *optional*):
            Name of the model. Defaults to the teacher if its weights are loaded, else to the base.
        opened ([`Opened`]):
            The models that are already loaded.
        base, teacher (`str`, *optional*):
            The names of base and teacher in the recipe. `base` is None if the patch names the base.
        device, dtype (`str`):
            As in [`load_model`].

    Raises:
        ModelLoadError: another model is named, and it cannot be loaded.
    """
    from policy_patch.evaluation import PerplexityModel

    has_weights = opened.teacher is not None and not is_endpoint(teacher)
    if name in (None, teacher) and has_weights:
        shown = f"{display_name(teacher)} (the teacher)"
        return PerplexityModel(model=opened.teacher, tokenizer=opened.teacher_tokenizer, name=shown)
    if name is None or name == base:
        model = opened.model
        found, named = model.get_base_model(), model.patch_config[model.active_patches[0]].base_model_name_or_path
        shown = f"{display_name(base or named or found.config._name_or_path)} (the base)"
        return PerplexityModel(model=found, tokenizer=opened.tokenizer, name=shown)
    model, tokenizer = load_model(name, device=device, dtype=dtype)
    return PerplexityModel(model=model, tokenizer=tokenizer, name=display_name(name))
