"""`evaluation.json` as an `EvaluationReport`: each level is checked for its keys, then for the types of its values."""

import json
import math
from dataclasses import fields
from typing import Any, get_origin

from policy_patch._version import __version__
from policy_patch.errors import EvaluationError
from policy_patch.evaluation.systems import BASE
from policy_patch.files.texts import Fault, parse_json
from policy_patch.near_names import did_you_mean
from policy_patch.report.comparisons import Comparison
from policy_patch.report.intervals import Estimate
from policy_patch.report.metric import Metric
from policy_patch.report.report import (
    FORMAT_VERSION,
    EvaluationReport,
    EvaluationSettings,
    ScorerRecord,
    ShownSamples,
    SystemResult,
)


def read_report(text: str, source: str) -> EvaluationReport:
    """Return the report that a text holds; see [`EvaluationReport.from_json`].

    Raises:
        EvaluationError: no JSON object, another format, a key that is unknown, missing or there twice, a wrong type.
    """
    try:
        values = parse_json(text)
    except Fault as fault:
        raise EvaluationError(f"{fault.at(source)}.") from fault
    except json.JSONDecodeError as error:
        raise EvaluationError(f"{source} is no valid JSON ({error}). Was it truncated?") from error
    if not isinstance(values, dict):
        raise EvaluationError(f"{source} holds a {type(values).__name__}; expected a JSON object.")
    version = values.get("format_version")
    if type(version) is not int or version < 1:
        raise EvaluationError(f"{source} has `format_version={version!r}`; expected a whole number from 1.")
    if version > FORMAT_VERSION:
        raise EvaluationError(
            f"{source} has `format_version={version}`; policy-patch {__version__} reads up to {FORMAT_VERSION}. "
            "Upgrade policy-patch."
        )
    if version < FORMAT_VERSION:
        raise EvaluationError(
            f"{source} has `format_version={version}`, which knew toxicity alone; expected {FORMAT_VERSION}. Make it "
            "anew with `policy-patch evaluate`."
        )
    return _report(values, source)


def _report(values: dict[str, Any], source: str) -> EvaluationReport:
    values = _checked(EvaluationReport, values, source)
    systems = {name: _system(entry, f"{source}, system {name!r}") for name, entry in values["systems"].items()}
    if BASE not in systems or not values["scorers"] or not values["metrics"]:
        raise EvaluationError(f"{source} is no complete report: it needs a metric, a scorer and the system {BASE!r}.")

    def each(cls: type, key: str) -> list[Any]:
        return [cls(**_checked(cls, entry, f"{source}, {key}")) for entry in values[key]]

    comparisons = []
    for entry in values["comparisons"]:
        where = f"{source}, comparisons"
        entry = _checked(Comparison, _with_nan(entry, "p_value", "effect_size"), where)
        comparisons.append(Comparison(**{**entry, "difference": _estimate(entry["difference"], where)}))
    settings = _checked(EvaluationSettings, values["settings"], f"{source}, settings")
    return EvaluationReport(
        **{
            **values,
            "metrics": each(Metric, "metrics"),
            "settings": EvaluationSettings(**settings),
            "scorers": each(ScorerRecord, "scorers"),
            "samples": each(ShownSamples, "samples"),
            "comparisons": comparisons,
            "systems": systems,
        }
    )


def _system(values: Any, where: str) -> SystemResult:
    values = _checked(SystemResult, values, where)
    metrics = {
        scorer: {metric: _estimate(figure, where) for metric, figure in figures.items()}
        for scorer, figures in values["metrics"].items()
    }
    fluency = {metric: _estimate(figure, where) for metric, figure in values["fluency"].items()}
    return SystemResult(**{**values, "metrics": metrics, "fluency": fluency})


def _estimate(values: Any, where: str) -> Estimate:
    return Estimate(**_checked(Estimate, _with_nan(values, "value", "low", "high"), where))


def _with_nan(values: Any, *names: str) -> Any:
    """Return `values` with NaN for null where it stands for a figure that is not defined."""
    if not isinstance(values, dict):
        return values
    return {key: math.nan if entry is None and key in names else entry for key, entry in values.items()}


_OUTER_TYPES = {dict: dict, list: list, str: str, bool: bool, int: int, float: (float, int)}


def _checked(cls: type, values: Any, where: str) -> dict[str, Any]:
    """Return `values` if its keys are the fields of `cls` and each value is of its field's outer type."""
    if not isinstance(values, dict):
        raise EvaluationError(f"{where} holds a {type(values).__name__}; expected an object.")
    types = {entry.name: entry.type for entry in fields(cls)}
    for key in values:
        if key not in types:
            hint = did_you_mean(key, types, otherwise=f"Known keys: {', '.join(types)}.")
            raise EvaluationError(f"{where} has the unknown key `{key}`. {hint}")
    for key, expected in types.items():
        if key not in values:
            raise EvaluationError(f"{where} misses the key `{key}`.")
        outer = get_origin(expected) or expected
        allowed = _OUTER_TYPES.get(outer)
        if allowed is not None and not isinstance(values[key], allowed):
            raise EvaluationError(f"{where} has `{key}={values[key]!r}`; expected {outer.__name__}.")
    return values
