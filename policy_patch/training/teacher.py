"""Loads the teacher when training needs it, and checks that it has the base's vocabulary.

The check is needed if training compares the teacher's and the base's probabilities: each token id must then mean the
same token in both. It is not needed for sampling answers, which are text.
"""

from collections.abc import Callable
from typing import Any

from torch import nn
from transformers import AutoTokenizer, PreTrainedModel

from policy_patch.base.loading import check_has_values, loading
from policy_patch.errors import TrainingError
from policy_patch.model.patched_model import PolicyPatchModel

Teacher = PreTrainedModel | Callable[[], PreTrainedModel]

BY_REFERENCE = ('`reference="teacher"`', '`reference="sft"` or "base"')  # needs a teacher; works without one


def loaded(teacher: Teacher | None) -> PreTrainedModel | None:
    """Return the teacher; load it now if `teacher` is a function.

    Raises:
        ModelLoadError: the loaded teacher has parameters without values.
    """
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
            The patched base.
        teacher ([`~transformers.PreTrainedModel`] or a function that returns one, *optional*):
            The teacher. A function is not called here; then only the tokenizers are compared.
        wanted_by, instead (`str`):
            For the error: the setting that needs the teacher, and the setting to use without one.
        tokenizer, teacher_tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Tokenizers of the base and of the teacher. The teacher's defaults to the one in the folder or download
            cache that the teacher was loaded from. If one of the two is unknown, the sizes of the embedding tables are
            compared instead.
        same_width (`bool`, *optional*, defaults to `False`):
            Require that both models return the same number of logits, because full distributions are compared.

    Raises:
        TrainingError: there is no teacher, or it has another vocabulary.
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
            f"{wanted_by} compares probabilities token by token, so both models need one vocabulary; {difference}. "
            f"Use {instead}."
        )


def _size(model: PreTrainedModel) -> int:
    embeddings = model.get_input_embeddings()
    return getattr(embeddings, "num_embeddings", None) or embeddings.weight.shape[0]


def _tokenizer_of(teacher: PreTrainedModel) -> Any:
    """Return the tokenizer that was saved with the teacher's weights, or None if it is not on this machine."""
    source = teacher.config._name_or_path
    if not source:
        return None
    try:
        return AutoTokenizer.from_pretrained(source, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError):  # it is missing or cannot be loaded
        return None


def _difference(tokenizer: Any, teacher_tokenizer: Any, num_ids: int | None) -> str | None:
    """Return a description of the base's tokens that have another id in the teacher, or None if there are none.

    Tokens that only the teacher has are allowed. `num_ids` is the size of the teacher's embedding table, if known.
    """
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # a processor holds a tokenizer
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
