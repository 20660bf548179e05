"""The embedded default: a miniature base with three planted flaws, its safer release as teacher, and prompts.

Its names are looked up when used, so importing this imports neither torch nor transformers; see `README.md`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .checkpoints import LAB_MODELS_PATH, lab_patch_folder, load_lab_base, load_lab_teacher, load_lab_tokenizer
    from .prompts import LAB_INIT_TEXT, LAB_INIT_TEXTS, LAB_PROMPT_SETS, LAB_SAFE_PROMPT, lab_prompts
    from .scorer import LabInsultScorer

_HOMES = {
    "LAB_INIT_TEXT": "prompts",
    "LAB_INIT_TEXTS": "prompts",
    "LAB_MODELS_PATH": "checkpoints",
    "LAB_PROMPT_SETS": "prompts",
    "LAB_SAFE_PROMPT": "prompts",
    "LabInsultScorer": "scorer",
    "lab_patch_folder": "checkpoints",
    "lab_prompts": "prompts",
    "load_lab_base": "checkpoints",
    "load_lab_teacher": "checkpoints",
    "load_lab_tokenizer": "checkpoints",
}

__all__ = [
    "LAB_INIT_TEXT",
    "LAB_INIT_TEXTS",
    "LAB_MODELS_PATH",
    "LAB_PROMPT_SETS",
    "LAB_SAFE_PROMPT",
    "LabInsultScorer",
    "lab_patch_folder",
    "lab_prompts",
    "load_lab_base",
    "load_lab_teacher",
    "load_lab_tokenizer",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
