"""Opens the two miniature models that the package carries, and the tokenizer that both share.

It reads what `build.py` wrote; nothing is downloaded and nothing is trained here.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

LAB_MODELS_PATH = Path(__file__).parent / "models"


def load_lab_base(dtype: "torch.dtype | None" = None) -> "PreTrainedModel":
    """Opens the miniature base: the model with the three planted flaws.

    Args:
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`):
            The type to load the weights as. They are stored as bfloat16, which a CPU computes slowly.

    Returns:
        `transformers.PreTrainedModel`: A Llama of about one million parameters, in evaluation mode, on the CPU.
    """
    return _load("base", dtype)


def load_lab_teacher(dtype: "torch.dtype | None" = None) -> "PreTrainedModel":
    """Opens the miniature teacher: the base's safer release.

    Args:
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`):
            The type to load the weights as. They are stored as bfloat16, which a CPU computes slowly.

    Returns:
        `transformers.PreTrainedModel`: A Llama of about one million parameters, in evaluation mode, on the CPU.
    """
    return _load("teacher", dtype)


def load_lab_tokenizer() -> "PreTrainedTokenizerFast":
    """Opens the tokenizer of both models: byte-level BPE that puts `<s>` in front of a text and pads on the left.

    Returns:
        `transformers.PreTrainedTokenizerFast`: With `<pad>` 0, `<s>` 1 and `</s>` 2.
    """
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(LAB_MODELS_PATH / "base")


def _load(name: str, dtype: "torch.dtype | None") -> "PreTrainedModel":
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(LAB_MODELS_PATH / name, dtype=dtype or torch.float32)
