"""What is asked of one patch before it is loaded: by `trusted_keys=`, and by every policy in force.

It decides on names, signatures and reports that others have read. Where a patch comes from is not known here.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from policy_patch.config import CONFIG_NAME
from policy_patch.errors import PolicyRefusalError, SignatureError
from policy_patch.patch.folder import TENSORS_NAME
from policy_patch.report.report import EvaluationReport
from policy_patch.report.system_names import BASE, PATCH
from policy_patch.trust.policy_file import EvaluationRules, PatchPolicy, policies_in_force
from policy_patch.trust.signed_files import REPORT_NAME
from policy_patch.trust.signers import TrustedSigners, read_signers
from policy_patch.trust.verifying import Signed, check_signature


@dataclass(frozen=True)
class PatchRules:
    """Everything that is asked of a patch.

    Args:
        signers (`tuple[tuple[str, TrustedSigners], ...]`):
            Who asks for a signature, and whose signatures count there. All of them have to be satisfied.
        policies (`tuple[PatchPolicy, ...]`):
            The policies in force.
    """

    signers: tuple[tuple[str, TrustedSigners], ...] = ()
    policies: tuple[PatchPolicy, ...] = ()

    @property
    def asks_for_signature(self) -> bool:
        """Whether a patch has to be signed."""
        return bool(self.signers)

    @property
    def asks_for_report(self) -> bool:
        """Whether a patch needs a report."""
        return any(policy.evaluation.asks_for_report for policy in self.policies)

    @property
    def ask_nothing(self) -> bool:
        """Whether any patch is allowed."""
        return (
            not self.signers and not self.asks_for_report and not any(one.trust.organisations for one in self.policies)
        )

    def check_origin(self, repo_id: str | None, source: str) -> None:
        """Refuse a patch by where it is, before anything of it is fetched.

        Args:
            repo_id (`str`, *optional*):
                Its repository on the Hub; None for a folder.
            source (`str`):
                The patch, for errors.

        Raises:
            SignatureError: a policy names organisations, and the patch is not in a repository of one of them.
        """
        for policy in self.policies:
            allowed = policy.trust.organisations
            if not allowed or (repo_id is None and policy.trust.asks_for_signature):
                continue  # whose folder it is, only its signature proves
            organisation = repo_id.partition("/")[0] if repo_id and "/" in repo_id else None
            if organisation in allowed:
                continue
            listed = ", ".join(f"`{name}`" for name in allowed)
            if organisation is None:
                raise SignatureError(
                    f"{source} is in no organisation of the Hub; {policy.source} allows those of {listed} only. To "
                    "allow folders that are signed, name keys in its table [trust]."
                )
            near = [name for name in allowed if name.casefold() == organisation.casefold()]
            hint = f" Capital letters count: write `{near[0]}`." if near else ""
            raise SignatureError(
                f"{source} is of the organisation `{organisation}`; {policy.source} allows {listed} only.{hint}"
            )

    def check_signatures(self, content: bytes | None, files: Mapping[str, str], source: str) -> list[Signed]:
        """Return what the signature says to everybody who asks for one.

        Raises:
            SignatureError: see [`~policy_patch.trust.verifying.check_signature`]; the message says who asked.
        """
        found = []
        for asked_by, signers in self.signers:
            try:
                found.append(
                    check_signature(content, files, signers, source=source, required=(CONFIG_NAME, TENSORS_NAME))
                )
            except SignatureError as error:
                raise SignatureError(f"{error} (Asked for by {asked_by}.)") from error
        return found

    def check_report(self, content: bytes | None, source: str) -> None:
        """Refuse a patch whose report shows less than the policies ask for.

        Raises:
            PolicyRefusalError: there is no report, or it shows too little.
        EvaluationError: it cannot be read.
        """
        for policy in self.policies:
            if not policy.evaluation.asks_for_report:
                continue
            asked = f"[evaluation] of {policy.source}"
            if content is None:
                raise PolicyRefusalError(
                    f"{source} has no {REPORT_NAME}, and {asked} asks for one. Take a patch that was measured "
                    "(`policy-patch evaluate`)."
                )
            report = EvaluationReport.from_json(content.decode("utf-8", "replace"), f"{REPORT_NAME} of {source}")
            _check_shown(report, policy.evaluation, f"The report of {source}", asked)


def rules_for(
    trusted_keys: Sequence[str | os.PathLike] | str | os.PathLike | None = None,
    policy: PatchPolicy | str | os.PathLike | None = None,
) -> PatchRules:
    """Return what is asked of a patch: by these arguments, and by the policy that POLICY_PATCH_POLICY names.

    Args:
        trusted_keys (`Sequence` of `str` or `os.PathLike`, *optional*):
            Public keys, as paths of PEM files or PEM texts. An empty list trusts nobody, so every patch is refused.
        policy ([`PatchPolicy`], `str` or `os.PathLike`, *optional*):
            A policy or its file.

    Raises:
        ConfigError: a policy cannot be read.
        SignatureError: a key or a certificate cannot be read.
        MissingExtraError: the extra `signing` is not installed.
    """
    signers = [] if trusted_keys is None else [("`trusted_keys`", read_signers(trusted_keys))]
    policies = policies_in_force(policy)
    signers += [(one.source, one.signers()) for one in policies if one.trust.asks_for_signature]
    return PatchRules(tuple(signers), policies)


def _check_shown(report: EvaluationReport, rules: EvaluationRules, source: str, asked: str) -> None:
    if PATCH not in report.systems:
        raise PolicyRefusalError(f"{source} has no figures of the patch, and {asked} asks for them. Measure it again.")
    prompts = report.settings.num_prompts
    if prompts < rules.minimum_prompts:
        raise PolicyRefusalError(
            f"{source} is on {prompts} prompts; {asked} asks for at least {rules.minimum_prompts}."
        )
    if not rules.better_than_base:
        return
    metric = report.headline
    found = [
        one.difference for one in report.comparisons
        if (one.system, one.other, one.metric) == (PATCH, BASE, metric.name) and one.scorer == report.scorer().name
    ]  # fmt: skip
    if not found:
        raise PolicyRefusalError(f"{source} does not compare patch and base in {metric.title}; {asked} asks for that.")
    worst = found[0].high if metric.lower_is_better else -found[0].low
    if not worst < 0:  # NaN counts as not better
        raise PolicyRefusalError(
            f"{source} does not show that the patch is better than the base: the difference in {metric.title} is "
            f"{found[0].value:.3g} [{found[0].low:.3g}, {found[0].high:.3g}]; {asked} asks for it."
        )
