"""A patch with the name that servers and files know it by: `tox=org/tox-patch@v1.2.0`, read whole.

Where its files come from is `fetch.py`'s business. No base is loaded here.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from policy_patch.config import PolicyPatchConfig
from policy_patch.errors import PatchNameError
from policy_patch.hub.fetch import HubOptions
from policy_patch.hub.names import split_id
from policy_patch.hub.opening import open_patch
from policy_patch.lab.checkpoints import LAB_PREFIX
from policy_patch.patch.folder import patch_hash
from policy_patch.patch.stack_check import StackMember, member
from policy_patch.trust.policy_file import policies_in_force
from policy_patch.trust.scan_verdicts import check_scanned_before

_NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")


@dataclass(frozen=True)
class NamedPatch:
    """A patch that was read.

    Args:
        name (`str`):
            What it is called where it is served: letters, digits, `-`, `_` and `.`.
        config ([`PolicyPatchConfig`]):
            Its configuration.
        vectors (`torch.Tensor`):
            `(num_virtual_tokens, hidden_size)`, fp32, on the CPU.
        repo_id, commit (`str`, *optional*):
            The repository and commit that it was fetched from; None for a folder.
        folder (`Path`, *optional*):
            Folder on this machine that it was read from.
    """

    name: str
    config: PolicyPatchConfig
    vectors: torch.Tensor
    repo_id: str | None = None
    commit: str | None = None
    folder: Path | None = None

    @property
    def version_tag(self) -> str:
        """The version as a tag: `v1.2.0`."""
        return f"v{self.config.patch_version}"

    @cached_property
    def sha256(self) -> str:
        """Hash of the tensor file; it tells two patches of one version apart."""
        return patch_hash(self.config, self.vectors)

    @property
    def member(self) -> StackMember:
        """The patch as a member of a stack, to check the rules of stacks."""
        return member(self.name, self.config, (self.repo_id, self.commit))

    def facts(self) -> dict[str, object]:
        """Return which patch this is, as plain values: for files, answers and log lines."""
        return {
            "name": self.name,
            "version": self.config.patch_version,
            "risk": self.config.risk,
            "repository": self.repo_id,
            "commit": self.commit,
            "sha256": self.sha256,
            "num_virtual_tokens": self.vectors.shape[0],
        }


def split_name(spec: str | os.PathLike) -> tuple[str, str]:
    """Split `"tox=org/tox-patch@v1.2.0"` into the name and the id; without a name, the id's last part is the name.

    Raises:
        PatchNameError: the name has characters that no name may have, or the id's last part is none.

    Example:

    ```python
    >>> from policy_patch.hub.named_patch import split_name
    >>> split_name("tox=org/tox-patch@v1.2.0"), split_name("org/tox-patch@v1.2.0")
    (('tox', 'org/tox-patch@v1.2.0'), ('tox-patch', 'org/tox-patch@v1.2.0'))

    ```
    """
    text = os.fspath(spec)
    name, equals, model_id = text.partition("=")
    if not equals or os.path.exists(text) or "/" in name:
        model_id = text
        name = _last_part(text)
    if not _NAME.fullmatch(name) or not model_id:
        raise PatchNameError(
            f"`{text}` gives the patch the name {name!r}; expected letters, digits, `-`, `_` and single dots, "
            "such as `tox=org/tox-patch`."
        )
    return name, model_id


def _last_part(model_id: str) -> str:
    if os.path.isdir(model_id):
        return Path(model_id).resolve().name
    return split_id(model_id)[0].rpartition("/")[2].removeprefix(LAB_PREFIX)


def load_named_patch(spec: str | os.PathLike, options: HubOptions | None = None) -> NamedPatch:
    """Read a patch from a folder or the Hub.

    Args:
        spec (`str` or `os.PathLike`):
            A folder or a repository, maybe with a version, and maybe with a name and `=` in front.
        options ([`HubOptions`], *optional*):
            Token, cache and so on.

    Raises:
        PatchNameError: a name that is not allowed.
        HostilePatchError: a policy requires a scan, and has no verdict that allows the patch: here is no base to scan
            with.
        PolicyPatchError: what [`~policy_patch.hub.opening.open_patch`] raises.
    """
    name, model_id = split_name(spec)
    opened = open_patch(model_id, options)
    check_scanned_before(opened.rules.policies, opened.config, f"`{model_id}`")
    location = opened.location
    return NamedPatch(name, opened.config, opened.vectors, location.repo_id, location.commit, location.folder)


def load_named_patches(specs: Sequence[str | os.PathLike], options: HubOptions | None = None) -> list[NamedPatch]:
    """Read several patches, each with another name.

    Raises:
        PatchNameError: none is given, or two have one name.
        PolicyPatchError: as [`load_named_patch`].
    """
    if isinstance(specs, str | os.PathLike):
        specs = [specs]
    if not specs:
        raise PatchNameError("No patch is given; expected at least one folder or Hub id.")
    patches = [load_named_patch(spec, options) for spec in specs]
    names = [patch.name for patch in patches]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise PatchNameError(
            f"Two patches have the name `{min(twice)}`. Give each its own: `one=org/tox-patch two=org/other-patch`."
        )
    return patches


def check_stack_scanned_before(patches: Sequence[NamedPatch], options: HubOptions | None = None) -> None:
    """Refuse a stack without a kept verdict, where a policy requires a scan and there is no base to scan with.

    A single patch was asked for its verdict when it was read.

    Raises:
        HostilePatchError: there is no verdict on exactly this stack in this order, or it does not allow it.
        ConfigError: a policy cannot be read.
    """
    if len(patches) > 1:
        policies = policies_in_force(options.policy if options else None)
        source = f"The stack {' + '.join(one.name for one in patches)}"
        check_scanned_before(policies, [one.config for one in patches], source)


def base_of(patches: Sequence[NamedPatch], base: str | os.PathLike | None = None) -> tuple[str, str | None]:
    """Return the base that patches are for, and its revision: the given one, or the one that all patches name.

    Raises:
        PatchNameError: none is given, and the patches name none or different ones.
    """
    named = {(patch.config.base_model_name_or_path, patch.config.base_model_revision): patch.name for patch in patches}
    if base is not None:
        revisions = {revision for name, revision in named if name == os.fspath(base)}
        return os.fspath(base), revisions.pop() if len(revisions) == 1 else None
    names = {name for name, _ in named}
    if len(names) != 1 or None in names:
        raise PatchNameError(
            f"The patches are for {', '.join(sorted(str(name) for name in names))}; expected one base. Give it: "
            "`base=` (`--base`)."
        )
    revisions = {revision for _, revision in named}
    if len(revisions) != 1:
        raise PatchNameError(
            f"The patches are for different revisions of `{names.pop()}`. Give the base that is served: `base=` "
            "(`--base`)."
        )
    return next(iter(named))
