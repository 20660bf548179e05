"""What follows if a stack breaks a rule of its patches: what was asked for, or refusal if a policy says so.

The rules themselves are compared in `policy_patch.patch.stack_check`.
"""

import os
from collections.abc import Sequence

from policy_patch.patch.stack_check import check_on_conflict
from policy_patch.trust.policy_file import PatchPolicy, policies_in_force


def on_conflict_in_force(asked: str = "warn", policies: Sequence[PatchPolicy | str | os.PathLike] = ()) -> str:
    """Return `"refuse"` if a policy in force refuses such stacks (`[compose] interference`), else what was asked for.

    No argument weakens the policy of the machine, which POLICY_PATCH_POLICY names.

    Args:
        asked (`"warn"`, `"refuse"` or `"ignore"`, *optional*, defaults to `"warn"`):
            What the caller wants.
        policies (`Sequence` of [`PatchPolicy`], `str` or `os.PathLike`, *optional*):
            Policies that were given with the patches.

    Raises:
        ConfigError: `asked` is something else, or a policy cannot be read.
    """
    check_on_conflict(asked)
    found = [policy for given in (*policies, None) for policy in policies_in_force(given)]
    return "refuse" if any(policy.compose.interference == "refuse" for policy in found) else asked
