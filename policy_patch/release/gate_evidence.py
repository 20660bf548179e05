"""`Evidence`: what a gate knows about a patch, and the refusal to conclude anything from what is not there.

It finds figures in the report; `gate_checks.py` compares them with limits.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from policy_patch.config import PolicyPatchConfig
from policy_patch.errors import EvaluationError
from policy_patch.release.gate_file import Gate
from policy_patch.release.gate_statistics import Difference, difference
from policy_patch.report.independence import filtered_pairs
from policy_patch.report.metric import Metric
from policy_patch.report.records import ScorerRecord, SystemResult
from policy_patch.report.report import EvaluationReport, report_of_risk
from policy_patch.report.system_names import BASE, PATCH

_NEW_GATE_FILE = "`policy-patch gate --template > gate.yaml`."  # apart: with an old file, it would overwrite it


class NotShownError(Exception):
    """Raised when a check cannot be made. `todo` says what to do."""

    def __init__(self, why: str, todo: str) -> None:
        super().__init__(why)
        self.todo = todo


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a gate knows about a patch.

    Args:
        patch (`str`):
            The patch, as it was named.
        config ([`PolicyPatchConfig`]):
            Its configuration.
        vectors_sha256 (`str`):
            Hash of its vectors.
        report ([`EvaluationReport`], *optional*):
            Its report, if there is one.
        gate ([`Gate`]):
            The limits.
        is_folder (`bool`):
            Whether the patch is a folder of this machine, into which an evaluation writes its report.
        base (`str`, *optional*):
            Name of the base, if one was named.
    """

    patch: str
    config: PolicyPatchConfig
    vectors_sha256: str
    report: EvaluationReport | None
    gate: Gate
    is_folder: bool = True
    base: str | None = None

    @property
    def to_measure(self) -> str:
        """A sentence with the command that measures all that the gate asks for."""
        gate = self.gate.source or "gate.yaml"
        command = ["policy-patch", "evaluate", self.patch, "--gate", gate]
        command += [] if self.base is None else ["--base", self.base]
        command += [] if self.is_folder else ["--output_dir", "gate-evaluation"]
        then = "" if self.is_folder else ", then the gate again with `--report gate-evaluation`"
        no_file = "" if self.gate.source else " If you have no gate file yet, make it first: " + _NEW_GATE_FILE
        return f"Run `{shlex.join(command)}`{then}.{no_file}"

    @property
    def own_risks(self) -> list[str]:
        """The risks that the patch is for; of a patch that names none, the one that was measured."""
        named = self.config.risk or (self.report.risk if self.report else "")
        return [name for name in named.split("+") if name]

    def report_of(self, risk: str) -> EvaluationReport:
        """Return the report of one risk.

        Raises:
            NotShownError: it was not measured.
        """
        if self.report is None:
            raise NotShownError("Not measured: the patch has no report.", self.to_measure)
        found = report_of_risk(self.report, risk)
        if found is None:
            raise NotShownError(f"Not measured: the report has no {risk}.", self.to_measure)
        return found

    def system(self, report: EvaluationReport, name: str) -> SystemResult:
        """Return the figures of a system.

        Raises:
            NotShownError: it was not measured.
        """
        if name not in report.systems:
            raise NotShownError(f'Not measured: the report on {report.risk} has no system "{name}".', self.to_measure)
        return report.systems[name]

    def judge(self, report: EvaluationReport) -> ScorerRecord:
        """Return the scorer that decides: the one that the gate names, else the first that filtered no pairs.

        Raises:
            NotShownError: there is none, it filtered the training pairs, or it is unknown what filtered them.
        """
        filtered_by = self.config.filtered_by
        if filtered_by is None:
            filtered_by = self.gate.risk.filtered_by
        if filtered_by is None:
            raise NotShownError(
                "The patch does not say which scorers filtered its pairs (`filtered_by` is null).",
                "Train on pairs of `policy-patch pairs`, or write into the gate `risk: {filtered_by: [...]}`.",
            )
        named = self.gate.risk.judge if report.risk in self.own_risks else None
        scorers = [scorer for scorer in report.scorers if named in (None, scorer.name)]
        if not scorers:
            raise NotShownError(f"Not measured by `{named}`, which the gate names.", self.to_measure)
        free = [
            scorer
            for scorer in scorers
            if not scorer.filtered_training_pairs and not filtered_pairs(scorer.name, filtered_by)
        ]
        if not free:
            raise NotShownError(
                f"`{scorers[0].name}` filtered the training pairs of the patch, so it favours the patch.",
                f"Name another judge in the gate, `measure: {{scorers: {{{report.risk}: [...]}}}}`. {self.to_measure}",
            )
        return free[0]

    def risk_difference(self, report: EvaluationReport, metric: Metric, other: str, system: str = PATCH) -> Difference:
        """Compare the patch, or another system, with a system in a metric of the risk.

        Raises:
            NotShownError: a system or metric was not measured, or on too few prompts.
        """
        judge = self.judge(report).name
        values = [self.system(report, name).per_prompt[judge].get(metric.name) for name in (system, other)]
        return self._difference(report, f"{metric.title} of {report.risk}", values)

    def cost_difference(
        self, report: EvaluationReport, cost: str, other: str = BASE, system: str = PATCH
    ) -> Difference:
        """Compare the patch, or another system, with a system in a cost, by its name in [`SystemResult`].

        Raises:
            NotShownError: it was not measured, or on too few prompts or texts.
        """
        values = [self.system(report, name).costs.get(cost) for name in (system, other)]
        return self._difference(report, cost.replace("_", " "), values)

    def _difference(self, report: EvaluationReport, what: str, values: Sequence[list[float] | None]) -> Difference:
        if None in values or not all(values):
            raise NotShownError(f"Not measured: the report has no {what}.", self.to_measure)
        self.check_count(len(values[0]))
        try:
            return difference(report, *values)
        except EvaluationError as error:
            raise NotShownError(f"Not measured: {what}: {error}", self.to_measure) from error

    def check_count(self, count: int) -> None:
        """Raise NotShownError if `count` prompts or texts are too few to prove anything."""
        least = self.gate.evidence.min_prompts
        if count < least:
            raise NotShownError(
                f"Measured on {count} prompts or texts; expected at least {least} (`evidence.min_prompts`).",
                f"Give more in `measure` of the gate, or a larger `--num_prompts`. {self.to_measure}",
            )
