"""`GateRow` and `GateResult`: what a gate found, one row for each check, and what to do where it failed.

Nothing is checked here; `gate.py` makes the rows.
"""

from dataclasses import asdict, dataclass
from typing import Any

from policy_patch.errors import GateError

PASSED, FAILED, OFF = "passed", "failed", "off"


@dataclass(frozen=True, kw_only=True)
class GateRow:
    """One check.

    Args:
        check (`str`):
            Its name.
        status (`"passed"`, `"failed"` or `"off"`):
            Whether the patch keeps the limit; `"off"` if the gate file switches the check off.
        figure (`str`):
            What was found, with its 95% interval; empty if nothing was measured.
        limit (`str`):
            What was expected.
        why (`str`):
            The reason in words.
        todo (`str`):
            What to do; empty for a check that passed.
    """

    check: str
    status: str
    figure: str = ""
    limit: str = ""
    why: str = ""
    todo: str = ""


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """What a gate found about one patch.

    Args:
        patch (`str`):
            The patch, as it was named.
        patch_version (`str`):
            Its version.
        risk (`str`):
            Its risk.
        gate (`str`, *optional*):
            The gate file; None for the default limits.
        rows (`list[GateRow]`):
            One row for each check, in the order of the gate file.
    """

    patch: str
    patch_version: str
    risk: str
    gate: str | None
    rows: list[GateRow]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    @property
    def failed(self) -> list[GateRow]:
        """The rows of the checks that failed."""
        return [row for row in self.rows if row.status not in (PASSED, OFF)]

    def raise_if_failed(self) -> None:
        """Raise `GateError` if a check failed; it names each one and what to do."""
        if self.failed:
            reasons = "; ".join(f"{row.check}: {row.why} {row.todo}".strip() for row in self.failed)
            raise GateError(f"`{self.patch}` {self.patch_version} does not pass the gate {self.gate or ''}: {reasons}")

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values for JSON."""
        return {"passed": self.passed, **asdict(self)}
