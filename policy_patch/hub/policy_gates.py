"""Holds a push to the release gates that policy files name (`[gate] file`), before anything is sent.

The gates themselves are a matter of `policy_patch.release`, on a higher floor, and are called by name.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from policy_patch.config import PolicyPatchConfig
from policy_patch.trust.policy_file import policies_in_force

_RELEASE = "policy_patch.release.gated_push"


def policy_gates() -> list[Path]:
    """Return the gate files that the policies in force name.

    Raises:
        ConfigError: a policy cannot be read.
    """
    return [policy.path_of(policy.gate.file) for policy in policies_in_force() if policy.gate.file]


def hold_to_gates(
    config: PolicyPatchConfig, files: Mapping[str, bytes], *, base: Any = None, passed: Sequence[Path] = ()
) -> None:
    """Raise `GateError` if a policy names a gate that a patch does not pass.

    Args:
        config ([`PolicyPatchConfig`]):
            The configuration of the patch.
        files (`Mapping[str, bytes]`):
            What is about to be published: the patch, its report and its signature.
        base ([`~transformers.PreTrainedModel`], *optional*):
            The base, if it is loaded. A gate that times the patch needs it.
        passed (`Sequence[Path]`, *optional*):
            Gate files that the caller has checked with the same files.

    Raises:
        ConfigError: a policy cannot be read.
        GateError: a check failed, or a gate file is wrong.
    """
    for gate in policy_gates():
        if gate not in passed:
            check = import_module(_RELEASE).check_before_push
            check(gate, files, base_name=config.base_model_name_or_path, base=base)
