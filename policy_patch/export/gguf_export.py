"""Writes patches into a GGUF, llama.cpp's file format: made of the base's checkpoint, or added to a GGUF of the base.

How the file is read, proved to be the base, changed and written is in the files `gguf_*.py` beside this one.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from policy_patch.answers.served_probe import record_probe
from policy_patch.base.loading import load_errors, load_pretrained
from policy_patch.base.token_embeddings import embedding_factor
from policy_patch.errors import ExportError
from policy_patch.export.formats import Exported
from policy_patch.export.gguf_baked import baked_gguf, is_baked
from policy_patch.export.gguf_edit import (
    ARGUMENTS_NAME,
    EMBEDDINGS,
    FILE_NAME,
    HEAD,
    NOTICE,
    PLAIN_TEMPLATE,
    check_places,
    with_patches,
)
from policy_patch.export.gguf_file import GGUFContent, read_gguf, write_gguf
from policy_patch.export.gguf_folder import gguf_of_folder
from policy_patch.export.gguf_proof import check_is_base, tolerance
from policy_patch.export.gguf_rows import StoredRows, mean_row, numbers
from policy_patch.export.gguf_vocabulary import CHAT_TEMPLATE, TOKENS, check_vocabulary
from policy_patch.export.head_rows import HeadRows, centroid_bound, head_rows
from policy_patch.export.new_folder import new_folder
from policy_patch.export.patch_tokens import PatchTokens, check_choices, choices_of, new_marker
from policy_patch.export.suppression import llama_cpp_arguments
from policy_patch.export.token_rows import TokenRows, token_rows
from policy_patch.hub.named_patch import base_of, load_named_patches
from policy_patch.patch.folder import patch_hash
from policy_patch.patch.stack_check import check_same_place, check_stack
from policy_patch.privacy.local_names import lab_folder, lab_tokenizer_folder
from policy_patch.trust.stack_policy import on_conflict_in_force

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

    from policy_patch.hub.fetch import HubOptions
    from policy_patch.model.patched_model import PolicyPatchModel

_EXACT = ("F32", "F16", "BF16")  # types in which a row of the head can be what it was computed to be


def export_gguf(
    patches: Sequence[str | PathLike],
    output_dir: str | PathLike,
    *,
    base: str | PathLike | None = None,
    hub: "HubOptions | None" = None,
    source: str | None = None,
    weight_type: str = "auto",
    stacks: str | None = None,
    default: str | None = None,
    probe: bool = True,
    on_conflict: str = "warn",
) -> Exported:
    """Write a GGUF of the base with patches in it, for llama.cpp. The base is loaded, to prove that they fit it.

    Chat carries the patch that `chat_template_kwargs: {"patch": "tox"}` names, or the default; `"none"` and `"off"` are
    the base. Raw completions are always the base.

    Args:
        patches (`Sequence[str | PathLike]`):
            Folders or Hub ids, maybe with a name: `"tox=org/tox-patch@v1.2.0"`. Or one folder that
            [`bake`] has written: it is converted as it is, and only `weight_type` counts.
        output_dir (`str` or `os.PathLike`):
            A folder that does not exist, or is empty. It gets `model.gguf`, `llama_cpp.args` (arguments by which
            patch tokens are never sampled) and `policy_patch_probe.json` (see `policy-patch probe`).
        base (`str` or `os.PathLike`, *optional*):
            Hub id or folder of the base. Defaults to the one that the first patch names.
        hub ([`HubOptions`], *optional*):
            Token, cache and so on, for the patches.
        source (`str`, *optional*):
            A GGUF of the base, also quantised: the patches are added to it. By default the base's checkpoint is
            converted, which only some architectures are.
        weight_type (`str`, *optional*, defaults to `"auto"`):
            Without `source`: the type of the matrices, as [`gguf_of_folder`] says.
        stacks (`str`, *optional*):
            Stacks to offer beside the single patches: `"tox+bias,bias+tox"`.
        default (`str`, *optional*):
            The choice of requests that name none. Defaults to the first patch.
        probe (`bool`, *optional*, defaults to `True`):
            Record what the base predicts with each choice, so that `policy-patch probe` can check a server.
        on_conflict (`"warn"`, `"refuse"` or `"ignore"`, *optional*, defaults to `"warn"`):
            What follows if a stack breaks a rule of its patches.

    Returns:
        [`Exported`]: what was written.

    Raises:
        PatchConflictError: a stack breaks a rule of a patch, and `on_conflict` is `"refuse"`.
        BaseMismatchError: a patch, or `source`, is not of the base.
        ExportError: the base, the source or the patches cannot be written as GGUF, or `output_dir` holds files.
        ModelLoadError: the base cannot be loaded.
        PatchNotFoundError, PatchFileError, ConfigError, HubError: a patch cannot be read.
        MissingExtraError: the package `gguf` is not installed.
    """
    from policy_patch.model.patched_model import PolicyPatchModel

    if len(patches) == 1 and is_baked(patches[0]):
        return baked_gguf(patches[0], output_dir, weight_type=weight_type)
    named = load_named_patches(patches, hub)
    model, tokenizer, folder = _load_base(*base_of(named, base), hub)
    patched = PolicyPatchModel.from_pretrained(
        model,
        [one.folder for one in named],
        [one.name for one in named],
        tokenizer=tokenizer,
        activate=False,
    )
    choices = choices_of([*(one.name for one in named), *_stacks(stacks)])
    members = {one.name: one.member for one in named}
    for stack in choices.values():
        check_stack(
            [members[name] for name in stack if name in members],
            on_conflict=lambda: on_conflict_in_force(on_conflict),
        )
    patched.on_conflict = "ignore"  # all of them have been checked
    return write_patched_gguf(
        patched,
        tokenizer,
        output_dir,
        source=source or folder,
        weight_type=weight_type,
        choices=choices,
        default=default,
        probe=probe,
        facts=[one.facts() for one in named],
    )


def write_patched_gguf(
    model: "PolicyPatchModel",
    tokenizer: "PreTrainedTokenizerBase",
    output_dir: str | PathLike,
    *,
    source: str | PathLike,
    weight_type: str = "auto",
    choices: Mapping[str, Sequence[str]] | None = None,
    default: str | None = None,
    probe: bool = True,
    facts: Sequence[Mapping[str, Any]] | None = None,
) -> Exported:
    """Write the patches of a loaded model into a GGUF.

    Args:
        model ([`PolicyPatchModel`]):
            The base, not quantised, with the patches. Not changed.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The base's tokenizer. Not changed.
        output_dir, weight_type, default, probe:
            As [`export_gguf`] says.
        source (`str` or `os.PathLike`):
            A GGUF of the base, or the folder of its checkpoint.
        choices (`Mapping[str, Sequence[str]]`, *optional*):
            What requests can name -> names of patches. Defaults to each patch of the model alone.
        facts (`Sequence[Mapping]`, *optional*):
            What the file's metadata says of each patch. Defaults to its name, version, hash and length.

    Returns:
        [`Exported`]: what was written.

    Raises:
        BaseMismatchError, ExportError, MissingExtraError: as [`export_gguf`].
    """
    base = model.get_base_model()
    choices = choices or {name: (name,) for name in model.patch_config}
    choices = {choice: tuple(stack) for choice, stack in choices.items()}
    names = list(dict.fromkeys(name for stack in choices.values() for name in stack))
    default = next(iter(choices), "") if default is None else default
    check_choices(choices, default, set(model.patch_config))
    for stack in choices.values():
        model.check_stack(stack)
    bos = _bos_text(model, names, tokenizer)
    content = _read(source, weight_type)
    check_vocabulary(content, tokenizer, f"`{fspath(source)}`")
    check_is_base(content, base, f"`{fspath(source)}`")

    lengths = {name: model.patches[name].shape[0] for name in names}
    places = token_rows(base, tokenizer, sum(lengths.values()))
    check_places(content, places)
    left = iter(places.ids)
    ids = {name: tuple(next(left) for _ in range(length)) for name, length in lengths.items()}
    tokens = PatchTokens(new_marker(), ids, choices, default)
    template = content.get(CHAT_TEMPLATE) or (tokenizer.chat_template and tokenizer.get_chat_template())
    rows, head = _rows(model, names), _head_row(base, content, len(places.added))
    patched = with_patches(
        content,
        tokens,
        rows,
        head.row.float().numpy(),
        facts=facts or [_facts(model, name) for name in names],
        base=_base_facts(model),
        bos=bos,
        template=template or PLAIN_TEMPLATE,
    )
    with new_folder(output_dir) as folder:
        write_gguf(folder / FILE_NAME, patched)
        error = _stored_error(read_gguf(folder / FILE_NAME), tokens, rows)
        (folder / ARGUMENTS_NAME).write_text(llama_cpp_arguments(tokens))
        if probe:
            chat = _as_llama_cpp_renders(template or PLAIN_TEMPLATE, content, tokenizer)
            record_probe(model, tokenizer, folder, stacks=_default_first(choices, default), chat_template=chat)
        files = tuple(sorted(path.name for path in folder.iterdir()))
    facts = _written_facts(patched, places, tokens) | {"error_of_stored_vectors": error, "bound": head.bound}
    target = Path(output_dir)
    return Exported(target, files, facts, then=f"llama-server -m {target / FILE_NAME} $(cat {target / ARGUMENTS_NAME})")


def _read(source: str | PathLike, weight_type: str) -> GGUFContent:
    if Path(source).is_dir():
        return gguf_of_folder(source, weight_type=weight_type)
    if weight_type != "auto":
        raise ExportError(f"`weight_type={weight_type}` is for a checkpoint; the types of a GGUF stay as they are.")
    return read_gguf(source)


def _stacks(text: str | None) -> list[tuple[str, ...]]:
    """Return the stacks in a text such as `"tox+bias,bias+tox"`."""
    return [tuple(one.strip().split("+")) for one in (text or "").split(",") if one.strip()]


def _load_base(name: str, revision: str | None, hub: "HubOptions | None") -> tuple[Any, Any, Path]:
    """Return the base in its stored type, its tokenizer, and the folder of its files."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import cached_file

    options = {"revision": revision}
    if hub is not None:
        options |= {"token": hub.token, "cache_dir": hub.cache_dir, "local_files_only": hub.local_files_only}
    options = {key: value for key, value in options.items() if value}
    place = lab_folder(name) or name
    model = load_pretrained(AutoModelForCausalLM, place, dtype="auto", trust_remote_code=False, **options)
    with load_errors(f"the tokenizer of `{name}`"):
        tokenizer = AutoTokenizer.from_pretrained(
            lab_tokenizer_folder(name) or place, trust_remote_code=False, **options
        )
        folder = Path(cached_file(place, "config.json", **options)).parent
    return model.eval(), tokenizer, folder


def _bos_text(model: "PolicyPatchModel", names: Sequence[str], tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """Return the text of the token after which the vectors go, or None if they go first."""
    configs = {name: model.patch_config[name] for name in names}
    check_same_place(configs)
    config = configs[names[0]]
    if config.bos_token_id is None:
        return None
    if config.placement != "after_bos":
        raise ExportError(
            f"The vectors of `{names[0]}` go before the BOS token, and llama.cpp puts BOS first. Train the patch with "
            '`placement="after_bos"`.'
        )
    return tokenizer.convert_ids_to_tokens(config.bos_token_id)


def _rows(model: "PolicyPatchModel", names: Sequence[str]) -> "np.ndarray":
    """Return the rows `(number of vectors, hidden_size)` fp32 of the embeddings that give the vectors.

    Gemma multiplies its embeddings by a number after it has looked them up, and so does llama.cpp.
    """
    vectors = torch.cat([model.patches[name].detach().float().cpu() for name in names])
    factor, root = embedding_factor(model.get_base_model().get_input_embeddings()), math.sqrt(vectors.shape[1])
    return (vectors / (root if abs(factor / root - 1) < 0.01 else factor)).numpy()  # llama.cpp has it in fp32


def _head_row(base: Any, content: GGUFContent, count: int) -> HeadRows:
    """Return the row of the head for each of `count` added tokens, and how much probability they can have."""
    head = content.tensors.get(HEAD, content.tensors[EMBEDDINGS])
    if not count:
        return HeadRows("unchanged", torch.zeros(head.shape[-1]), None, 0.0)
    if head.type in _EXACT:
        return head_rows(base, StoredRows(head), count)
    # In a quantised head only the mean of all rows keeps its meaning.
    row = torch.from_numpy(mean_row(head))
    return HeadRows("centroid", row, None, centroid_bound(base, head.rows, count))


def _as_llama_cpp_renders(template: str, content: GGUFContent, tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return a template that also renders the BOS token which llama.cpp puts first where the template does not."""
    message = [{"role": "user", "content": "a"}]
    text = tokenizer.apply_chat_template(message, chat_template=template, tokenize=False, add_generation_prompt=True)
    bos = tokenizer.bos_token
    if not content.get("tokenizer.ggml.add_bos_token") or bos is None or text.startswith(bos):
        return template
    return "{{ bos_token }}" + template


def _default_first(choices: Mapping[str, Sequence[str]], default: str) -> dict[str, Sequence[str]]:
    return {choice: choices[choice] for choice in sorted(choices, key=lambda choice: choice != default)}


def _facts(model: "PolicyPatchModel", name: str) -> dict[str, Any]:
    config, vectors = model.patch_config[name], model.patches[name].detach()
    return {
        "name": name,
        "version": config.patch_version,
        "risk": config.risk,
        "sha256": patch_hash(config, vectors),
        "num_virtual_tokens": vectors.shape[0],
    }


def _base_facts(model: "PolicyPatchModel") -> dict[str, Any]:
    config = next(iter(model.patch_config.values()))
    fingerprint = json.dumps(config.base_fingerprint, sort_keys=True, separators=(",", ":"))
    return {
        "name": config.base_model_name_or_path,
        "revision": config.base_model_revision,
        "fingerprint_sha256": hashlib.sha256(fingerprint.encode()).hexdigest() if config.base_fingerprint else None,
    }


def _stored_error(content: GGUFContent, tokens: PatchTokens, rows: "np.ndarray") -> float:
    """Return the relative error of the vectors in the file that was written, after a check that they are there."""
    import numpy as np

    table = content.tensors[EMBEDDINGS]
    stored = np.concatenate([numbers(table, one, one + 1) for one in tokens.all_ids])
    error = float(np.sqrt(np.square(stored - rows).sum() / np.square(rows).sum()))
    names = content.get(TOKENS)
    if not error <= tolerance(table.type) or any(names[one] != name for one, name in tokens.name_of.items()):
        raise ExportError(
            f"The vectors differ by {error:.2g} of their size in the file; {table.type} explains "
            f"{tolerance(table.type):.2g}. They may be too uneven for it: take a GGUF with embeddings in F16."
        )
    return error


def _written_facts(content: GGUFContent, places: TokenRows, tokens: PatchTokens) -> dict[str, Any]:
    return {
        "choices": list(tokens.choices),
        "default": tokens.default,
        "token_ids": list(tokens.all_ids),
        "rows_reused": len(places.slack) + len(places.reserved),
        "rows_added": len(places.added),
        "embedding_type": content.tensors[EMBEDDINGS].type,
        "notice": NOTICE,
    }
