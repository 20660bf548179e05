"""The vectors of a patch as tensors: their initial values, what they may be, and their way into a parameter.

`tensor_file.py` has the bytes of the file that holds them; `injection.py` puts the vectors in front of a base.
"""

import hashlib
from typing import TYPE_CHECKING

import torch
from torch import nn

from policy_patch.base.token_embeddings import embedded
from policy_patch.config import PolicyPatchConfig
from policy_patch.errors import ConfigError, PatchFileError, TokenizerRequiredError
from policy_patch.patch.tensor_file import array_from_bytes, array_to_bytes, not_finite

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LARGEST_NORM, _SAMPLED_ROWS = 100, 256  # see `check_norms`


def initial_vectors(
    config: PolicyPatchConfig, embeddings: nn.Module, tokenizer: "PreTrainedTokenizerBase | None" = None
) -> torch.Tensor:
    """Return the vectors a new patch starts from.

    Args:
        config ([`PolicyPatchConfig`]):
            Gives the number of vectors and the kind of initialisation.
        embeddings (`torch.nn.Module`):
            The base's input embeddings: `(..., )` token ids to `(..., hidden_size)`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The base's tokenizer. Needed for `init="text"`.

    Returns:
        `torch.Tensor`: `(num_virtual_tokens, hidden_size)`, fp32, on the device of the embeddings.

    Raises:
        TokenizerRequiredError: `init="text"` without a tokenizer.
        ConfigError: `init="text"` without an `init_text`, or with one that has no tokens.
    """
    if config.init == "text":
        token_ids = _text_token_ids(config, tokenizer)
    else:
        generator = torch.Generator().manual_seed(config.init_seed)
        token_ids = torch.randint(_vocabulary_size(embeddings), (config.num_virtual_tokens,), generator=generator)
    with torch.no_grad():
        device = next(embeddings.parameters()).device
        vectors = embedded(embeddings, token_ids).float()  # (num_virtual_tokens, hidden_size)
        if config.init == "random":
            # Our choice: noise on the scale of the embeddings. PEFT's N(0, 1) is 10 to 100 times larger than the
            # embeddings of most models.
            table = embedded(embeddings, torch.arange(_vocabulary_size(embeddings))).float()
            noise = torch.randn(vectors.shape, generator=generator).to(device)
            vectors = table.mean() + table.std() * noise
    return vectors.detach().clone()


def _text_token_ids(config: PolicyPatchConfig, tokenizer: "PreTrainedTokenizerBase | None") -> torch.Tensor:
    """Return the token ids of the instruction, repeated or cut to `(num_virtual_tokens,)` (arXiv 2511.08484)."""
    if tokenizer is None:
        raise TokenizerRequiredError(
            '`init="text"` starts the vectors from the tokens of `init_text`, so it needs the tokenizer of the base. '
            'Give `tokenizer=`, or use `init="vocab"` or `init="random"`.'
        )
    if config.init_text is None:
        raise ConfigError(
            f'`init="text"` needs an `init_text`; there is no default for `risk={config.risk!r}`. Give a safety '
            "instruction in plain words."
        )
    ids = tokenizer(config.init_text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise ConfigError(f"`init_text={config.init_text!r}` has no tokens under the given tokenizer.")
    repeats = -(-config.num_virtual_tokens // len(ids))  # ceiling division
    return torch.tensor((ids * repeats)[: config.num_virtual_tokens])


def _vocabulary_size(embeddings: nn.Module) -> int:
    return next(embeddings.parameters()).shape[0]


def vectors_to_bytes(vectors: torch.Tensor, config_sha256: str | None = None) -> bytes:
    """Return `vectors` `(num_virtual_tokens, hidden_size)` as the bytes of a safetensors file, in fp32.

    The same vectors give the same bytes. (`safetensors.torch.save` writes metadata in random order.)

    Args:
        vectors (`torch.Tensor`):
            `(num_virtual_tokens, hidden_size)`, any float dtype.
        config_sha256 (`str`, *optional*):
            [`~policy_patch.config.config_hash`] of the configuration beside the file. Without it the bytes only serve
            to compare vectors: as a file they are refused.

    Raises:
        PatchFileError: the vectors hold NaN or infinity, which no patch may contain.
    """
    vectors = vectors.detach().to(device="cpu", dtype=torch.float32).contiguous()
    return array_to_bytes(vectors.numpy(), config_sha256)


def vectors_hash(vectors: torch.Tensor) -> str:
    """Return the SHA-256 of vectors `(num_virtual_tokens, hidden_size)` in hexadecimal.

    It depends on the vectors alone, unlike the `sha256` of a configuration, which is that of the tensor file and so
    changes with the version.

    Raises:
        PatchFileError: the vectors hold NaN or infinity.
    """
    return hashlib.sha256(vectors_to_bytes(vectors)).hexdigest()


def vectors_from_bytes(content: bytes, config: PolicyPatchConfig, source: str) -> torch.Tensor:
    """Return the vectors in the bytes of a tensor file, checked against the configuration.

    Args:
        content (`bytes`):
            The whole file.
        config ([`PolicyPatchConfig`]):
            Gives the expected shape.
        source (`str`):
            Where the bytes come from, for error messages.

    Returns:
        `torch.Tensor`: `(num_virtual_tokens, hidden_size)`, fp32, on the CPU.

    Raises:
        PatchFileError: the bytes are truncated or not a safetensors file, have unknown tensors, a wrong shape or dtype,
            NaN or infinity, or metadata that [`config_hash_in`] refuses.
    """
    return torch.from_numpy(array_from_bytes(content, config, source))


def whole(vectors: torch.Tensor) -> torch.Tensor:
    """Return `vectors` in one piece. If they are sharded, all processes must call this, because each sends its part."""
    if hasattr(vectors, "ds_id") and vectors.shape != vectors.ds_shape:  # DeepSpeed ZeRO-3; it keeps small ones whole
        import deepspeed

        with deepspeed.zero.GatheredParameters([vectors]):
            return vectors.detach().clone()
    return vectors.full_tensor() if hasattr(vectors, "full_tensor") else vectors  # FSDP2


def overwrite(parameter: nn.Parameter, vectors: torch.Tensor) -> None:
    """Write `vectors` into `parameter` of the same shape, sharded or not. All processes must pass the same values."""
    with torch.no_grad():
        if hasattr(parameter, "ds_id"):
            import deepspeed

            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                parameter.copy_(vectors)
            return
        if hasattr(parameter, "full_tensor"):
            from torch.distributed.tensor import distribute_tensor

            vectors = distribute_tensor(vectors.to(parameter.device), parameter.device_mesh, parameter.placements)
        parameter.copy_(vectors)


def check_finite(vectors: torch.Tensor, source: str) -> None:
    """Raise `PatchFileError` if `vectors` holds NaN or infinity."""
    bad = int((~torch.isfinite(vectors)).sum())
    if bad:
        raise not_finite(bad, vectors.numel(), source)


def check_norms(vectors: torch.Tensor, embeddings: nn.Module, source: str) -> None:
    """Raise `PatchFileError` if the norm of a vector exceeds the base's token embeddings by orders of magnitude.

    The limit is our choice: 100 times the longest of 256 embeddings. Well-trained patches end at 0.7 to 1.3 times, and
    with learning rates ten times the usual ones at 40. If the embeddings cannot be read in this process (sharded over
    several, or on the meta device), nothing is compared.

    Args:
        vectors (`torch.Tensor`):
            `(num_virtual_tokens, hidden_size)`.
        embeddings (`torch.nn.Module`):
            The base's input embeddings: `(..., )` token ids to `(..., hidden_size)`.
        source (`str`):
            Where the vectors come from, for error messages.
    """
    longest = float(torch.linalg.vector_norm(vectors.detach().double(), dim=1).max())
    usual = _longest_embedding(embeddings)
    if usual is not None and longest > _LARGEST_NORM * usual:
        raise PatchFileError(
            f"{source} hold a vector of norm {longest:.3g}; the base's token embeddings have norms of up to "
            f"{usual:.3g}, and vectors may have at most {_LARGEST_NORM} times that. Longer ones drown out the text: "
            "they were scaled or damaged, or training diverged. If they are intended, give "
            "`allow_large_vectors=True`."
        )


def _longest_embedding(embeddings: nn.Module) -> float | None:
    """Return the largest norm among evenly spaced token embeddings; None if they cannot be read here."""
    table = next(embeddings.parameters())
    rows = getattr(embeddings, "num_embeddings", table.shape[0])
    if table.numel() == 0 or hasattr(table, "full_tensor"):  # DeepSpeed, FSDP2
        return None
    ids = torch.linspace(0, rows - 1, min(_SAMPLED_ROWS, rows)).long()
    with torch.no_grad():
        # Offloaded embeddings are on the meta device until they are called; ids may be on any other device.
        found = embeddings(ids.unsqueeze(0))[0] if table.is_meta else embedded(embeddings, ids)
    norm = float("nan") if found.is_meta else float(torch.linalg.vector_norm(found.float(), dim=1).max())
    return norm if norm > 0 else None
