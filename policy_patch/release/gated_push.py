"""The gate of a push: it judges the files as they will be published, with their report and their signature.

`policy-patch push` shows its table; `policy_patch.hub` calls it by name for the gates of policies, for every push.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from policy_patch.release.gate import check_folder
from policy_patch.release.gate_file import Gate
from policy_patch.release.gate_result import GateResult


def gate_of_push(
    files: Mapping[str, bytes],
    gate: Gate,
    *,
    named: str,
    base_name: str | None,
    base: Any = None,
    tokenizer: Any = None,
) -> GateResult:
    """Check files that are about to be published.

    Args:
        files (`Mapping[str, bytes]`):
            Name -> content: the patch, and its report and signature if there are any.
        gate ([`Gate`]):
            The limits.
        named (`str`):
            What messages call the patch.
        base_name (`str`, *optional*):
            Name of the base, for messages.
        base ([`~transformers.PreTrainedModel`]), tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            As in [`check_gate`].
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        return check_folder(folder, gate, named=named, base=base, tokenizer=tokenizer, base_name=base_name)


def check_before_push(gate_file: Path, files: Mapping[str, bytes], *, base_name: str | None, base: Any) -> None:
    """Raise `GateError` if files that are about to be published do not pass a gate.

    Args:
        gate_file (`Path`):
            The gate file.
        files (`Mapping[str, bytes]`), base_name (`str`, *optional*), base ([`~transformers.PreTrainedModel`],
        *optional*):
            As in [`gate_of_push`].

    Raises:
        GateError: a check failed, or the gate file is wrong.
    """
    gate = Gate.from_yaml(gate_file)
    gate_of_push(files, gate, named="PATCH_FOLDER", base_name=base_name, base=base).raise_if_failed()
