"""The teacher as training uses it: loaded when it is needed, and held against the base's vocabulary before that.

A patch's tokens are the base's. Where the teacher's probabilities of them are asked for, each id must be the same token
to both. Sampling answers needs no such thing: those are text.
"""

from collections.abc import Callable
from typing import Any

from torch import nn
from transformers import AutoTokenizer, PreTrainedModel

from policy_patch.base.loading import check_has_values, loading
from policy_patch.errors import TrainingError
from policy_patch.model.patched_model import PolicyPatchModel

Teacher = PreTrainedModel | Callable[[], PreTrainedModel]

BY_REFERENCE = ('`reference="teacher"`', '`reference="sft"` or "base"')  # who wants a teacher, and what to do without


def loaded(teacher: Teacher | None) -> PreTrainedModel | None:
    """Return the teacher, loading it now if a function that loads it was given."""
    if teacher is None or isinstance(teacher, nn.Module):
        return teacher
    with loading():
        model = teacher()
    check_has_values(model, "the teacher")
    return model


def check_teacher(
    model: PolicyPatchModel,
    teacher: Teacher | None,
    wanted_by: str = BY_REFERENCE[0],
    instead: str = BY_REFERENCE[1],
    *,
    tokenizer: Any = None,
    teacher_tokenizer: Any = None,
    same_width: bool = False,
) -> None:
    """Raise `TrainingError` unless the probabilities of `teacher` can be compared with those of the base of `model`.

    Args:
        model ([`~policy_patch.PolicyPatchModel`]):
            Its base is what is compared with.
        teacher ([`~transformers.PreTrainedModel`] or a function that returns one, *optional*):
            A function is not called here; then the tokenizers alone are compared.
        wanted_by, instead (`str`):
            Which setting needs the teacher, and what to set otherwise, for the error message.
        tokenizer, teacher_tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Of the base and of the teacher. The teacher's is looked for where the teacher was loaded from, without
            network access; if one of the two is unknown, tables of one size are taken for one vocabulary.
        same_width (`bool`, *optional*, defaults to `False`):
            Whole distributions are compared, so that both models must give as many logits.

    Raises:
        TrainingError: no teacher, or one of another vocabulary.
    """
    if teacher is None:
        raise TrainingError(f"{wanted_by} needs `teacher=`. Give it, or use {instead}.")
    is_here = isinstance(teacher, nn.Module)
    sizes = [_size(model.get_base_model()), _size(teacher) if is_here else None]
    if teacher_tokenizer is None and is_here:
        teacher_tokenizer = _tokenizer_of(teacher)
    is_known = tokenizer is not None and teacher_tokenizer is not None
    difference = _difference(tokenizer, teacher_tokenizer, sizes[1]) if is_known else None
    if difference is None and is_here and sizes[0] != sizes[1] and (same_width or not is_known):
        difference = f"the base has {sizes[0]} tokens and the teacher {sizes[1]}"
        if not same_width:
            instead = f"{instead}; if the tables differ in padding only, give `teacher_tokenizer=`"
    if difference is not None:
        raise TrainingError(
            f"{wanted_by} compares probabilities token by token, so both need one vocabulary; {difference}. "
            f"Use {instead}."
        )


def _size(model: PreTrainedModel) -> int:
    embeddings = model.get_input_embeddings()
    return getattr(embeddings, "num_embeddings", None) or embeddings.weight.shape[0]


def _tokenizer_of(teacher: PreTrainedModel) -> Any:
    """Return the tokenizer beside the teacher's weights, if it is on this machine."""
    source = teacher.config._name_or_path
    if not source:
        return None
    try:
        return AutoTokenizer.from_pretrained(source, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError):  # none there, or of a kind that cannot be loaded
        return None


def _difference(tokenizer: Any, teacher_tokenizer: Any, num_ids: int | None) -> str | None:
    """Say which tokens of the base mean something else to the teacher, if any does; more tokens there do no harm."""
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # a processor has one
    if tokenizer is teacher_tokenizer and num_ids is None:
        return None
    known = teacher_tokenizer.get_vocab()
    other = {token: index for token, index in tokenizer.get_vocab().items() if known.get(token) != index}
    if other:
        token, index = min(other.items(), key=lambda item: item[1])
        there = f"{known[token]}" if token in known else "unknown"
        return (
            f"{len(other)} of the base's {len(tokenizer)} tokens have another id for the teacher: {token!r} is "
            f"{index} for the base and {there} for the teacher"
        )
    highest = max(tokenizer.get_vocab().values())
    if num_ids is not None and highest >= num_ids:
        return f"the base's tokens go up to id {highest}, and the teacher has {num_ids}"
    return None
