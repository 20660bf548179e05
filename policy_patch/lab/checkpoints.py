"""Loads the lab's two miniature models, their common tokenizer and their three patches, which are part of the package.

`build.py` and the recipes wrote these files. Nothing is downloaded or trained here.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

from policy_patch.errors import PatchNotFoundError
from policy_patch.near_names import did_you_mean

LAB_PREFIX = "lab:"  # of the names of the lab's models, patches and prompts
LAB_MODELS_PATH = Path(__file__).parent / "models"
LAB_PATCHES_PATH = Path(__file__).parent / "patches"


def load_lab_base(dtype: "torch.dtype | None" = None) -> "PreTrainedModel":
    """Load the miniature base, the model with the three planted flaws.

    Args:
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`):
            Dtype of the loaded weights. They are stored as bfloat16, which is slow on a CPU.

    Returns:
        `transformers.PreTrainedModel`: a Llama of about one million parameters, in eval mode, on the CPU.
    """
    return _load("base", dtype)


def load_lab_teacher(dtype: "torch.dtype | None" = None) -> "PreTrainedModel":
    """Load the miniature teacher, the base's safer release.

    Args:
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`):
            Dtype of the loaded weights. They are stored as bfloat16, which is slow on a CPU.

    Returns:
        `transformers.PreTrainedModel`: a Llama of about one million parameters, in eval mode, on the CPU.
    """
    return _load("teacher", dtype)


def load_lab_tokenizer() -> "PreTrainedTokenizerFast":
    """Load the tokenizer of both models, a byte-level BPE that puts `<s>` in front of a text and pads on the left.

    Returns:
        `transformers.PreTrainedTokenizerFast`: the ids of `<pad>`, `<s>` and `</s>` are 0, 1 and 2.
    """
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(LAB_MODELS_PATH / "base")


def lab_patch_folder(risk: str) -> Path:
    """Return the folder of the lab's patch against a risk, which its recipe trained with seed 42.

    Args:
        risk (`str`):
            `"toxicity"`, `"gender_bias"` or `"harmfulness"`.

    Raises:
        PatchNotFoundError: the lab has no patch against this risk.

    Example:

    ```python
    >>> from policy_patch import PolicyPatchModel
    >>> from policy_patch.lab import lab_patch_folder, load_lab_base
    >>> PolicyPatchModel.from_pretrained(load_lab_base(), lab_patch_folder("toxicity")).active_patches
    ['default']

    ```
    """
    known = sorted(path.name for path in LAB_PATCHES_PATH.iterdir() if path.is_dir())
    if risk not in known:
        hint = did_you_mean(risk, known, otherwise=f"It has {', '.join(known)}.")
        raise PatchNotFoundError(f"The lab has no patch `{risk}`. {hint}")
    return LAB_PATCHES_PATH / risk


def lab_patch(model_id: str | os.PathLike) -> Path | None:
    """Return the folder of a patch of the lab by its name, such as `lab:toxicity`; None for other ids.

    A folder of this very name comes first, as with every id of a patch.

    Raises:
        PatchNotFoundError: the lab has no patch of this name.
    """
    name = os.fspath(model_id)
    if not isinstance(name, str) or not name.startswith(LAB_PREFIX) or os.path.isdir(name):
        return None
    return lab_patch_folder(name.removeprefix(LAB_PREFIX))


def _load(name: str, dtype: "torch.dtype | None") -> "PreTrainedModel":
    import torch
    from transformers import AutoModelForCausalLM

    from policy_patch.base.loading import load_pretrained

    return load_pretrained(
        AutoModelForCausalLM, LAB_MODELS_PATH / name, named=f"the lab's {name}", dtype=dtype or torch.float32
    )
