"""The lab: a miniature base with three planted flaws, its safer release as teacher, prompts and patches.

Names are loaded on first use, so importing this package imports neither torch nor transformers. See `README.md`.
"""

from typing import TYPE_CHECKING

from policy_patch._lazy import lazy_names

_MODULE_OF = {
    "LAB_INIT_TEXT": "policy_patch.lab.prompts",
    "LAB_INIT_TEXTS": "policy_patch.lab.prompts",
    "LAB_MODELS_PATH": "policy_patch.lab.checkpoints",
    "LAB_PROMPT_SETS": "policy_patch.lab.prompts",
    "LAB_SAFE_PROMPT": "policy_patch.lab.prompts",
    "LabInsultScorer": "policy_patch.lab.scorer",
    "lab_patch_folder": "policy_patch.lab.checkpoints",
    "lab_prompts": "policy_patch.lab.prompts",
    "load_lab_base": "policy_patch.lab.checkpoints",
    "load_lab_teacher": "policy_patch.lab.checkpoints",
    "load_lab_tokenizer": "policy_patch.lab.checkpoints",
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

if TYPE_CHECKING:
    from policy_patch.lab.checkpoints import (
        LAB_MODELS_PATH,
        lab_patch_folder,
        load_lab_base,
        load_lab_teacher,
        load_lab_tokenizer,
    )
    from policy_patch.lab.prompts import LAB_INIT_TEXT, LAB_INIT_TEXTS, LAB_PROMPT_SETS, LAB_SAFE_PROMPT, lab_prompts
    from policy_patch.lab.scorer import LabInsultScorer

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
