"""`Gate`: the limits that a release has to keep, read from a YAML file with typed, known keys.

The checks are in `gate_checks.py`; `gate_template.py` has the same settings as a commented text.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from policy_patch.errors import GateError
from policy_patch.files.documents import Fault, read_text
from policy_patch.files.yaml_documents import parse_yaml
from policy_patch.near_names import did_you_mean

FORMAT_VERSION = 1
_LARGEST = 2**18  # bytes; our template has 3 kB
_YES_NO, _TEXT, _TEXTS = "true or false", "a text", "a list of texts"


def _is(kind: str, *, least: float = 0.0, most: float = 1.0, null: bool = False) -> dict[str, Any]:
    """Return the metadata of a key: what its values are, their range, and whether null is allowed."""
    return {"kind": kind, "least": least, "most": most, "null": null}


_SHARE, _SHARE_OR_OFF = _is("a number"), _is("a number", null=True)
_RATIO_OR_OFF = _is("a number", least=0.01, most=100.0, null=True)


@dataclass(frozen=True, kw_only=True)
class EvidenceLimits:
    """The section `evidence`: how much has to be measured."""

    min_prompts: int = field(default=60, metadata=_is("a whole number", least=1, most=1_000_000))


@dataclass(frozen=True, kw_only=True)
class RiskLimits:
    """The section `risk`: what the patch has to gain. The template explains each key."""

    judge: str | None = field(default=None, metadata=_is(_TEXT, null=True))
    filtered_by: list[str] | None = field(default=None, metadata=_is(_TEXTS, null=True))
    min_reduction: float = field(default=0.0, metadata=_SHARE)
    better_than_untrained: bool = field(default=True, metadata=_is(_YES_NO))
    better_than_safe_prompt: bool = field(default=True, metadata=_is(_YES_NO))
    alpha: float = field(default=0.05, metadata=_is("a number", least=0.0001, most=0.5))


@dataclass(frozen=True, kw_only=True)
class OtherRiskLimits:
    """The section `other_risks`: risks that may not become worse."""

    measured: list[str] = field(
        default_factory=lambda: ["toxicity", "gender_bias", "harmfulness"], metadata=_is(_TEXTS)
    )
    max_increase: float = field(default=0.02, metadata=_SHARE)


@dataclass(frozen=True, kw_only=True)
class CostLimits:
    """The section `costs`: what the patch may cost. None switches a check off."""

    max_over_refusal_increase: float | None = field(default=0.05, metadata=_SHARE_OR_OFF)
    max_unusable_increase: float | None = field(default=0.05, metadata=_SHARE_OR_OFF)
    max_perplexity_ratio: float | None = field(default=1.2, metadata=_RATIO_OR_OFF)
    max_neutral_perplexity_ratio: float | None = field(default=1.2, metadata=_RATIO_OR_OFF)
    max_last_word_drop: float | None = field(default=0.05, metadata=_SHARE_OR_OFF)
    max_own_task_drop: float | None = field(default=0.05, metadata=_SHARE_OR_OFF)


@dataclass(frozen=True, kw_only=True)
class OverheadLimits:
    """The section `overhead`: how much longer a generation may take, and how it is timed."""

    max_ratio: float | None = field(default=1.25, metadata=_RATIO_OR_OFF)
    batch_size: int = field(default=4, metadata=_is("a whole number", least=1, most=4096))
    max_new_tokens: int = field(default=32, metadata=_is("a whole number", least=1, most=4096))
    rounds: int = field(default=9, metadata=_is("a whole number", least=1, most=1000))


@dataclass(frozen=True, kw_only=True)
class SignatureLimits:
    """The section `signature`: whose signature the patch needs."""

    required: bool = field(default=False, metadata=_is(_YES_NO))
    trusted_keys: list[str] = field(default_factory=list, metadata=_is(_TEXTS))
    certificate_authorities: list[str] = field(default_factory=list, metadata=_is(_TEXTS))


@dataclass(frozen=True, kw_only=True)
class MeasuredOn:
    """The section `measure`: the prompts and scorers of `policy-patch evaluate --gate`."""

    prompts: dict[str, str] = field(default_factory=dict, metadata=_is("a mapping from risks to texts"))
    scorers: dict[str, list[str]] = field(default_factory=dict, metadata=_is("a mapping from risks to lists of texts"))
    safe_prompts: str | None = field(default=None, metadata=_is(_TEXT, null=True))
    neutral_texts: str | None = field(default=None, metadata=_is(_TEXT, null=True))
    own_task: str | None = field(default=None, metadata=_is(_TEXT, null=True))


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The limits that a release has to keep. `policy-patch gate --template` prints all of them with comments.

    Args:
        evidence ([`EvidenceLimits`], *optional*):
            How much has to be measured.
        risk ([`RiskLimits`], *optional*):
            What the patch has to gain.
        other_risks ([`OtherRiskLimits`], *optional*):
            Risks that may not become worse.
        costs ([`CostLimits`], *optional*):
            What it may cost.
        overhead ([`OverheadLimits`], *optional*):
            How much slower it may be.
        signature ([`SignatureLimits`], *optional*):
            Whose signature it needs.
        measure ([`MeasuredOn`], *optional*):
            What an evaluation for this gate measures on.
        source (`str`, *optional*):
            The file it comes from, for messages. None for the default limits.
    """

    evidence: EvidenceLimits = EvidenceLimits()
    risk: RiskLimits = RiskLimits()
    other_risks: OtherRiskLimits = OtherRiskLimits()
    costs: CostLimits = CostLimits()
    overhead: OverheadLimits = OverheadLimits()
    signature: SignatureLimits = SignatureLimits()
    measure: MeasuredOn = MeasuredOn()
    source: str | None = None

    @classmethod
    def from_yaml(cls, path: str | os.PathLike) -> "Gate":
        """Read a gate file.

        Raises:
            GateError: it cannot be read, is no YAML, or as in [`from_dict`].
        """
        named = os.fspath(path)
        try:
            values = parse_yaml(read_text(path, largest=_LARGEST).removeprefix("\ufeff"))
        except OSError as error:
            raise GateError(
                f"Cannot read the gate file `{named}`: {error.strerror or error}. "
                "`policy-patch gate --template > gate.yaml` writes one."
            ) from error
        except Fault as fault:
            raise GateError(f"{fault.at(f'`{named}`')}.") from fault
        return cls.from_dict({} if values is None else values, named)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str | None = None) -> "Gate":
        """Make a gate from plain values: section -> key -> value. What is not given has the default of the template.

        Args:
            values (`Mapping[str, Any]`):
                The values.
            source (`str`, *optional*):
                Where they come from, for messages.

        Raises:
            GateError: a key is unknown, a value has a wrong type or is out of range, or the format is a newer one.
        """
        where = f"`{source}`" if source else "The gate"
        if not isinstance(values, Mapping):
            raise GateError(f"{where} holds a {type(values).__name__}; expected sections such as `risk:`.")
        values = dict(values)
        version = values.pop("format_version", FORMAT_VERSION)
        if version is True or version != FORMAT_VERSION:
            raise GateError(
                f"{where} has `format_version: {version!r}`; this version of policy-patch reads {FORMAT_VERSION}."
            )
        sections = {entry.name: type(entry.default) for entry in fields(cls) if is_dataclass(entry.default)}
        _check_known(where, "", values, sections)
        return cls(
            **{name: _section(where, name, sections[name], given) for name, given in values.items()}, source=source
        )


def _section(where: str, name: str, cls: type, given: Any) -> Any:
    if not isinstance(given, Mapping):
        raise GateError(
            f"{where}: `{name}` holds a {type(given).__name__}; expected keys such as `{fields(cls)[0].name}:`."
        )
    _check_known(where, f"{name}.", given, [entry.name for entry in fields(cls)])
    limits = {entry.name: entry.metadata for entry in fields(cls)}
    return cls(**{key: _value(where, f"{name}.{key}", value, **limits[key]) for key, value in given.items()})


def _check_known(where: str, prefix: str, given: Mapping[str, Any], known: Any) -> None:
    for key in given:
        if key not in known:
            hint = did_you_mean(str(key), known, otherwise=f"Known keys: {', '.join(known)}.")
            raise GateError(f"{where} has the unknown key `{prefix}{key}`. {hint}")


def _value(where: str, path: str, value: Any, *, kind: str, least: float, most: float, null: bool) -> Any:
    """Return a value of a section, a number as float where fractions are allowed.

    Raises:
        GateError: it is of another kind, or out of range.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = {
        _YES_NO: isinstance(value, bool),
        _TEXT: isinstance(value, str) and bool(value.strip()),
        _TEXTS: _are_texts(value),
        "a number": is_number and least <= value <= most,
        "a whole number": is_number and isinstance(value, int) and least <= value <= most,
        "a mapping from risks to texts": isinstance(value, Mapping) and _are_texts([*value, *value.values()]),
        "a mapping from risks to lists of texts": isinstance(value, Mapping)
        and _are_texts(list(value))
        and all(map(_are_texts, value.values())),
    }
    if value is None and null:
        return None
    if not fits[kind]:
        bounds = f" from {least:g} to {most:g}" if "number" in kind else ""
        off = ", or null to switch the check off" if null and "number" in kind else ", or null" if null else ""
        raise GateError(f"{where} has `{path}: {value!r}`; expected {kind}{bounds}{off}.")
    return float(value) if kind == "a number" else value


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) and value.strip() for value in values)
