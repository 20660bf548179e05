"""Composes patches from folders or the Hub into one new folder, without loading their base.

`policy_patch.patch.composing` joins the vectors and rules; `PolicyPatchModel.compose_patch` does it in a model.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from policy_patch.base.recorded_comparison import recorded_differences
from policy_patch.config import PolicyPatchConfig
from policy_patch.errors import BaseMismatchError, PatchNameError
from policy_patch.hub.fetch import HubOptions
from policy_patch.hub.named_patch import NamedPatch, load_named_patches
from policy_patch.patch.composing import composed
from policy_patch.patch.folder import write_patch_folder
from policy_patch.patch.stack_check import Broken, broken_rules, check_same_place, member, tell_broken
from policy_patch.release.measured_stacks import MeasuredStacks
from policy_patch.trust.stack_policy import on_conflict_in_force


@dataclass(frozen=True, kw_only=True)
class ComposedFolder:
    """The result of [`compose_policy_patches`].

    Args:
        folder (`Path`):
            Folder of the composed patch.
        config ([`PolicyPatchConfig`]):
            Its configuration, as written.
        broken (`list[Broken]`):
            Rules of its parts that it breaks; empty if there are none.
        parts (`dict[str, Path]`):
            With `parts_dir`: name -> folder of a part with its measured stacks.
    """

    folder: Path
    config: PolicyPatchConfig
    broken: list[Broken]
    parts: dict[str, Path]

    def facts(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return {
            "folder": str(self.folder),
            "patch_version": self.config.patch_version,
            "risk": self.config.risk,
            "num_virtual_tokens": self.config.num_virtual_tokens,
            "sha256": self.config.sha256,
            "composed_from": self.config.composed_from,
            "conflicts": self.config.conflicts or [],
            "order": self.config.order or {},
            "measured": len(self.config.interference or []),
            "broken": [{"rule": one.rule, "message": one.message} for one in self.broken],
            "parts": {name: str(folder) for name, folder in self.parts.items()},
        }


def compose_policy_patches(
    patches: Sequence[str | os.PathLike],
    output_dir: str | os.PathLike,
    *,
    patch_version: str = "0.1.0",
    measured: str | os.PathLike | None = None,
    parts_dir: str | os.PathLike | None = None,
    on_conflict: str = "warn",
    hub: HubOptions | None = None,
) -> ComposedFolder:
    """Write one patch that equals a stack of patches for the same base. The base is not loaded.

    Args:
        patches (`Sequence` of `str` or `os.PathLike`):
            Two or more folders or Hub ids, in order, each maybe with a name: `"tox=org/tox-patch@v1.2.0"`.
        output_dir (`str` or `os.PathLike`):
            Folder to write; a patch in it is replaced.
        patch_version (`str`, *optional*, defaults to `"0.1.0"`):
            Version of the composed patch.
        measured (`str` or `os.PathLike`, *optional*):
            `composition.json` of `policy-patch evaluate --stack`, or its folder: what the stack does to each risk is
            written into the configuration, if it measured exactly these patches in this order.
        parts_dir (`str` or `os.PathLike`, *optional*):
            With `measured`: folder for copies of the parts whose configurations hold the figures of all stacks with
            them. Their hashes and so their versions change; publish them as new versions.
        on_conflict (`"warn"`, `"refuse"` or `"ignore"`, *optional*, defaults to `"warn"`):
            What follows if the stack breaks a rule of its parts.
        hub ([`HubOptions`], *optional*):
            Token, cache, trusted keys, policy and so on.

    Returns:
        [`ComposedFolder`].

    Raises:
        PatchConflictError: the stack breaks a rule, or `measured` says that it makes a risk worse, and `on_conflict` or
            a policy refuses that. Nothing is written.
        BaseMismatchError: the patches were made for different bases, or one does not say for which.
        EvaluationError: `measured` has other patches, or another order.
        PatchNameError: fewer than two patches, or two of one name.
        ConfigError: the patches go to different places of a row, or `patch_version` is no semantic version.
        PatchSaveError, PatchNotFoundError, PatchFileError, HubError: a folder cannot be written, or a patch not read.
    """
    hub = hub or HubOptions()
    named = load_named_patches(patches, hub)
    if len(named) < 2:
        raise PatchNameError(f"One patch is given, `{named[0].name}`; a composed patch needs two or more.")
    if parts_dir is not None and measured is None:
        raise PatchNameError("`parts_dir` needs `measured`: without figures the parts would not change.")
    check_same_base(named)
    check_same_place({one.name: one.config for one in named})
    config, vectors = composed(
        [(one.name, one.config, one.vectors) for one in named],
        origins={one.name: (one.repo_id, one.commit) for one in named},
        on_conflict="ignore",  # checked below, with the measurements
    )
    config = replace(config, patch_version=patch_version)
    study = None if measured is None else MeasuredStacks(measured)
    if study is not None:
        new = study.entries_of_stack([one.sha256 for one in named])
        config = replace(config, interference=_with_newer(config.interference, new))
    broken = _broken(named, config)
    policies = [] if hub.policy is None else [hub.policy]
    stack = " + ".join(one.name for one in named)
    tell_broken(broken, stack, lambda: on_conflict_in_force(on_conflict, policies))
    written = write_patch_folder(output_dir, config, vectors)
    parts = {} if study is None or parts_dir is None else _write_parts(named, study, Path(parts_dir))
    return ComposedFolder(folder=Path(output_dir), config=written, broken=broken, parts=parts)


def _broken(named: Sequence[NamedPatch], config: PolicyPatchConfig) -> list[Broken]:
    """Return the rules that a stack breaks: those of its parts, and all that was measured, as the new patch has it."""
    rules = [one for one in broken_rules([one.member for one in named]) if one.rule != "interference"]
    figures = [one for one in broken_rules([member("the new patch", config)]) if one.rule == "interference"]
    return list(dict.fromkeys([*rules, *figures]))


def _write_parts(named: Sequence[NamedPatch], study: MeasuredStacks, folder: Path) -> dict[str, Path]:
    found = {}
    for one in named:
        entries = _with_newer(one.config.interference, study.entries(one.sha256))
        found[one.name] = folder / one.name
        write_patch_folder(found[one.name], replace(one.config, interference=entries), one.vectors)
    return found


def _with_newer(old: list[dict[str, Any]] | None, new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return all measurements, of which a newer one replaces an older one of the same stack, risk and metric."""

    def key(entry: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(one["sha256"] for one in entry["stack"]), entry["risk"], entry["metric"]

    return list({key(entry): entry for entry in (*(old or []), *new)}.values())


def check_same_base(named: Sequence[NamedPatch]) -> None:
    """Raise `BaseMismatchError` unless all patches were made for one base, by their fingerprints."""
    first = named[0]
    for one in named:
        if one.config.base_fingerprint is None:
            raise BaseMismatchError(
                f"`{one.name}` does not say which base it was made for (`base_fingerprint` is null: an old file). Load "
                "it on its base and save it again, then compose."
            )
    for one in named[1:]:
        names = (f"`{first.name}`", f"`{one.name}`")
        differences = recorded_differences(first.config.base_fingerprint, one.config.base_fingerprint, names)
        if first.vectors.shape[1] != one.vectors.shape[1]:
            differences.append(f"vectors of {first.vectors.shape[1]} and of {one.vectors.shape[1]} numbers")
        if differences:
            raise BaseMismatchError(
                f"{names[0]} (for `{first.config.base_model_name_or_path}`) and {names[1]} (for "
                f"`{one.config.base_model_name_or_path}`) were made for different bases: {'; '.join(differences)}. "
                "Compose patches for one base; `policy-patch rebase` carries a patch to another."
            )
