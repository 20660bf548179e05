"""The checks on where a patch and its report come from: the report is of this patch on this base, and the signature.

They compare hashes; what the report says is checked in `gate_checks.py`.
"""

from pathlib import Path

from policy_patch.base.fingerprint import fingerprint_hash
from policy_patch.errors import SignatureError
from policy_patch.hub.fetch import HubOptions
from policy_patch.release.gate_checks import checked, switched_off
from policy_patch.release.gate_evidence import Evidence, NotShownError
from policy_patch.release.gate_result import FAILED, PASSED, GateRow
from policy_patch.release.verification import verify_policy_patch
from policy_patch.report.records import MeasuredPatch


def origin_rows(evidence: Evidence) -> list[GateRow]:
    """Return the rows that say whether the report is that of this patch, and of its base."""
    return [
        checked("report of this patch", "same vectors", lambda: _patch_row(evidence)),
        checked("report on this base", "same base", lambda: _base_row(evidence)),
    ]


def _measured(evidence: Evidence) -> MeasuredPatch:
    if evidence.report is None:
        raise NotShownError("Not measured: the patch has no report.", evidence.to_measure)
    reports = [evidence.report, *evidence.report.other_risks]
    first = evidence.report.patches
    if any(one.patches != first for one in reports):
        raise NotShownError("The risks in the report were measured with different patches.", evidence.to_measure)
    if not first:
        raise NotShownError("The report does not say which patch it measured; it is an old one.", evidence.to_measure)
    if len(first) > 1:
        raise NotShownError(
            f"The report is of a stack of {len(first)} patches, not of this patch alone.", evidence.to_measure
        )
    return first[0]


def _patch_row(evidence: Evidence) -> GateRow:
    check, limit = "report of this patch", "same vectors"
    found, expected = _measured(evidence).vectors_sha256, evidence.vectors_sha256
    if found == expected:
        return GateRow(check=check, status=PASSED, figure=found[:12], limit=limit, why="The hashes are equal.")
    return GateRow(
        check=check, status=FAILED, figure=found[:12], limit=limit, todo=evidence.to_measure,
        why=f"The report measured vectors with the hash {found[:12]}; those of this patch have {expected[:12]}.",
    )  # fmt: skip


def _base_row(evidence: Evidence) -> GateRow:
    check, limit = "report on this base", "same base"
    one, expected = _measured(evidence), fingerprint_hash(evidence.config.base_fingerprint)
    if expected is None:
        raise NotShownError(
            "The patch does not say which base it is for (`base_fingerprint` is null).",
            "Load it on its base, save it with `save_pretrained`, and measure it again.",
        )
    if one.base_fingerprint_sha256 == expected and one.on_its_base:
        return GateRow(check=check, status=PASSED, figure=expected[:12], limit=limit, why="It has the fingerprint.")
    why = "The report was made on another base than the one that the patch is for."
    return GateRow(check=check, status=FAILED, figure="", limit=limit, why=why, todo=evidence.to_measure)


def signature_row(evidence: Evidence, place: str | Path, options: HubOptions | None = None) -> GateRow:
    """Return the row of the signature; the keys of the gate count.

    Args:
        evidence ([`Evidence`]):
            What is known about the patch.
        place (`str` or `Path`), options ([`HubOptions`], *optional*):
            The patch, for [`verify_policy_patch`].
    """
    check, limits = "signature", evidence.gate.signature
    if not limits.required:
        return switched_off(check, "signature.required")
    todo = (
        f"Sign it: `policy-patch sign {evidence.patch} --key key.pem`, after its last change or `push --sign key.pem`, "
        "and name the public key in `signature.trusted_keys`."
    )
    try:
        signed = verify_policy_patch(
            place, trusted_keys=limits.trusted_keys, certificate_authorities=limits.certificate_authorities, hub=options
        )
    except SignatureError as error:
        return GateRow(check=check, status=FAILED, limit="by a trusted key", why=str(error), todo=todo)
    return GateRow(check=check, status=PASSED, limit="by a trusted key", figure=signed.signer[:30], why=signed.signer)
