"""What a client of a served base needs of it: configuration, tokenizer and the rows of its token embeddings.

The model itself runs in an engine; nothing here loads its layers.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from policy_patch.base.embedding_rows import EmbeddingRows, embedding_rows
from policy_patch.base.loading import load_config, load_errors
from policy_patch.base.recorded_fingerprint import read_fingerprint
from policy_patch.base.tokenizer_hash import tokenizer_hash
from policy_patch.config import PolicyPatchConfig
from policy_patch.errors import BaseMismatchError, ModelLoadError
from policy_patch.privacy.local_names import lab_folder


@dataclass(frozen=True)
class ServedBase:
    """A base that an engine serves.

    Args:
        name (`str`):
            Folder, Hub id or `lab:base`.
        config ([`~transformers.PretrainedConfig`]):
            Its configuration.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer, as the engine loads it.
        rows ([`EmbeddingRows`]):
            Its token embeddings.
    """

    name: str
    config: Any
    tokenizer: Any
    rows: EmbeddingRows

    def ids(self, prompt: str | Sequence[int]) -> list[int]:
        """Return the token ids of a prompt, with BOS where the tokenizer adds one; ids stay as they are."""
        if not isinstance(prompt, str):
            return list(prompt)
        return self.tokenizer(prompt, verbose=False)["input_ids"]

    def check_patch(self, config: PolicyPatchConfig, vectors: torch.Tensor, source: str) -> None:
        """Refuse a patch of another size or for another tokenizer.

        The base's weights are not compared: they are in the engine. A probe of the engine does that.

        Raises:
            BaseMismatchError: the sizes differ, or the tokenizer is not the one in the patch's fingerprint.
            ConfigError: the fingerprint is damaged.
        """
        size = self.config.get_text_config().hidden_size
        if vectors.shape[1] != size:
            raise BaseMismatchError(
                f"{source} has vectors of {vectors.shape[1]} numbers; the base `{self.name}` takes {size}. It is a "
                f"patch for `{config.base_model_name_or_path}`."
            )
        recorded = None if config.base_fingerprint is None else read_fingerprint(config.base_fingerprint, source)
        if recorded is not None and recorded.tokenizer not in (None, tokenizer_hash(self.tokenizer)):
            raise BaseMismatchError(
                f"{source} was made with another tokenizer than that of `{self.name}`. It is a patch for "
                f"`{config.base_model_name_or_path}`."
            )


def read_served_base(
    name: str | os.PathLike, *, revision: str | None = None, dtype: torch.dtype | None = None, **hub: Any
) -> ServedBase:
    """Read configuration, tokenizer and token embeddings of a base.

    Args:
        name (`str` or `os.PathLike`):
            Folder, Hub id or `lab:base`.
        revision (`str`, *optional*):
            Commit, branch or tag of a Hub id.
        dtype (`torch.dtype`, *optional*):
            What the engine serves it with. Defaults to the dtype in its configuration.
        hub (*optional*):
            `token`, `cache_dir`, `local_files_only`.

    Raises:
        ModelLoadError: a file is missing or cannot be read.
        UnsupportedModelError: a model type whose embeddings nobody has read yet.
    """
    from transformers import AutoTokenizer

    if os.fspath(name) == "lab:teacher":
        raise ModelLoadError(
            "`lab:teacher` is another model than the base of the lab's patches, and has no tokenizer of its own. Give "
            "the base: `lab:base`."
        )
    place = lab_folder(os.fspath(name)) or os.fspath(name)
    options = {key: value for key, value in {**hub, "revision": revision}.items() if value is not None}
    config = load_config(place, named=f"the base `{name}`", **options)
    with load_errors(f"the base `{name}`"):
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, **options)
    return ServedBase(os.fspath(name), config, tokenizer, embedding_rows(place, config, dtype=dtype, **options))
