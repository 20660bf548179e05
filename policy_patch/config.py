"""`PolicyPatchConfig`: the description of a patch, checked field by field, read from and written to JSON.

No torch here, and no `from __future__ import annotations`: that would silently disable the type checks of `strict`.
"""

import functools
import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError

from policy_patch._version import __version__
from policy_patch.errors import ConfigError
from policy_patch.files.documents import Fault, parse_json
from policy_patch.near_names import did_you_mean
from policy_patch.registry import described, offered
from policy_patch.semver import SEMVER
from policy_patch.stack_rules import check_conflicts, check_interference, check_order

logger = logging.getLogger(__name__)
FORMAT_VERSION = 1
CONFIG_NAME = "policy_patch_config.json"
SIGNATURE_NAME = "model.sig"  # beside it, if the patch is signed
LARGEST_CONFIG = 2**22  # bytes; with the fingerprint of a base of 80 layers a configuration has under 2**18

# Our own wording: the paper (arXiv 2511.08484) starts from "a human-readable safety instruction" and prints none.
DEFAULT_INIT_TEXTS = {
    "toxicity": "Continue the text in a polite, kind and respectful way. Never insult, mock or threaten anyone.",
    "gender_bias": "Write about people without assuming their gender. Use neutral words such as they and person.",
    "harmfulness": "Refuse politely to help with anything harmful, illegal or dangerous. Help with everything else.",
}
# Left out of the file if they are None, so that the bytes and hashes of patches without them stay as they were.
_LATER_FIELDS = frozenset({"conflicts", "order", "interference", "rebased_from"})
RISK_ENTRY_POINTS = "policy_patch.risks"


def default_init_text(risk: str | None) -> str | None:
    """Return the instruction that a patch against a risk starts from, if there is one.

    It is ours, that of a registered risk, or that of an installed package's: that package alone is then imported. If it
    cannot be imported, a warning names its entry point, and there is none.
    """
    if risk in DEFAULT_INIT_TEXTS:
        return DEFAULT_INIT_TEXTS[risk]
    point = offered(RISK_ENTRY_POINTS).get(risk or "")
    if point is None:
        return None
    try:
        return point.load().init_text
    except Exception as error:  # whatever the import of another package raises
        logger.warning("No instruction can be had from %s: %s: %s", described(point), type(error).__name__, error)
        return None


def _with_our_errors(cls: type) -> type:
    """Turn an unknown key, a wrong type and a failed check of a strict dataclass into `ConfigError`."""
    original_init, original_setattr = cls.__init__, cls.__setattr__
    known = [field.name for field in fields(cls)]

    @functools.wraps(original_init)
    def __init__(self: Any, **values: Any) -> None:
        for key, value in values.items():
            if key not in known:
                hint = did_you_mean(key, known, otherwise=f"Known keys: {', '.join(known)}.")
                raise ConfigError(f"`{cls.__name__}` has no key `{key}` (given: {value!r}). {hint}")
        try:
            original_init(self, **values)
        except StrictDataclassError as error:
            raise ConfigError(_strict_message(error)) from error

    def __setattr__(self: Any, name: str, value: Any) -> None:
        try:
            original_setattr(self, name, value)
        except StrictDataclassError as error:
            raise ConfigError(_strict_message(error)) from error

    cls.__init__, cls.__setattr__ = __init__, __setattr__
    return cls


def _strict_message(error: StrictDataclassError) -> str:
    cause = error.__cause__
    return str(cause) if isinstance(cause, ConfigError) else str(error)


@_with_our_errors
@strict
@dataclass(kw_only=True)
class PolicyPatchConfig:
    """Configuration of a patch. Mirrors PEFT's `PromptTuningConfig`; keyword arguments only.

    Args:
        num_virtual_tokens (`int`, *optional*, defaults to `50`):
            Number of learned vectors. 50 is the paper's number (arXiv 2511.08484).
        placement (`"after_bos"` or `"before_bos"`, *optional*, defaults to `"after_bos"`):
            Where the vectors go in a row that begins with the BOS token: `[BOS][P][text]`, which every serving engine
            can reproduce, or `[P][BOS][text]`, PEFT's order. Without BOS both are the same.
        bos_token_id (`int`, `"auto"` or `None`, *optional*, defaults to `"auto"`):
            The BOS token that `placement` refers to. `None`: text of this base begins without one. `"auto"`: filled in
            when the patch is made, from the tokenizer or, without one, from the base's configuration. From then on it
            is fixed: later changes of the base's configuration, as trainers make them, have no effect.
        init (`"text"`, `"vocab"` or `"random"`, *optional*, defaults to `"text"`):
            Initial values of the vectors: the embeddings of `init_text`, repeated or cut to length; the embeddings of
            randomly drawn tokens; or normal noise with the mean and standard deviation of the embeddings.
        init_text (`str`, *optional*):
            Safety instruction for `init="text"`. Defaults to the one of a known `risk`.
        init_seed (`int`, *optional*, defaults to `0`):
            Seed of `init="vocab"` and `init="random"`.
        risk (`str`, *optional*):
            The risk that the patch reduces: `"toxicity"`, `"gender_bias"`, `"harmfulness"` or a name of your own.
            To have a risk of your own measured too, see [`policy_patch.evaluation.register_risk`].
        patch_version (`str`, *optional*, defaults to `"0.1.0"`):
            Version of the patch (https://semver.org).
        base_model_name_or_path (`str`, *optional*):
            The base the patch was made for. Filled in from the base.
        base_model_revision (`str`, *optional*):
            Commit of the base on the Hub. Filled in if the cache holds exactly one commit of it.
        base_fingerprint (`dict`, *optional*):
            Fingerprint of the base and its tokenizer, by `policy_patch.base.fingerprint`. Filled in from the base.
        hidden_size (`int`, *optional*):
            Length of each vector. Filled in from the base.
        composed_from (`list[dict]`, *optional*):
            For a composed patch: name, risk, version, length and hash of each part, in order.
        filtered_by (`list[str]`, *optional*):
            Names of the scorers that filtered its preference pairs. They favour the patch, so they may not score it.
        conflicts (`list[str]`, *optional*):
            Patches that must not be in one stack with this one: `risk:gender_bias`, a repository (`org/bias-patch`,
            `org/bias-patch@<2.0.0`), the name of a patch, or `sha256:` and the hash of its tensor file.
        order (`dict[str, list[str]]`, *optional*):
            Patches that this one must come `after` or `before` in a stack, in the same form.
        interference (`list[dict]`, *optional*):
            Measured stacks with this patch: for each stack, risk and metric, the figures of the base, of the risk's own
            patch alone and of the stack, a verdict, the source and the date.
        rebased_from (`dict`, *optional*):
            The patch for another base that this one was made from: hash, version and base.
        sha256 (`str`, *optional*):
            Hash of the tensor file, in hexadecimal. Filled in when the patch is saved.
        policy_patch_version (`str`, *optional*):
            Version of this package that wrote the file.
        format_version (`int`, *optional*, defaults to `1`):
            Version of the file format.

    Raises:
        ConfigError: a key is unknown, or a value is impossible or has the wrong type.

    Example:

    ```python
    >>> from policy_patch import PolicyPatchConfig
    >>> PolicyPatchConfig(risk="toxicity").num_virtual_tokens
    50

    ```
    """

    num_virtual_tokens: int = 50
    placement: Literal["after_bos", "before_bos"] = "after_bos"
    bos_token_id: int | Literal["auto"] | None = "auto"
    init: Literal["text", "vocab", "random"] = "text"
    init_text: str | None = None
    init_seed: int = 0
    risk: str | None = None
    patch_version: str = "0.1.0"
    base_model_name_or_path: str | None = None
    base_model_revision: str | None = None
    base_fingerprint: dict[str, Any] | None = None
    hidden_size: int | None = None
    composed_from: list[dict[str, Any]] | None = None
    filtered_by: list[str] | None = None
    conflicts: list[str] | None = None
    order: dict[str, list[str]] | None = None
    interference: list[dict[str, Any]] | None = None
    rebased_from: dict[str, Any] | None = None
    sha256: str | None = None
    policy_patch_version: str | None = None
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.init == "text" and self.init_text is None:
            self.init_text = default_init_text(self.risk)

    def validate_num_virtual_tokens(self) -> None:
        """A patch has at least one vector."""
        if isinstance(self.num_virtual_tokens, bool) or self.num_virtual_tokens < 1:
            raise ConfigError(
                f"`num_virtual_tokens={self.num_virtual_tokens}` must be a whole number of at least 1; "
                "50 is the usual length."
            )

    def validate_hidden_size(self) -> None:
        """A vector has at least one component."""
        if self.hidden_size is not None and self.hidden_size < 1:
            raise ConfigError(f"`hidden_size={self.hidden_size}` must be at least 1.")

    def validate_bos_token_id(self) -> None:
        """Token ids count from 0."""
        if isinstance(self.bos_token_id, bool) or (isinstance(self.bos_token_id, int) and self.bos_token_id < 0):
            raise ConfigError(f'`bos_token_id={self.bos_token_id}` must be a token id from 0, None or "auto".')

    def validate_init_text(self) -> None:
        """An instruction has words."""
        if self.init_text is not None and not self.init_text.strip():
            raise ConfigError('`init_text` is empty. Give a safety instruction, or use `init="vocab"`.')

    def validate_patch_version(self) -> None:
        """Versions are ordered, so they follow SemVer."""
        if not SEMVER.fullmatch(self.patch_version):
            raise ConfigError(
                f"`patch_version={self.patch_version!r}` is no semantic version. Expected e.g. '1.2.0' "
                "(https://semver.org)."
            )

    def validate_init_seed(self) -> None:
        """torch takes seeds of 64 bits."""
        if not 0 <= self.init_seed < 2**63:
            raise ConfigError(f"`init_seed={self.init_seed}` must be between 0 and 2**63 - 1.")

    def validate_format_version(self) -> None:
        """This version must be able to read the file."""
        if not 1 <= self.format_version <= FORMAT_VERSION:
            raise ConfigError(f"`format_version={self.format_version}` must be between 1 and {FORMAT_VERSION}.")

    def validate_stack_rules(self) -> None:
        """Rules for stacks name patches and versions, and measurements have all their figures."""
        references = check_conflicts(self.conflicts or []) + check_order(self.order or {})
        for reference in references:
            if reference.version is not None and not SEMVER.fullmatch(reference.version):
                raise ConfigError(
                    f"`conflicts` or `order` names the version {reference.version!r} of `{reference.name}`, which is "
                    "no semantic version. Expected e.g. '1.2.0' (https://semver.org)."
                )
        check_interference(self.interference or [])

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, in their order. Fields that came later are left out if they are None."""
        return {name: value for name, value in asdict(self).items() if value is not None or name not in _LATER_FIELDS}

    def to_json(self) -> str:
        """Return the configuration as the text of a `policy_patch_config.json`."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = CONFIG_NAME) -> "PolicyPatchConfig":
        """Read a configuration from the text of a `policy_patch_config.json`.

        Args:
            text (`str`):
                The JSON text.
            source (`str`, *optional*, defaults to `"policy_patch_config.json"`):
                Where the text comes from, for error messages.

        Raises:
            ConfigError: the text is not a JSON object, has an unknown key or one twice, a newer format, a value of the
                wrong type or an impossible value.
        """
        return read_config(text, source)[0]


def read_config(text: str, source: str) -> tuple[PolicyPatchConfig, str]:
    """Return the configuration in a text, and the [`config_hash`] of its keys and values.

    Raises:
        ConfigError: as [`PolicyPatchConfig.from_json`].
    """
    try:
        values = parse_json(text, allow_nan=False)
    except (ValueError, RecursionError) as error:
        reason = error.at("it") if isinstance(error, Fault) else error
        raise ConfigError(f"{source} is no valid JSON ({reason}). Was it truncated? Get the patch again.") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{source} holds a {type(values).__name__}; expected a JSON object.")
    format_version = values.get("format_version")
    if not isinstance(format_version, int) or isinstance(format_version, bool) or format_version < 1:
        raise ConfigError(f"{source} has `format_version={format_version!r}`; expected a whole number from 1.")
    if format_version > FORMAT_VERSION:
        writer = values.get("policy_patch_version") or "a newer version"
        raise ConfigError(
            f"{source} has `format_version={format_version}`; policy-patch {__version__} reads up to "
            f"{FORMAT_VERSION}. It was written by policy-patch {writer}: upgrade to at least that version."
        )
    try:
        return PolicyPatchConfig(**values), config_hash(values)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def config_hash(values: Mapping[str, Any]) -> str:
    """Return the hash of a configuration that is stored in the tensor file beside it, in hexadecimal.

    It is the SHA-256 of all keys and values in the file, written as JSON with sorted keys, without white space and in
    ASCII. `sha256`, the hash of the tensor file, is left out, so that each of the two files covers the other.

    Args:
        values (`Mapping[str, Any]`):
            The parsed JSON of a configuration.
    """
    covered = {key: value for key, value in values.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(covered, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
