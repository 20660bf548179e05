"""Reads the vectors of one patch as a state dict, and writes them. Mirrors PEFT's `get_peft_model_state_dict`."""

import torch

from policy_patch.errors import PatchFileError
from policy_patch.model.ids import DEFAULT_PATCH_NAME
from policy_patch.model.patched_model import PolicyPatchModel
from policy_patch.patch.tensor_file import TENSOR_KEY
from policy_patch.patch.vectors import check_finite, check_norms, overwrite


def get_policy_patch_state_dict(
    model: PolicyPatchModel, patch_name: str = DEFAULT_PATCH_NAME
) -> dict[str, torch.Tensor]:
    """Return `{"patch": vectors}` of one patch, without anything of the base.

    The vectors are a detached copy of shape `(num_virtual_tokens, hidden_size)`, in float32.

    Raises:
        PatchNameError: the name is not loaded.
    """
    model._check_known(patch_name)
    return {TENSOR_KEY: model.patches[patch_name].detach().clone()}


def set_policy_patch_state_dict(
    model: PolicyPatchModel,
    state_dict: dict[str, torch.Tensor],
    patch_name: str = DEFAULT_PATCH_NAME,
    *,
    allow_large_vectors: bool = False,
) -> None:
    """Overwrite the vectors of one patch in place.

    Args:
        model ([`PolicyPatchModel`]):
            The model that holds the patch.
        state_dict (`dict[str, torch.Tensor]`):
            `{"patch": vectors}`, with vectors of shape `(num_virtual_tokens, hidden_size)`.
        patch_name (`str`, *optional*, defaults to `"default"`):
            Name of the patch.
        allow_large_vectors (`bool`, *optional*, defaults to `False`):
            Accept vectors that are more than 100 times as long as the base's token embeddings.

    Raises:
        PatchNameError: the name is not loaded.
        PatchFileError: the key or the shape differs from the patch's, or the vectors hold NaN or infinity or are too
            long.
    """
    model._check_known(patch_name)
    parameter = model.patches[patch_name]
    shape = getattr(parameter, "ds_shape", parameter.shape)  # DeepSpeed leaves an empty tensor in its place
    vectors = state_dict.get(TENSOR_KEY)
    if set(state_dict) != {TENSOR_KEY} or vectors.shape != shape:
        found = {key: tuple(value.shape) for key, value in state_dict.items()}
        raise PatchFileError(f"The state dict holds {found}; expected {{'{TENSOR_KEY}': {tuple(shape)}}}.")
    check_finite(vectors, "the given vectors")
    if not allow_large_vectors:
        check_norms(vectors, model.get_base_model().get_input_embeddings(), "The given vectors")
    overwrite(parameter, vectors)
