"""Loads the models of an evaluation: the base with its patches, the teacher, and other patches to compare with.

The recipes say which models; `models.py` loads a single one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from policy_patch.recipes.models import check_can_load, load_answering, same_tokenizer
from policy_patch.recipes.patched import FoundPatches, load_patched
from policy_patch.recipes.recipe import Note

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from policy_patch.answers.answering import Answering
    from policy_patch.evaluation.systems import System
    from policy_patch.model.patched_model import PolicyPatchModel


@dataclass(frozen=True, kw_only=True)
class Opened:
    """The models that an evaluation has loaded.

    Args:
        model ([`PolicyPatchModel`]):
            The patched model.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The patched model's tokenizer.
        teacher ([`~transformers.PreTrainedModel`] or [`Answering`], *optional*):
            The safer model.
        teacher_tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The teacher's tokenizer.
    """

    model: "PolicyPatchModel"
    tokenizer: "PreTrainedTokenizerBase"
    teacher: "PreTrainedModel | Answering | None" = None
    teacher_tokenizer: "PreTrainedTokenizerBase | None" = None


def open_models(
    found: FoundPatches,
    where: Mapping[str, Any],
    teacher: str | None,
    on_note: Note,
    *,
    allow_base_mismatch: bool,
) -> Opened:
    """Load the base with its patches, and the teacher if one is named.

    Args:
        found ([`FoundPatches`]):
            Patches and base.
        where (`Mapping[str, Any]`):
            `device` and `dtype`, as in [`load_model`].
        teacher (`str`, *optional*):
            Name of the teacher.
        on_note (`Callable[[str], None]`), allow_base_mismatch (`bool`):
            As in [`load_patched`].
    """
    check_can_load(teacher)
    model, tokenizer = load_patched(found, **where, allow_base_mismatch=allow_base_mismatch, on_note=on_note)
    if teacher is None:
        return Opened(model=model, tokenizer=tokenizer)
    teacher_model, teacher_tokenizer = load_answering(teacher, **where)
    if teacher_tokenizer is not None and same_tokenizer(tokenizer, teacher_tokenizer):
        teacher_tokenizer = tokenizer
    return Opened(model=model, tokenizer=tokenizer, teacher=teacher_model, teacher_tokenizer=teacher_tokenizer)


def other_patches(opened: Opened, folders: Mapping[str, str]) -> "dict[str, System]":
    """Load more patches on the same base, as systems for comparison."""
    from policy_patch.evaluation import System
    from policy_patch.model.patched_model import PolicyPatchModel

    base = opened.model.get_base_model()
    return {name: System(PolicyPatchModel.from_pretrained(base, folder)) for name, folder in folders.items()}
