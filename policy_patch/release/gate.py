"""`check_gate`: whether a patch may be released. It compares the patch and its report with the limits of a gate file.

Nothing is measured here but the time of a generation; `policy-patch evaluate PATCH --gate gate.yaml` measures the rest.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policy_patch.errors import EvaluationError
from policy_patch.hub.fetch import EVALUATION_NAME, HubOptions, locate_patch
from policy_patch.patch.folder import read_patch_folder
from policy_patch.patch.vectors import vectors_hash
from policy_patch.release.gate_checks import cost_rows, other_risk_rows, risk_rows, switched_off
from policy_patch.release.gate_evidence import Evidence
from policy_patch.release.gate_file import Gate
from policy_patch.release.gate_origin import origin_rows, signature_row
from policy_patch.release.gate_overhead import CHECK as OVERHEAD
from policy_patch.release.gate_overhead import overhead_row
from policy_patch.release.gate_result import FAILED, GateResult, GateRow
from policy_patch.report.report import EvaluationReport
from policy_patch.trust.signed_files import SIGNATURE_NAME

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def check_gate(
    patch: str | os.PathLike,
    gate: Gate | Mapping[str, Any] | str | os.PathLike | None = None,
    *,
    report: EvaluationReport | str | os.PathLike | None = None,
    base: "PreTrainedModel | None" = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    base_name: str | None = None,
    options: HubOptions | None = None,
) -> GateResult:
    """Check whether a patch may be released. A check that cannot be made has failed.

    Args:
        patch (`str` or `os.PathLike`):
            Folder of the patch, or its id on the Hub.
        gate ([`Gate`], `Mapping`, `str` or `os.PathLike`, *optional*):
            The limits: a gate file, its values, or a [`Gate`]. Defaults to the limits that
            `policy-patch gate --template` prints.
        report ([`EvaluationReport`], `str` or `os.PathLike`, *optional*):
            The report of the patch, or its file or folder. Defaults to the `evaluation.json` beside the patch.
        base ([`~transformers.PreTrainedModel`], *optional*):
            The base, on which the gate times the patch. It is not changed.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The base's tokenizer; the fingerprint of the patch is then compared with it, too.
        base_name (`str`, *optional*):
            Name of the base for the commands in messages. Defaults to none.
        options ([`HubOptions`], *optional*):
            Revision, token, cache and so on for a patch on the Hub.

    Returns:
        [`GateResult`]: one row for each check. `result.raise_if_failed()` raises a `GateError`.

    Raises:
        GateError: the gate file is wrong.
        PatchNotFoundError, ConfigError, PatchFileError, HubError: the patch cannot be read.
        BaseMismatchError: `base` is not the base of the patch.

    Example:

    ```python
    result = check_gate("tox-patch", "gate.yaml", base=base, tokenizer=tokenizer)
    result.raise_if_failed()
    ```
    """
    location = locate_patch(patch, options, optional=[EVALUATION_NAME, SIGNATURE_NAME])
    return check_folder(
        location.folder, _gate(gate), named=os.fspath(patch), is_folder=location.commit is None, report=report,
        base=base, tokenizer=tokenizer, base_name=base_name, place=os.fspath(patch),
        options=options,
    )  # fmt: skip


def check_folder(
    folder: Path,
    limits: Gate,
    *,
    named: str,
    is_folder: bool = True,
    report: EvaluationReport | str | os.PathLike | None = None,
    base: "PreTrainedModel | None" = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    base_name: str | None = None,
    place: str | None = None,
    options: HubOptions | None = None,
) -> GateResult:
    """Check the patch in a folder, as [`check_gate`].

    Args:
        folder (`Path`):
            The folder.
        limits ([`Gate`]):
            The limits.
        named (`str`):
            What messages call the patch.
        is_folder (`bool`, *optional*, defaults to `True`):
            Whether that is a folder, into which an evaluation writes.
        place (`str`, *optional*):
            Folder or Hub id whose signature counts. Defaults to `folder`.
        report, base, tokenizer, base_name, options:
            As in [`check_gate`].
    """
    config, vectors = read_patch_folder(folder)
    found, unreadable = _report(report, folder)
    evidence = Evidence(
        patch=named, config=config, vectors_sha256=vectors_hash(vectors), report=found, gate=limits,
        is_folder=is_folder, base=base_name,
    )  # fmt: skip
    rows = [] if unreadable is None else [_unreadable_row(evidence, unreadable)]
    rows += origin_rows(evidence)
    for risk in evidence.own_risks or ["risk"]:
        rows += risk_rows(evidence, risk)
    rows += [*other_risk_rows(evidence), *cost_rows(evidence)]
    rows += [_overhead(evidence, folder, base, tokenizer), signature_row(evidence, place or folder, options)]
    return GateResult(
        patch=named, patch_version=config.patch_version, risk=config.risk or "", gate=limits.source, rows=rows
    )


def _gate(gate: Any) -> Gate:
    if gate is None or isinstance(gate, Gate):
        return gate or Gate()
    return Gate.from_dict(gate) if isinstance(gate, Mapping) else Gate.from_yaml(gate)


def _report(given: Any, folder: Path) -> tuple[EvaluationReport | None, str | None]:
    """Return the report, if there is one, and why it cannot be read, if it cannot."""
    if isinstance(given, EvaluationReport):
        return given, None
    if given is None and not (folder / EVALUATION_NAME).is_file():
        return None, None
    try:
        return EvaluationReport.load(folder if given is None else given), None
    except EvaluationError as error:
        return None, str(error)


def _unreadable_row(evidence: Evidence, reason: str) -> GateRow:
    return GateRow(check="report", status=FAILED, limit="readable", why=reason, todo=evidence.to_measure)


def _overhead(evidence: Evidence, folder: Path, base: Any, tokenizer: Any) -> GateRow:
    limits = evidence.gate.overhead
    if limits.max_ratio is None:
        return switched_off(OVERHEAD, "overhead.max_ratio")
    if base is None:
        named = evidence.base or evidence.config.base_model_name_or_path or "BASE"
        gate = f" --gate {evidence.gate.source}" if evidence.gate.source else ""
        return GateRow(
            check=OVERHEAD, status=FAILED, limit=f"<= {limits.max_ratio:g} x", why="Not measured: no base was given.",
            todo=f"Run `policy-patch gate {evidence.patch}{gate} --base {named}`.",
        )  # fmt: skip
    from policy_patch.model.patched_model import PolicyPatchModel

    model = PolicyPatchModel.from_pretrained(base, folder, tokenizer=tokenizer).eval()
    return overhead_row(model, limits)
