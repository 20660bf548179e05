"""The one door through which a patch is loaded: found, read, and allowed by whoever has a say, on the same bytes.

Everything that makes vectors act goes through `open_patch`: models, servers, exports, the page. `fetch.py` finds the
files and `policy_patch.trust` decides. Reading without loading, as `info` does, needs no permission.
"""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from policy_patch.config import SIGNATURE_NAME, PolicyPatchConfig
from policy_patch.errors import SignatureError
from policy_patch.hub.fetch import (
    EVALUATION_NAME,
    HubOptions,
    PatchLocation,
    files_beside,
    locate_patch,
    names_in,
    repository_of,
)
from policy_patch.patch.folder import read_patch_files
from policy_patch.trust.bundle import Bundle, read_bundle
from policy_patch.trust.rules import PatchRules, rules_for
from policy_patch.trust.signed_files import hash_of, hashed_folder
from policy_patch.trust.verifying import Signed

if TYPE_CHECKING:
    import torch

NOT_FETCHED = "not fetched"  # in place of a hash: a file that no signature covers


@dataclass(frozen=True)
class OpenedPatch:
    """A patch that may be loaded.

    Args:
        config ([`PolicyPatchConfig`]):
            Its configuration.
        vectors (`torch.Tensor`):
            `(num_virtual_tokens, hidden_size)`, fp32, on the CPU.
        location ([`~policy_patch.hub.fetch.PatchLocation`]):
            Where its files are.
        files (`dict[str, bytes]`):
            The content of each file that was read, by its name; what was checked is this.
        rules ([`~policy_patch.trust.rules.PatchRules`]):
            What was asked of it.
        signed (`tuple[Signed, ...]`):
            What its signature says, to each who asked for one.
    """

    config: PolicyPatchConfig
    vectors: "torch.Tensor"
    location: PatchLocation
    files: dict[str, bytes]
    rules: PatchRules
    signed: tuple[Signed, ...] = ()


def open_patch(
    model_id: str | os.PathLike,
    options: HubOptions | None = None,
    *,
    optional: Sequence[str] = (),
    rules: PatchRules | None = None,
    whole: bool = False,
) -> OpenedPatch:
    """Find and read a patch, and check it against `trusted_keys=` and every policy in force.

    What is checked is what is returned: each file is read once. From the Hub, the files of the patch are fetched, and
    everything that its signature covers; in a folder, no file may be there that the signature does not cover.

    Args:
        model_id (`str` or `os.PathLike`):
            A folder, or a repository on the Hub, maybe with a version.
        options ([`~policy_patch.hub.fetch.HubOptions`], *optional*):
            Revision, token, cache, trusted keys, policy and so on.
        optional (`Sequence[str]`):
            Names of further files to read if they exist.
        rules ([`~policy_patch.trust.rules.PatchRules`], *optional*):
            What is asked of the patch. Defaults to what the options and the policies in force ask.
        whole (`bool`, *optional*, defaults to `False`):
            Whether a repository on the Hub, too, may hold no file that the signature does not cover, though none would
            be fetched. It is listed for that.

    Raises:
        SignatureError: the patch is not signed by somebody who is trusted, its files are not the signed ones, or it is
            in no organisation that the policy allows.
        EvaluationError: its report shows less than the policy asks for.
        ConfigError: the policy cannot be read, or the configuration of the patch.
        PatchNotFoundError, PatchFileError, HubError: as [`~policy_patch.hub.fetch.locate_patch`] and
            [`~policy_patch.patch.folder.read_patch_folder`].
        MissingExtraError: a signature is asked for, and the extra `signing` is not installed.
    """
    options = options or HubOptions()
    rules = rules_for(options.trusted_keys, options.policy) if rules is None else rules
    source = f"`{os.fspath(model_id)}`"
    if not rules.ask_nothing:
        rules.check_origin(repository_of(model_id), source)
    wanted = [*optional]
    wanted += [EVALUATION_NAME] if rules.asks_for_report and EVALUATION_NAME not in wanted else []
    wanted += [SIGNATURE_NAME] if rules.asks_for_signature and SIGNATURE_NAME not in wanted else []
    location = locate_patch(model_id, options, optional=wanted)
    read = read_patch_files(location.folder)
    files = read.files | files_beside(location.folder, wanted)
    bundle = _bundle(files.get(SIGNATURE_NAME), source, rules)
    missing = sorted(bundle.files.keys() - files.keys()) if bundle is not None else []
    if location.repo_id is not None and missing:
        at_commit = replace(options, revision=location.commit)
        if not isinstance(model_id, PatchLocation):
            locate_patch(location.repo_id, at_commit, optional=missing)
        files |= files_beside(location.folder, missing)
    signed: list[Signed] = []
    if rules.asks_for_signature:
        from_hub = location.repo_id is not None  # beside them the cache may hold files that nobody asked for
        hashes = {name: hash_of(content) for name, content in files.items()}
        if whole and from_hub:
            hashes = dict.fromkeys(names_in(location, options), NOT_FETCHED) | hashes
        if bundle is not None and not from_hub:
            hashes = hashed_folder(location.folder, files, skipped=bundle.ignored)
        signed = rules.check_signatures(files.get(SIGNATURE_NAME), hashes, source)
    rules.check_report(files.get(EVALUATION_NAME), source)
    return OpenedPatch(read.config, read.vectors, location, files, rules, tuple(signed))


def _bundle(signature: bytes | None, source: str, rules: PatchRules) -> Bundle | None:
    """Return what a signature says. Whether it holds is checked later, if anybody asks."""
    if signature is None:
        return None
    with contextlib.nullcontext() if rules.asks_for_signature else contextlib.suppress(SignatureError):
        return read_bundle(signature, f"{SIGNATURE_NAME} of {source}")
    return None
