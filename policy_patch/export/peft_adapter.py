"""Patches as prompt-tuning adapters of PEFT, and back. PEFT itself is not needed: the files are written and read here.

PEFT puts its vectors before BOS, so only patches of that order keep their meaning; others are refused.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from transformers.utils import logging

from policy_patch.config import PolicyPatchConfig
from policy_patch.errors import BaseMismatchError, ExportError, PatchNotFoundError
from policy_patch.export.formats import Exported
from policy_patch.export.new_folder import new_folder
from policy_patch.files.atomic import write_whole
from policy_patch.files.documents import Fault, parse_json, read_text
from policy_patch.hub.adapters import (
    ADAPTER_CONFIG,
    ADAPTER_TENSORS,
    LARGEST_ADAPTER_CONFIG,
    PICKLED_TENSORS,
    locate_adapter,
)
from policy_patch.hub.fetch import HubOptions
from policy_patch.hub.named_patch import load_named_patches
from policy_patch.model.patched_model import PolicyPatchModel
from policy_patch.patch.folder import LARGEST_TENSORS
from policy_patch.patch.vectors import check_finite, check_norms, whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.get_logger(__name__)

_TENSOR = "prompt_embeddings"
_KIND = "PROMPT_TUNING"
_REASONS = {
    "P_TUNING": "its vectors come out of an encoder network, which only PEFT runs",
    "PREFIX_TUNING": "it holds keys and values for every layer, and a patch has vectors before the first layer only",
    "MULTITASK_PROMPT_TUNING": "its vectors depend on a task id",
}


def to_peft(model: PolicyPatchModel, folder: str | os.PathLike, *, patch_name: str | None = None) -> Path:
    """Write a patch as a prompt-tuning adapter, which `PeftModel.from_pretrained` loads.

    Args:
        model ([`PolicyPatchModel`]):
            The patched model. Not changed.
        folder (`str` or `os.PathLike`):
            A new or an empty folder.
        patch_name (`str`, *optional*):
            Defaults to the active patch.

    Returns:
        `Path`: the folder.

    Raises:
        ExportError: the patch goes after BOS, where PEFT cannot put vectors; or it is not clear which patch; or the
            folder holds files or cannot be written.
        PatchFileError: the vectors hold NaN or infinity.
    """
    names = [patch_name] if patch_name is not None else model.active_patches
    if len(names) != 1 or names[0] not in model.patch_config:
        raise ExportError(
            f"Which patch? Given: {patch_name!r}; loaded: {list(model.patch_config)}; active: {model.active_patches}. "
            "Give one as `patch_name`; to write a stack, `compose_patch` it first."
        )
    config, vectors = model.patch_config[names[0]], whole(model.patches[names[0]]).detach()
    files = _adapter_files(config, vectors, names[0])
    with new_folder(folder) as pending:
        _write(pending, files)
    return Path(folder)


def export_peft(
    patches: Sequence[str | os.PathLike],
    output_dir: str | os.PathLike,
    *,
    base: str | os.PathLike | None = None,
    hub: HubOptions | None = None,
) -> Exported:
    """Write patches as prompt-tuning adapters of PEFT: one in the folder itself, several in a subfolder each.

    Args:
        patches (`Sequence[str | os.PathLike]`):
            Folders or Hub ids, each maybe with a name and `=` before it.
        output_dir (`str` or `os.PathLike`):
            A new or an empty folder.
        base (`str` or `os.PathLike`, *optional*):
            Name of the base that the adapters are to name. Defaults to the one that each patch names.
        hub ([`HubOptions`], *optional*):
            Token, cache and so on.

    Raises:
        ExportError: as [`to_peft`].
        PolicyPatchError: a patch cannot be read.
    """
    found = load_named_patches(patches, hub)
    written: dict[str, bytes] = {}
    for patch in found:
        before = "" if len(found) == 1 else f"{patch.name}/"
        files = _adapter_files(patch.config, patch.vectors, patch.name, base=None if base is None else os.fspath(base))
        written |= {before + name: content for name, content in files.items()}
    with new_folder(output_dir) as pending:
        _write(pending, written)
    subfolder = "" if len(found) == 1 else f', subfolder="{found[0].name}"'
    return Exported(
        Path(output_dir),
        tuple(written),
        {"patches": [patch.facts() for patch in found]},
        f'In Python: PeftModel.from_pretrained(base, "{os.fspath(output_dir)}"{subfolder})',
    )


def from_peft(
    base: "PreTrainedModel",
    model_id: str | os.PathLike,
    *,
    patch_name: str = "default",
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    risk: str | None = None,
    patch_version: str = "0.1.0",
    is_trainable: bool = False,
    allow_large_vectors: bool = False,
    revision: str | None = None,
    subfolder: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> PolicyPatchModel:
    """Put a prompt-tuning adapter of PEFT in front of a base, as a patch with `placement="before_bos"`, PEFT's order.

    PEFT records the base's name and no fingerprint, so that it is the right base is not checked beyond its size;
    another name is warned of. Once saved, the patch has a fingerprint.

    Args:
        base ([`~transformers.PreTrainedModel`]):
            The loaded base that the adapter was made for.
        model_id (`str` or `os.PathLike`):
            A folder with `adapter_config.json` and `adapter_model.safetensors`, or a repository on the Hub that holds
            them: `"org/tox-adapter"`, `"org/tox-adapter@v1.2.0"`.
        patch_name (`str`, *optional*, defaults to `"default"`):
            Name of the patch in the model.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The base's tokenizer, for the fingerprint.
        risk (`str`, *optional*):
            The risk that the patch lowers.
        patch_version (`str`, *optional*, defaults to `"0.1.0"`):
            Version of the patch.
        is_trainable (`bool`, *optional*, defaults to `False`):
            Whether the vectors get gradients.
        allow_large_vectors (`bool`, *optional*, defaults to `False`):
            Accept vectors that are more than 100 times as long as the base's token embeddings.
        revision, subfolder, token, cache_dir, local_files_only, force_download (*optional*):
            As in [`PolicyPatchModel.from_pretrained`].

    Returns:
        [`PolicyPatchModel`]: with the patch active.

    Raises:
        PatchNotFoundError: there is no adapter in the folder or the repository.
        ExportError: another kind of adapter, a damaged one, or one whose tensors are pickled.
        BaseMismatchError: vectors of another size than the base's.
        PatchFileError: the vectors hold NaN or infinity, or are far longer than token embeddings; or a file on the Hub
            is far larger than that of a patch.
        HubAccessError, HubRevisionError, HubUnavailableError, DamagedDownloadError, HubError: the Hub does not deliver
            the adapter, or delivers a damaged file.
        UnsupportedModelError, ConfigError, PatchNameError: as [`get_policy_patch_model`].
    """
    options = HubOptions(revision, subfolder, token, cache_dir, local_files_only, force_download)
    location = locate_adapter(model_id, options)
    folder, name = location.folder, os.fspath(model_id)
    values = _adapter_config(folder, name)
    vectors = _vectors(folder, values)
    source = f"The vectors of `{name}`"
    check_finite(vectors, source)
    named = values.get("base_model_name_or_path")
    size = base.get_input_embeddings().embedding_dim
    if vectors.shape[1] != size:
        raise BaseMismatchError(
            f"`{name}` has vectors of {vectors.shape[1]} numbers and was made for `{named}`; this base, "
            f"`{base.config._name_or_path}`, has a hidden size of {size}. Load the base that it was made for."
        )
    if not allow_large_vectors:
        check_norms(vectors, base.get_input_embeddings(), source)
    if named and base.config._name_or_path and Path(named).name != Path(base.config._name_or_path).name:
        logger.warning(f"`{name}` was made for `{named}`; the base given is `{base.config._name_or_path}`.")
    config = PolicyPatchConfig(
        num_virtual_tokens=vectors.shape[0], placement="before_bos", init="random", risk=risk,
        patch_version=patch_version,
    )  # fmt: skip
    model = PolicyPatchModel(base)
    try:
        model.add_patch(patch_name, config, tokenizer=tokenizer)
        with torch.no_grad():
            model.patches[patch_name].copy_(vectors)
        model.patches[patch_name].requires_grad_(is_trainable)
        model.set_patch(patch_name)
    except BaseException:
        model.unload()
        raise
    return model.eval() if not is_trainable else model


# Out


def _adapter_files(
    config: PolicyPatchConfig, vectors: torch.Tensor, name: str, *, base: str | None = None
) -> dict[str, bytes]:
    if config.placement == "after_bos" and config.bos_token_id is not None:
        token = "an unknown token" if config.bos_token_id == "auto" else f"the token {config.bos_token_id}"
        raise ExportError(
            f"The patch `{name}` has its vectors after BOS ({token}), and PEFT puts vectors before the whole row, BOS "
            'included: the adapter would not do what the patch does. Train the patch with `placement="before_bos"` '
            "for PEFT, or serve this one by `policy-patch bake` or `policy-patch export --format prompt-embeds`."
        )
    check_finite(vectors, f"The vectors of `{name}`")
    values = {
        "base_model_name_or_path": base or config.base_model_name_or_path,
        "inference_mode": True,
        "num_attention_heads": None,  # PEFT fills these in from the base
        "num_layers": None,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": vectors.shape[0],
        "peft_type": _KIND,
        "prompt_tuning_init": "RANDOM",
        "revision": config.base_model_revision,
        "task_type": "CAUSAL_LM",
        "token_dim": vectors.shape[1],
    }
    tensors = save({_TENSOR: vectors.float().cpu().contiguous()}, metadata={"format": "pt"})
    return {ADAPTER_CONFIG: (json.dumps(values, indent=2) + "\n").encode(), ADAPTER_TENSORS: tensors}


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_whole(folder / name, content)


# In


def _adapter_config(folder: Path, name: str) -> dict[str, Any]:
    """Return the configuration of a prompt-tuning adapter for a causal language model.

    Raises:
        PatchNotFoundError, ExportError: as [`from_peft`].
    """
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        raise PatchNotFoundError(
            f"`{name}` holds no {ADAPTER_CONFIG}, so no PEFT adapter. Expected a folder that PEFT has saved, or a "
            "repository on the Hub such as `org/tox-adapter`."
        )
    try:
        values = parse_json(read_text(path, largest=LARGEST_ADAPTER_CONFIG), allow_nan=False)
    except (OSError, ValueError) as error:
        reason = error.at("it") if isinstance(error, Fault) else error
        raise ExportError(f"{path} cannot be read: {reason}.") from error
    if not isinstance(values, dict):
        raise ExportError(f"{path} holds a {type(values).__name__}; expected a JSON object.")
    kind = values.get("peft_type")
    if kind != _KIND:
        reason = _REASONS.get(str(kind), "it changes weights, and a patch changes none")
        raise ExportError(f"`{name}` is an adapter of the type {kind!r}: {reason}. Only {_KIND} becomes a patch.")
    if values.get("task_type") not in (None, "CAUSAL_LM") or values.get("num_transformer_submodules") not in (None, 1):
        raise ExportError(
            f"`{name}` is for {values.get('task_type')!r}, {values.get('num_transformer_submodules')!r} submodules; "
            "a patch is for a causal language model, CAUSAL_LM with 1."
        )
    if values.get("modules_to_save"):
        raise ExportError(f"`{name}` also replaces {values['modules_to_save']}; a patch changes no weights.")
    return values


def _vectors(folder: Path, values: dict[str, Any]) -> torch.Tensor:
    """Return the vectors `(num_virtual_tokens, hidden_size)` of an adapter in fp32."""
    path = folder / ADAPTER_TENSORS
    if not path.is_file():
        pickled = (folder / PICKLED_TENSORS).is_file()
        raise ExportError(
            f"`{folder}` has no {ADAPTER_TENSORS}."
            + (f" Its {PICKLED_TENSORS} is pickled and is not read: save it anew with PEFT." if pickled else "")
        )
    expected = (values.get("num_virtual_tokens"), values.get("token_dim"))
    try:
        if path.stat().st_size > LARGEST_TENSORS:
            raise ExportError(f"{path} has {path.stat().st_size:,} bytes; a patch has at most {LARGEST_TENSORS:,}.")
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            shape = tuple(file.get_slice(_TENSOR).get_shape()) if names == [_TENSOR] else None
            if shape is None or shape != (expected[0], expected[1] or shape[-1]):
                raise ExportError(
                    f"{path} has the tensors {names} of shape {shape}; expected one, `{_TENSOR}`, of shape {expected}."
                )
            vectors = file.get_tensor(_TENSOR)
    except (OSError, SafetensorError) as error:
        raise ExportError(f"{path} cannot be read: {error}. Get the adapter again.") from error
    if not vectors.is_floating_point():
        raise ExportError(f"{path} holds {vectors.dtype}; expected floating-point vectors.")
    return vectors.float()
