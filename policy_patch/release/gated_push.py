"""Holds a push to the gates that policy files name. `policy_patch.hub` calls it by name before it sends anything.

`policy-patch push` checks the same gates first and shows their tables.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from policy_patch.config import PolicyPatchConfig
from policy_patch.patch.folder import write_patch_files
from policy_patch.release.gate import check_folder
from policy_patch.release.gate_file import Gate
from policy_patch.report.report import EvaluationReport


def check_before_push(
    gate_file: Path, config: PolicyPatchConfig, files: Mapping[str, bytes], report: EvaluationReport | None, base: Any
) -> None:
    """Raise `GateError` if a patch that is about to be published does not pass a gate.

    Args:
        gate_file (`Path`):
            The gate file.
        config ([`PolicyPatchConfig`]):
            The configuration of the patch.
        files (`Mapping[str, bytes]`):
            The files of the patch as they will be published.
        report ([`EvaluationReport`], *optional*):
            The report that will be published.
        base ([`~transformers.PreTrainedModel`], *optional*):
            The base, to time the patch on.

    Raises:
        GateError: a check failed, or the gate file is wrong.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_patch_files(folder, dict(files))
        result = check_folder(
            Path(folder), Gate.from_yaml(gate_file), named="PATCH_FOLDER", report=report, base=base,
            base_name=config.base_model_name_or_path,
        )  # fmt: skip
    result.raise_if_failed()
