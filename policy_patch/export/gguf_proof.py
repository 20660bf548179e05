"""Proves that a GGUF is the base of a patch: its settings, its embeddings, its head and a part of all other weights.

Quantised weights agree with the base's within the error of their type; a relative of the base whose weights differ by
less than that cannot be told from it. The vocabulary is compared in `gguf_vocabulary.py`.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from policy_patch.base.weights import is_tied
from policy_patch.errors import BaseMismatchError, ExportError
from policy_patch.export.gguf_architectures import (
    architecture_of,
    is_known,
    laid_out,
    rope_factors,
    settings_of,
    written_name,
)
from policy_patch.export.gguf_file import GGUFContent, Tensor, gguf_package, quantisation
from policy_patch.export.gguf_rows import chunks, numbers

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel

Compared = Iterator[tuple[str, "np.ndarray", "np.ndarray"]]  # name, numbers of the file, numbers of the base
_SAMPLED_ROWS = 16  # of each matrix
# Relative error of floating-point types: a base may be stored in one and loaded in another.
_ROUNDING = {"F32": 4e-3, "F16": 4e-3, "BF16": 4e-3}
_LARGEST_ERROR = 0.6  # relative, of the coarsest types; unrelated weights differ by 1.4
_ROW_SLACK = 4.0  # how much larger the error of one row may be than that of all
_NO_VALUE_COMPARED = ("context_length", "vocab_size")  # people change the first; the rows are compared below
_GENERAL = {
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
}


def tolerance(kind: str) -> float:
    """Return the largest relative error, as root mean square, that storing weights in a type explains.

    For quantised types it is 4 divided by 2 to the power of the bits per weight, which we chose: 0.011 for Q8_0 and
    0.18 for Q4_0, two to three times what normally distributed weights show.
    """
    if kind in _ROUNDING:
        return _ROUNDING[kind]
    block, size = gguf_package().GGML_QUANT_SIZES[quantisation(kind)]
    return min(_LARGEST_ERROR, 4.0 * 2.0 ** (-8 * size / block))


def check_is_base(content: GGUFContent, base: "PreTrainedModel", source: str) -> None:
    """Check that a GGUF holds the weights of `base`.

    Of the embeddings and of a head that is stored apart, all rows are compared. Of all other weights: each whole vector
    and 16 rows of each matrix, if the architecture is one whose layout we know, else the norms alone.

    Args:
        content ([`GGUFContent`]):
            The file.
        base ([`~transformers.PreTrainedModel`]):
            The base, in memory, not quantised. Not changed.
        source (`str`):
            Where the file is, for error messages.

    Raises:
        BaseMismatchError: a setting, a size or a weight differs.
        ExportError: the file's architecture or a type of its weights is unknown to the package gguf.
    """
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):  # a stranger's weights may be anything
        _check_is_base(content, base, source)


def _check_is_base(content: GGUFContent, base: "PreTrainedModel", source: str) -> None:
    config = base.config.get_text_config()
    _check_settings(content, config, source)
    embeddings, head = base.get_input_embeddings().weight, base.get_output_embeddings().weight
    _check_table(content, "token_embd.weight", embeddings, source)
    if "output.weight" in content.tensors:
        _check_table(content, "output.weight", head, source)
    elif not is_tied(base):
        raise BaseMismatchError(f"{source} has no head of its own; that of the base is not its embeddings.")
    compare = _compare_known if is_known(config) else _compare_norms
    for name, theirs, ours in compare(content, base, source):
        _check_close(name, theirs, ours, content.tensors[name].type, source)


def _check_settings(content: GGUFContent, config: Any, source: str) -> None:
    if is_known(config):
        if content.architecture != architecture_of(config).name:
            raise BaseMismatchError(
                f"{source} is not of this base: it is a `{content.architecture}`, the base a `{config.model_type}`."
            )
        expected = {name: value.value for name, value in settings_of(config).items()}
    else:
        expected = {
            f"{content.architecture}.{name}": getattr(config, own)
            for name, own in _GENERAL.items()
            if getattr(config, own, None) is not None
        }
    for name, value in expected.items():
        found = content.get(name)
        if found is None and name.endswith("rope.freq_base"):
            found = 10000.0  # llama.cpp's default
        if found is None or name.endswith(_NO_VALUE_COMPARED):
            continue
        if not (found == value or (isinstance(value, float) and abs(found - value) <= 1e-6 * abs(value))):
            raise BaseMismatchError(f"{source} is not of this base: its `{name}` is {found}; the base has {value}.")
    if content.setting("embedding_length") != config.hidden_size:
        raise BaseMismatchError(f"{source} is not of this base: its architecture is `{content.architecture}`.")


def _check_table(content: GGUFContent, name: str, weight: "torch.Tensor", source: str) -> None:
    import numpy as np

    table = content.tensors.get(name)
    if table is None or len(table.shape) != 2 or table.shape[1] != weight.shape[1] or table.rows > weight.shape[0]:
        shape = None if table is None else table.shape
        raise BaseMismatchError(f"{source} has `{name}` of the shape {shape}; the base has {tuple(weight.shape)}.")
    limit, errors, sizes = tolerance(table.type), [], []
    for first, theirs in chunks(table):
        ours = weight[first : first + len(theirs)].detach().float().cpu().numpy()
        errors.append(np.square(theirs - ours).sum(axis=1))
        sizes.append(np.square(ours).sum(axis=1))
    error, size = np.concatenate(errors), np.concatenate(sizes)
    wrong = np.sqrt(error) > _ROW_SLACK * limit * np.sqrt(np.maximum(size, size.mean()))
    if not np.isfinite(error).all() or wrong.any() or error.sum() > limit**2 * size.sum():
        row = int(np.argmax(error / np.maximum(size, 1e-30)))
        raise BaseMismatchError(
            f"{source} is not of this base: `{name}` differs by {np.sqrt(error.sum() / size.sum()):.2g} of its size, "
            f"most in row {row}; {table.type} explains {limit:.2g}. Give the GGUF of the patch's base."
        )


def _compare_known(content: GGUFContent, base: "PreTrainedModel", source: str) -> Compared:
    config = base.config.get_text_config()
    left = set(content.tensors) - {"token_embd.weight", "output.weight"}
    tables = (base.get_input_embeddings().weight, base.get_output_embeddings().weight)
    for own, weight in base.named_parameters():
        if any(weight is table for table in tables):
            continue
        name = written_name(own, config)
        laid = laid_out(own, weight.detach(), config)
        if name not in content.tensors or content.tensors[name].shape != tuple(laid.shape):
            raise BaseMismatchError(
                f"{source} is not of this base: it has no `{name}` of the shape {tuple(laid.shape)}."
            )
        left.discard(name)
        yield name, *_sampled(content.tensors[name], laid)
    if (factors := rope_factors(config)) is not None and "rope_freqs.weight" in left:
        left.discard("rope_freqs.weight")
        yield "rope_freqs.weight", content.tensors["rope_freqs.weight"].load(), factors.numpy()
    elif factors is not None:
        raise BaseMismatchError(f"{source} lacks `rope_freqs.weight`, by which Llama 3 rotates.")
    if left:
        raise BaseMismatchError(
            f"{source} is not of this base: it has weights that the base has not: {sorted(left)[:3]}."
        )


def _compare_norms(content: GGUFContent, base: "PreTrainedModel", source: str) -> Compared:
    gguf = gguf_package()
    arch = next((kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == content.architecture), None)
    if arch is None:
        raise ExportError(
            f"{source} has the architecture `{content.architecture}`, which the package gguf does not know."
        )
    names, count = gguf.get_tensor_name_map(arch, base.config.get_text_config().num_hidden_layers), 0
    for own, weight in base.named_parameters():
        name = names.get_name(own, try_suffixes=(".weight", ".bias")) if "norm" in own and weight.dim() == 1 else None
        tensor = content.tensors.get(name)
        if tensor is None or tensor.shape != tuple(weight.shape):
            continue
        count += 1
        theirs, ours = _sampled(tensor, weight.detach())
        shift = 1.0 if abs(float((theirs - ours).mean()) - 1.0) < 0.5 else 0.0  # Gemma's norms are stored plus one
        yield name, theirs - shift, ours
    if count < base.config.get_text_config().num_hidden_layers:
        raise ExportError(f"{source}: too few of its norms have a known name to prove that it is the patch's base.")


def _sampled(tensor: Tensor, weight: "torch.Tensor") -> "tuple[np.ndarray, np.ndarray]":
    """Return the same numbers of the file and of the base: of a matrix some rows, spread evenly."""
    import numpy as np

    if weight.dim() == 1:
        return tensor.load().astype(np.float32), weight.float().cpu().numpy()
    rows = np.linspace(0, tensor.rows - 1, min(_SAMPLED_ROWS, tensor.rows)).astype(int)
    theirs = np.concatenate([numbers(tensor, row, row + 1) for row in rows])
    return theirs, weight[rows.tolist()].float().cpu().numpy()


def _check_close(name: str, theirs: "np.ndarray", ours: "np.ndarray", kind: str, source: str) -> None:
    import numpy as np

    error, size = np.square(theirs - ours).sum(), np.square(ours).sum()
    if not error <= tolerance(kind) ** 2 * size:
        raise BaseMismatchError(
            f"{source} is not of this base: `{name}` differs by {np.sqrt(error / max(size, 1e-30)):.2g} of its size; "
            f"{kind} explains {tolerance(kind):.2g}. Give the GGUF of the patch's base."
        )
