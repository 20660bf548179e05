"""Reads and writes the format of `evaluation.json`: its name, its version and its keys.

Only this file knows the keys. The report itself is in `findings.py` and `report.py`.
"""

import json
import math
import reprlib
from dataclasses import MISSING, asdict, fields
from typing import Any, get_origin

from policy_patch._version import __version__
from policy_patch.errors import EvaluationError
from policy_patch.files.documents import Fault, parse_json
from policy_patch.near_names import did_you_mean
from policy_patch.report.comparisons import Comparison
from policy_patch.report.findings import Findings
from policy_patch.report.intervals import Estimate
from policy_patch.report.metric import FLUENCY, Metric
from policy_patch.report.records import EvaluationSettings, MeasuredPatch, ScorerRecord, ShownSamples, SystemResult
from policy_patch.report.system_names import BASE

FORMAT_VERSION = 3
_OLDEST = 2  # lacks what has a default here: the measured patches, the other risks, the costs
REPORT_NAME = "evaluation.json"
LARGEST_REPORT = 2**26  # bytes; a typical report has a few hundred thousand

# Field -> its key, if the two differ: the format calls the perplexity model a judge.
_KEYS = {
    "perplexity_model": "judge",
    "nll_per_prompt": "judge_nll_per_prompt",
    "tokens_per_prompt": "judge_tokens_per_prompt",
}
_OUTER_TYPES = {dict: dict, list: list, str: str, bool: bool, int: int, float: (float, int)}


# Writing


def values_of(report: Findings) -> dict[str, Any]:
    """Return a report as the JSON values of an `evaluation.json`. A figure that is not defined is None."""
    return _without_nan(_report_with_keys({"format_version": FORMAT_VERSION, **asdict(report)}))


def text_of(report: Findings) -> str:
    """Return a report as the text of an `evaluation.json`. A figure that is not defined is null."""
    return json.dumps(values_of(report), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _report_with_keys(values: dict[str, Any]) -> dict[str, Any]:
    values = _with_keys({**values, "format_version": FORMAT_VERSION})
    values["systems"] = {name: _with_keys(result) for name, result in values["systems"].items()}
    values["other_risks"] = [_report_with_keys(other) for other in values["other_risks"]]
    return values


def _with_keys(values: dict[str, Any]) -> dict[str, Any]:
    return {_KEYS.get(name, name): value for name, value in values.items()}


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# Reading


def parsed(text: str, source: str) -> Any:
    """Parse the text of an `evaluation.json`. [`report_fields`] checks the result.

    Args:
        text (`str`):
            The text of an `evaluation.json`.
        source (`str`):
            Name of the file, for error messages.

    Raises:
        EvaluationError: the text is not JSON, an object has a key twice, or brackets are nested too deeply.
    """
    try:
        return parse_json(text)
    except Fault as fault:
        raise EvaluationError(f"{fault.at(source)}.") from fault
    except json.JSONDecodeError as error:
        raise EvaluationError(
            f"{source} is no valid JSON ({error}). Was it truncated? Make it anew with `policy-patch evaluate`."
        ) from error


def report_fields(cls: type[Findings], values: Any, source: str) -> dict[str, Any]:
    """Return the fields of a report from the JSON values of an `evaluation.json`.

    At each level, the keys are checked first and then the types of the values.

    Args:
        cls (`type`):
            The class of the report, [`EvaluationReport`].
        values (`dict`):
            The parsed `evaluation.json`.
        source (`str`):
            Name of the file, for error messages.

    Returns:
        `dict[str, Any]`: argument of `cls` -> value.

    Raises:
        EvaluationError: the values are no object, the format version is another one, a key is unknown or missing, a
            value has a wrong type, or a system lacks the figures of a scorer.
    """
    if not isinstance(values, dict):
        raise EvaluationError(f"{source} holds a {type(values).__name__}; expected a JSON object.")
    _check_version(values.get("format_version"), source)
    try:
        found = _report_fields(cls, values, source)
    except _Incomplete as error:
        raise _incomplete(str(error)) from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # a wrong type deep inside
        raise _incomplete(f"{source} cannot be read ({type(error).__name__}: {reprlib.repr(str(error))}).") from error
    return found


class _Incomplete(Exception):
    """Raised when a key or a value is wrong. The message names it."""


def _incomplete(reason: str) -> EvaluationError:
    return EvaluationError(
        f"{reason} It is not a complete report. Was it edited? Make it anew with `policy-patch evaluate`."
    )


def _check_version(version: Any, source: str) -> None:
    if type(version) is not int or version < 1:
        raise EvaluationError(
            f"{source} has `format_version={reprlib.repr(version)}`; expected a whole number from 1. Make a report "
            "with `policy-patch evaluate`."
        )
    if version > FORMAT_VERSION:
        raise EvaluationError(
            f"{source} has `format_version={version}`; policy-patch {__version__} reads up to {FORMAT_VERSION}. "
            "Upgrade policy-patch."
        )
    if version < _OLDEST:
        raise EvaluationError(
            f"{source} has `format_version={version}`, which had only toxicity; expected {_OLDEST} or "
            f"{FORMAT_VERSION}. Make it anew with `policy-patch evaluate`."
        )


def _report_fields(cls: type, values: dict[str, Any], source: str) -> dict[str, Any]:
    values = _checked(cls, values, source)
    if BASE not in values["systems"] or not values["scorers"] or not values["metrics"]:
        raise _Incomplete(f"{source} lacks a metric, a scorer or the system {BASE!r}.")

    def each(part: type, field: str) -> list[Any]:
        return [part(**_checked(part, entry, f"{source}, {field}")) for entry in values[field]]

    scorers = each(ScorerRecord, "scorers")
    return {
        **values,
        "metrics": each(Metric, "metrics"),
        "settings": EvaluationSettings(**_checked(EvaluationSettings, values["settings"], f"{source}, settings")),
        "scorers": scorers,
        "systems": {
            name: _system(entry, [scorer.name for scorer in scorers], f"{source}, system {_cut(name)!r}")
            for name, entry in values["systems"].items()
        },
        "samples": each(ShownSamples, "samples"),
        "comparisons": [_comparison(entry, f"{source}, comparisons") for entry in values["comparisons"]],
        "patches": each(MeasuredPatch, "patches"),
        "other_risks": [_other_risk(cls, entry, f"{source}, other_risks") for entry in values["other_risks"]],
        "format_version": FORMAT_VERSION,
    }


def _other_risk(cls: type, values: Any, where: str) -> Any:
    found = report_fields(cls, values, where)
    if found["other_risks"]:
        raise _Incomplete(f"{where} has `other_risks` itself.")
    return cls(**found)


def _system(values: Any, scorers: list[str], where: str) -> SystemResult:
    values = _checked(SystemResult, values, where)
    for field in ("metrics", "per_prompt"):
        missing = [name for name in scorers if name not in values[field]]
        if missing:
            raise _Incomplete(f"{where} lacks the scorer {_cut(missing[0])!r} in `{field}`.")
    missing = [metric.name for metric in FLUENCY if metric.name not in values["fluency"]]
    if missing:
        raise _Incomplete(f"{where} lacks the key `{missing[0]}` in `fluency`.")
    metrics = {
        scorer: {metric: _estimate(figure, where) for metric, figure in figures.items()}
        for scorer, figures in values["metrics"].items()
    }
    per_prompt = {
        scorer: {metric: [math.nan if value is None else value for value in found] for metric, found in lists.items()}
        for scorer, lists in values["per_prompt"].items()
    }
    fluency = {metric: _estimate(figure, where) for metric, figure in values["fluency"].items()}
    costs = {name: [float(value) for value in found] for name, found in values["costs"].items()}
    return SystemResult(**{**values, "metrics": metrics, "per_prompt": per_prompt, "fluency": fluency, "costs": costs})


def _comparison(values: Any, where: str) -> Comparison:
    values = _checked(Comparison, _with_nan(values, "p_value", "effect_size"), where)
    return Comparison(**{**values, "difference": _estimate(values["difference"], where)})


def _estimate(values: Any, where: str) -> Estimate:
    return Estimate(**_checked(Estimate, _with_nan(values, "value", "low", "high"), where))


def _with_nan(values: Any, *names: str) -> Any:
    """Replace null by NaN in the given keys: null stands for a figure that is not defined."""
    if not isinstance(values, dict):
        return values
    return {key: math.nan if entry is None and key in names else entry for key, entry in values.items()}


def _checked(cls: type, values: Any, where: str) -> dict[str, Any]:
    """Return field of `cls` -> value, after checking that `values` has exactly these fields with values of their types.

    A field with a default may be missing, as in an older format. Only the outer type is checked: `list`, not the type
    of its entries.

    Raises:
        _Incomplete: a key is unknown or missing, or a value has another type.
    """
    if not isinstance(values, dict):
        raise _Incomplete(f"{where} holds a {type(values).__name__}; expected an object.")
    field_of = {_KEYS.get(field.name, field.name): field for field in fields(cls)}
    for key in values:
        if key not in field_of:
            hint = did_you_mean(str(key), field_of, otherwise=f"Known keys: {', '.join(field_of)}.")
            raise _Incomplete(f"{where} has the unknown key `{_cut(str(key))}`. {hint}")
    values = {**_defaults(cls), **values}
    for key, field in field_of.items():
        if key not in values:
            raise _Incomplete(f"{where} lacks the key `{key}`.")
        outer = get_origin(field.type) or field.type
        allowed = _OUTER_TYPES.get(outer)
        if allowed is not None and not isinstance(values[key], allowed):
            raise _Incomplete(f"{where} has `{key}={reprlib.repr(values[key])}`; expected {outer.__name__}.")
    return {field.name: values[key] for key, field in field_of.items()}


def _defaults(cls: type) -> dict[str, Any]:
    """Return key -> default of the fields of `cls` that have one."""
    found = {}
    for entry in fields(cls):
        if entry.default is not MISSING:
            found[_KEYS.get(entry.name, entry.name)] = entry.default
        elif entry.default_factory is not MISSING:
            found[_KEYS.get(entry.name, entry.name)] = entry.default_factory()
    return found


def _cut(name: str) -> str:
    return name if len(name) <= 80 else f"{name[:80]}..."
