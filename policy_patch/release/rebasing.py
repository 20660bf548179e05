"""Carries a patch's vectors to another base: maps them through the token embeddings that both bases share.

The result is a start for training, not a finished patch. `policy_patch.recipes.rebase` trains it.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from policy_patch.base.bos import decided_bos
from policy_patch.base.fingerprint import base_fingerprint
from policy_patch.base.supported import check_length, embedding_size
from policy_patch.base.token_embeddings import embedded
from policy_patch.config import PolicyPatchConfig
from policy_patch.errors import BaseMismatchError, ConfigError, UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAPPINGS = ("auto", "identity", "tokens")
# Our choices. With fewer shared tokens a map cannot be checked on tokens that it was not fitted on. One token in ten is
# held out. The ridge pulls the map towards "nothing changed", which is right where shared tokens say nothing.
_FEWEST_SHARED, _HELD_OUT, _RIDGES = 100, 10, (1e-4, 1e-2, 1.0)
_MOST_SHARED = 20_000  # tokens that a map is fitted on, unless the hidden size is larger than a quarter of that
_BETTER = 0.01  # a map must explain this much more of the held-out embeddings than "nothing changed"


@dataclass(frozen=True, kw_only=True)
class TokenMap:
    """How the token embeddings of one base follow from another's.

    Args:
        matrix (`torch.Tensor`, *optional*):
            `(hidden_size, hidden_size)`, fp64: an old embedding times it is the new one. None: nothing is changed.
        shared_tokens (`int`):
            Tokens that both vocabularies have.
        old_tokens, new_tokens (`int`):
            Sizes of the two vocabularies.
        unchanged_fit, mapped_fit (`float`):
            Share of the variance of the new embeddings, over shared tokens that no map was fitted on, that the old
            embeddings explain as they are, and times the best matrix. 1 is exact; 0 or less explains nothing.
    """

    matrix: torch.Tensor | None
    shared_tokens: int
    old_tokens: int
    new_tokens: int
    unchanged_fit: float
    mapped_fit: float

    @property
    def kind(self) -> str:
        """`"identity"` or `"tokens"`."""
        return "identity" if self.matrix is None else "tokens"

    @property
    def fit(self) -> float:
        """Share of the variance that this map explains."""
        return self.unchanged_fit if self.matrix is None else self.mapped_fit

    def apply(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return mapped vectors `(n, hidden_size)`, fp32."""
        return vectors.float() if self.matrix is None else (vectors.double() @ self.matrix).float()

    def facts(self) -> dict[str, Any]:
        """Return what the map is, as plain values."""
        return {
            "mapping": self.kind,
            "shared_tokens": self.shared_tokens,
            "old_tokens": self.old_tokens,
            "new_tokens": self.new_tokens,
            "unchanged_fit": round(self.unchanged_fit, 4),
            "mapped_fit": round(self.mapped_fit, 4),
        }


def shared_tokens(old: "PreTrainedTokenizerBase", new: "PreTrainedTokenizerBase") -> tuple[list[int], list[int]]:
    """Return the ids of the tokens that two tokenizers share, in the old and in the new one, in the same order.

    Sentencepiece marks a space in front of a word with another letter than byte-level BPE; both count as equal.
    """
    before, after = ({_spelling(token): id_ for token, id_ in one.get_vocab().items()} for one in (old, new))
    common = sorted(token for token in before if token in after)
    return [before[token] for token in common], [after[token] for token in common]


def _spelling(token: str) -> str:
    return token.replace("\u2581", "\u0120")


def token_map(old: torch.Tensor, new: torch.Tensor, *, sizes: tuple[int, int], mapping: str = "auto") -> TokenMap:
    """Return how new embeddings of shared tokens follow from old ones, by least squares with a ridge.

    The matrix is `I + D`, where D minimises `|old (I + D) - new|^2 + r |D|^2`. One token in ten is held out, and the
    ridge `r` is the one that predicts these best.

    Args:
        old, new (`torch.Tensor`):
            `(shared tokens, hidden_size)`: embeddings of the same tokens in the two bases.
        sizes (`tuple[int, int]`):
            Sizes of the two vocabularies, for the record.
        mapping (`"auto"`, `"identity"` or `"tokens"`, *optional*, defaults to `"auto"`):
            `"auto"` changes the vectors only if a matrix predicts held-out tokens better than no change does.

    Raises:
        BaseMismatchError: there are too few shared tokens to tell.
        ConfigError: `mapping` is something else.
    """
    if mapping not in MAPPINGS:
        raise ConfigError(f"`mapping={mapping!r}`: expected one of {', '.join(MAPPINGS)}.")
    if len(old) < _FEWEST_SHARED:
        raise BaseMismatchError(
            f"The two bases share {len(old)} tokens; expected at least {_FEWEST_SHARED}. So few do not tell how their "
            "embeddings are related. Train a new patch for the new base, or, if you know that the embeddings are the "
            'same, give `mapping="identity"`.'
        )
    order = torch.randperm(len(old), generator=torch.Generator().manual_seed(0))[: max(_MOST_SHARED, 4 * old.shape[1])]
    held, kept = order[: len(order) // _HELD_OUT], order[len(order) // _HELD_OUT :]
    old, new = old.double(), new.double()
    fits = {ridge: _fitted(old[kept], new[kept], ridge) for ridge in _RIDGES} if mapping != "identity" else {}
    unchanged = explained(old[held], new[held])
    scores = {ridge: explained(old[held] @ matrix, new[held]) for ridge, matrix in fits.items()}
    best = max(scores, key=scores.__getitem__, default=None)
    mapped = unchanged if best is None else scores[best]
    takes = mapping == "tokens" or (mapping == "auto" and mapped > unchanged + _BETTER)
    return TokenMap(
        matrix=fits[best] if takes else None,
        shared_tokens=len(old),
        old_tokens=sizes[0],
        new_tokens=sizes[1],
        unchanged_fit=unchanged,
        mapped_fit=mapped,
    )


def _fitted(old: torch.Tensor, new: torch.Tensor, ridge: float) -> torch.Tensor:
    gram = old.T @ old  # (hidden, hidden)
    eye = torch.eye(gram.shape[0], dtype=gram.dtype)
    weight = ridge * gram.diagonal().mean()
    return eye + torch.linalg.solve(gram + weight * eye, old.T @ (new - old))


def explained(predicted: torch.Tensor, true: torch.Tensor) -> float:
    """Return the share of the variance of `true` `(rows, hidden)` that `predicted` explains; 1 if they are equal."""
    spread = float(((true - true.mean(dim=0)) ** 2).sum())
    left = float(((predicted - true) ** 2).sum())
    return 1 - left / spread if spread > 0 else float("nan")


def check_same_size(config: PolicyPatchConfig, hidden_size: int, onto: str) -> None:
    """Raise `BaseMismatchError` if the new base has another hidden size than the patch."""
    if config.hidden_size != hidden_size:
        raise BaseMismatchError(
            f"The patch has vectors of {config.hidden_size} numbers, made for `{config.base_model_name_or_path}`; "
            f"`{onto}` has a hidden size of {hidden_size}. Vectors of another length have no place in its embedding "
            "space, so nothing of the old patch can be kept: train a new patch for it (`policy-patch train`)."
        )


def rows_of(base: Any, ids: Sequence[int]) -> torch.Tensor:
    """Return the embeddings `(len(ids), hidden_size)`, fp32, on the CPU, of a loaded model's or a served base's tokens.

    Ids beyond the embeddings, which some tokenizers have, are refused by the caller's [`known_ids`].
    """
    if hasattr(base, "get_input_embeddings"):
        with torch.no_grad():
            return embedded(base.get_input_embeddings(), list(ids)).float().cpu()
    return base.rows.of(list(ids)).float()


def known_ids(ids: tuple[list[int], list[int]], rows: tuple[int, int]) -> tuple[list[int], list[int]]:
    """Return the pairs of ids for which both bases have embeddings."""
    kept = [(old, new) for old, new in zip(*ids, strict=True) if old < rows[0] and new < rows[1]]
    return [old for old, _ in kept], [new for _, new in kept]


def rebased_config(
    config: PolicyPatchConfig,
    base: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    *,
    name: str,
    sha256: str,
    mapping: str,
    patch_version: str | None = None,
    origin: tuple[str | None, str | None] = (None, None),
) -> PolicyPatchConfig:
    """Return the configuration of a patch on its new base, with what it was rebased from.

    Args:
        config ([`PolicyPatchConfig`]):
            The configuration on the old base. Not changed.
        base ([`~transformers.PreTrainedModel`]), tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The new base.
        name (`str`):
            Name of the new base: folder, Hub id or `lab:` name.
        sha256 (`str`):
            Hash of the old tensor file.
        mapping (`str`):
            `"identity"` or `"tokens"`.
        patch_version (`str`, *optional*):
            Version of the result. Defaults to the next breaking version, see [`next_breaking`].
        origin (`tuple[str, str]`, *optional*):
            Repository and commit of the old patch, where known.

    Raises:
        BaseMismatchError: the hidden size differs.
        PositionLimitError: the patch is longer than the new base's learned positions.
        ConfigError: `patch_version` is no semantic version.
    """
    check_same_size(config, embedding_size(base), name)
    check_length(base, config.num_virtual_tokens)
    before = {
        "id": origin[0],
        "commit": origin[1],
        "patch_version": config.patch_version,
        "sha256": sha256,
        "base_model_name_or_path": config.base_model_name_or_path,
        "base_model_revision": config.base_model_revision,
        "mapping": mapping,
    }
    return replace(
        config,
        patch_version=patch_version or next_breaking(config.patch_version),
        base_model_name_or_path=name,
        base_model_revision=None,
        bos_token_id=decided_bos(PolicyPatchConfig(), base, tokenizer),
        base_fingerprint=base_fingerprint(base, tokenizer),
        rebased_from={key: value for key, value in before.items() if value is not None},
        interference=None,  # measured on the old base
        sha256=None,
    )


def next_breaking(version: str) -> str:
    """Return the next version that breaks compatibility: a patch for another base does not load on the old one.

    Below 1.0.0 that is the next minor version (https://semver.org, item 4, as ranges of package managers read it).

    Example:

    ```python
    >>> from policy_patch.release.rebasing import next_breaking
    >>> next_breaking("1.4.2"), next_breaking("0.1.0"), next_breaking("2.0.0-rc.1")
    ('2.0.0', '0.2.0', '3.0.0')

    ```
    """
    major, minor = (int(part) for part in re.match(r"(\d+)\.(\d+)", version).groups())
    return f"{major + 1}.0.0" if major else f"0.{minor + 1}.0"


def rebased_vectors(
    vectors: torch.Tensor,
    old: Any,
    old_tokenizer: "PreTrainedTokenizerBase",
    new: "PreTrainedModel",
    new_tokenizer: "PreTrainedTokenizerBase",
    *,
    mapping: str = "auto",
) -> tuple[torch.Tensor, TokenMap]:
    """Return a patch's vectors as a start on a new base, and the map that gave them.

    Args:
        vectors (`torch.Tensor`):
            `(num_virtual_tokens, hidden_size)` of the patch on the old base.
        old:
            The old base: a loaded model, or a [`~policy_patch.base.served_base.ServedBase`], whose layers are not read.
        old_tokenizer, new_tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Their tokenizers.
        new ([`~transformers.PreTrainedModel`]):
            The new base, of the same hidden size.
        mapping (`str`, *optional*, defaults to `"auto"`):
            See [`token_map`].

    Returns:
        `tuple[torch.Tensor, TokenMap]`: the vectors are `(num_virtual_tokens, hidden_size)`, fp32, on the CPU.

    Raises:
        BaseMismatchError: too few tokens are shared, or the embeddings cannot be read.
    """
    embeddings = new.get_input_embeddings()
    old_rows = old.get_input_embeddings() if hasattr(old, "get_input_embeddings") else old.rows
    ids = known_ids(shared_tokens(old_tokenizer, new_tokenizer), (_count(old_rows), _count(embeddings)))
    found = token_map(
        rows_of(old, ids[0]),
        rows_of(new, ids[1]),
        sizes=(len(old_tokenizer), len(new_tokenizer)),
        mapping=mapping,
    )
    if not math.isfinite(found.fit):
        raise BaseMismatchError("The token embeddings of a base are all equal or not finite. Is it fully loaded?")
    return found.apply(vectors.cpu()), found


def _count(rows: Any) -> int:
    return rows.weight.shape[0]


def old_base(config: PolicyPatchConfig) -> tuple[Any, "PreTrainedTokenizerBase"]:
    """Return the old base with its token embeddings, and its tokenizer. Its layers are read only if there is no way
    round.

    Raises:
        ModelLoadError: it cannot be found or read.
        ConfigError: the patch names no base.
    """
    from policy_patch.base.served_base import read_served_base

    name = config.base_model_name_or_path
    if name is None:
        raise ConfigError(
            "The patch names no base (`base_model_name_or_path`), so its token embeddings cannot be compared. If the "
            'new base is a fine-tuned relative with the same vocabulary, give `mapping="identity"`.'
        )
    try:
        served = read_served_base(name, revision=config.base_model_revision, dtype=torch.float32)
    except UnsupportedModelError:  # embeddings of a kind that only the model itself can look up
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from policy_patch.base.loading import load_pretrained

        model = load_pretrained(AutoModelForCausalLM, name, revision=config.base_model_revision, dtype=torch.float32)
        return model, AutoTokenizer.from_pretrained(name, revision=config.base_model_revision)
    return served, served.tokenizer
