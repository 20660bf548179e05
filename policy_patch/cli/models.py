"""Models and prompts by the names given on a command line; `lab:` names are those that come with the package."""

import os
from typing import TYPE_CHECKING, Any

from policy_patch.data import load_prompts
from policy_patch.errors import DataError, ModelLoadError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LAB_MODELS = ("lab:base", "lab:teacher")
MODEL_HELP = "Hub id or folder of a causal language model; `lab:base` and `lab:teacher` come with the package."
PROMPTS_HELP = (
    "File of prompts (.txt: one a line; .jsonl or .csv: `prompt`), or the lab's `lab:toxicity/train` and "
    "`lab:toxicity/test`."
)


def load_model(
    name: str, *, device: str | None = None, dtype: str = "auto", revision: str | None = None
) -> tuple["PreTrainedModel", Any]:
    """Return a causal language model and its tokenizer.

    Args:
        name (`str`):
            Hub id, folder or `lab:` name.
        device (`str`, *optional*):
            Where to put it. Defaults to an accelerator if there is one.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Type of the weights. "auto" is the stored one on an accelerator and float32 on a CPU, where half precision
            is several times slower.
        revision (`str`, *optional*):
            Branch, tag or commit on the Hub.

    Raises:
        ModelLoadError: no such model, or it cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if device is None:
        device = str(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else "cpu"
    if dtype == "auto" and device == "cpu":
        dtype = "float32"
    weights = dtype if dtype == "auto" else getattr(torch, dtype)
    if name.startswith("lab:"):
        from policy_patch.lab import load_lab_base, load_lab_teacher, load_lab_tokenizer

        if name not in LAB_MODELS:
            raise ModelLoadError(f"There is no model `{name}`; the lab has {' and '.join(LAB_MODELS)}.")
        loader = load_lab_base if name == "lab:base" else load_lab_teacher
        return loader(torch.float32 if weights == "auto" else weights).to(device), load_lab_tokenizer()
    try:
        model = AutoModelForCausalLM.from_pretrained(name, dtype=weights, revision=revision)
    except (OSError, ValueError) as error:
        raise ModelLoadError(
            f"Cannot load the model `{name}`: {str(error).splitlines()[0]} Give the Hub id or the folder of a causal "
            "language model."
        ) from error
    return model.to(device).eval(), load_tokenizer(name, revision)


def load_tokenizer(name: str, revision: str | None = None) -> "PreTrainedTokenizerBase":
    """Return the tokenizer of a model.

    Raises:
        ModelLoadError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"Cannot load the tokenizer of `{name}`: {str(error).splitlines()[0]}") from error


def same_tokenizer(one: Any, other: Any) -> bool:
    """Whether two tokenizers have the same vocabulary."""
    return one is other or one.get_vocab() == other.get_vocab()


def prompts_of(spec: str) -> list[str]:
    """Return the prompts of a file or of a `lab:<set>/<split>`.

    Raises:
        DataError: no such file or set.
    """
    if not spec.startswith("lab:"):
        return load_prompts(spec)
    from policy_patch.lab import lab_prompts

    risk, _, split = spec.removeprefix("lab:").partition("/")
    if not split:
        raise DataError(f"`{spec}` names no split; expected e.g. `lab:toxicity/train` or `lab:toxicity/test`.")
    return lab_prompts(risk, split)


def display_name(name: str) -> str:
    """Return how a model is called in a report: its Hub id, or the last part of its folder."""
    return os.path.basename(os.path.normpath(name)) if os.path.isdir(name) else name
