"""The patches that a gateway serves, by model name: versions side by side, stacks, hot swap and rollback.

`base+tox` is the current version of `tox`, `base+tox@v1.2.0` that very version, `base+tox+bias` a stack. Requests are
made in `gateway.py`.
"""

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from policy_patch.errors import PatchNameError
from policy_patch.hub.named_patch import NamedPatch, check_stack_scanned_before
from policy_patch.near_names import did_you_mean
from policy_patch.patch.prompt_embeds import Stack, stack_of
from policy_patch.patch.stack_check import check_on_conflict
from policy_patch.semver import SEMVER
from policy_patch.trust.stack_policy import on_conflict_in_force

_MOST_STACKS = 256  # stacks whose encoded vectors are kept; our choice, each may be megabytes
_PART = re.compile(r"(?P<name>[^+@]+)(?:@v?(?P<version>[^@]+))?")


@dataclass(frozen=True)
class Chosen:
    """What a model name stands for.

    Args:
        patches (`tuple[NamedPatch, ...]`):
            In order; empty for the base.
        stack ([`Stack`], *optional*):
            Their vectors; None for the base.
    """

    patches: tuple[NamedPatch, ...]
    stack: Stack | None


class ServedPatches:
    """Patches by name and version. All methods may be called from several threads.

    Args:
        base (`str`):
            Name of the base in model names.
        dtype (`torch.dtype`):
            What the engine serves it with.
        allow_base (`bool`, *optional*, defaults to `False`):
            Serve the base without a patch, too. By default it is refused: a client that forgets the patch would get
            unsafe answers and no sign of it.
        on_conflict (`"warn"`, `"refuse"` or `"ignore"`, *optional*, defaults to `"warn"`):
            What follows if a request names a stack that breaks a rule of its patches.
        base_facts (`Mapping[str, str | None]`, *optional*):
            `id` of the base, its Hub id or the last part of its folder, and its `commit`. Defaults to its name alone.
    """

    def __init__(
        self,
        base: str,
        dtype: torch.dtype,
        *,
        allow_base: bool = False,
        on_conflict: str = "warn",
        base_facts: Mapping[str, str | None] | None = None,
    ) -> None:
        self._on_conflict = check_on_conflict(on_conflict)
        self.base, self.dtype, self.allow_base = base, dtype, allow_base
        self.base_facts = {"id": base, "commit": None} if base_facts is None else dict(base_facts)
        self._versions: dict[str, dict[str, NamedPatch]] = {}  # name -> version -> patch
        self._history: dict[str, list[str]] = {}  # name -> versions that were current, the last is
        self._stacks: dict[tuple[str, ...], Chosen] = {}
        self._lock = threading.Lock()

    def put(self, patch: NamedPatch) -> str | None:
        """Make a patch the current version of its name, and return the version that was.

        Requests under way keep theirs.

        Raises:
            PatchNameError: another patch has this name and version: published versions do not change.
        """
        version = patch.config.patch_version
        with self._lock:
            there = self._versions.setdefault(patch.name, {}).get(version)
            if there is not None and there.sha256 != patch.sha256:
                raise PatchNameError(
                    f"`{patch.name}@v{version}` is served already, with other vectors. Give the new one a new version, "
                    "or remove the old one first."
                )
            history = self._history.setdefault(patch.name, [])
            before = history[-1] if history else None
            self._versions[patch.name][version] = patch
            if before != version:
                history.append(version)
            self._stacks.clear()
        return before

    def replace_all(self, patches: Sequence[NamedPatch]) -> None:
        """Serve these patches and nothing else, all at once. Requests under way keep theirs.

        Raises:
            PatchNameError: none is given, or two have one name.
        """
        names = [patch.name for patch in patches]
        if not names or len(set(names)) != len(names):
            raise PatchNameError(f"Expected patches with names of their own; got {names}.")
        with self._lock:
            self._versions = {patch.name: {patch.config.patch_version: patch} for patch in patches}
            self._history = {patch.name: [patch.config.patch_version] for patch in patches}
            self._stacks.clear()

    def roll_back(self, name: str) -> str:
        """Make the version that was current before the current one current again, and return it.

        Raises:
            PatchNameError: no such patch, or no version before.
        """
        with self._lock:
            self._check_known(name)
            history = self._history[name]
            if len(history) < 2:
                raise PatchNameError(
                    f"`{name}` has had one version here, {history[-1]}; there is nothing to go back to."
                )
            history.pop()
            self._stacks.clear()
            return history[-1]

    def remove(self, name: str, version: str) -> None:
        """Stop serving a version that is not current.

        Raises:
            PatchNameError: no such version, or the current one.
        """
        with self._lock:
            self._check_known(name)
            if version == self._history[name][-1]:
                raise PatchNameError(f"`{name}@v{version}` is the current version; put or roll back to another first.")
            if self._versions[name].pop(version, None) is None:
                raise PatchNameError(f"`{name}` has no version {version} here.")
            self._history[name] = [each for each in self._history[name] if each != version]

    def chosen(self, model: Any) -> Chosen:
        """Return what a model name stands for.

        Raises:
            PatchNameError: no such model.
            PatchConflictError: the stack breaks a rule of a patch, and `on_conflict` is `"refuse"`.
            HostilePatchError: a policy requires a scan, and has no verdict that allows the stack.
        """
        if not isinstance(model, str) or model.partition("+")[0] != self.base:
            raise PatchNameError(f"There is no model {str(model)[:200]!r}. {self._advice(str(model))}")
        with self._lock:
            if model == self.base:
                if not self.allow_base:
                    raise PatchNameError(
                        f"`{self.base}` is not served without a patch. {self._advice(model)} To serve it, start the "
                        "gateway with `--allow_base`."
                    )
                return Chosen((), None)
            patches = tuple(self._patch(part, model) for part in model.split("+")[1:])
            names = [one.name for one in patches]
            if len(set(names)) != len(names):
                raise PatchNameError(f"The model {model!r} has a patch twice.")
            key = tuple(f"{one.name}@{one.config.patch_version}" for one in patches)
            if key not in self._stacks:
                check_stack_scanned_before(patches)
                stack = stack_of(
                    {one.name: (one.config, one.vectors) for one in patches},
                    self.dtype,
                    origins={one.name: (one.repo_id, one.commit) for one in patches},
                    on_conflict=lambda: on_conflict_in_force(self._on_conflict),
                )
                if len(self._stacks) >= _MOST_STACKS:
                    self._stacks.pop(next(iter(self._stacks)))
                self._stacks[key] = Chosen(patches, stack)
            return self._stacks[key]

    def models(self) -> list[dict[str, Any]]:
        """Return each single model that is served, as `/v1/models` lists them. Stacks are not listed."""
        with self._lock:
            found: list[dict[str, Any]] = [self._model(self.base)] if self.allow_base else []
            for name, versions in self._versions.items():
                current = versions[self._history[name][-1]]
                found.append(self._model(f"{self.base}+{name}", current))
                found += [self._model(f"{self.base}+{name}@v{version}", one) for version, one in versions.items()]
        return found

    def single_stacks(self) -> dict[str, Stack]:
        """Return the current version of each patch as a stack, by its name."""
        return {name: self.chosen(f"{self.base}+{name}").stack for name in list(self._versions)}

    def _patch(self, part: str, model: str) -> NamedPatch:
        found = _PART.fullmatch(part)
        if found is None or found["name"] not in self._versions:
            raise PatchNameError(f"There is no model {model[:200]!r}. {self._advice(model)}")
        versions = self._versions[found["name"]]
        version = found["version"] or self._history[found["name"]][-1]
        if version not in versions:
            there = ", ".join(f"v{each}" for each in versions)
            why = "" if SEMVER.fullmatch(version) else " A version is like v1.2.0."
            raise PatchNameError(f"`{found['name']}` has no version {version[:50]} here; there is {there}.{why}")
        return versions[version]

    def _check_known(self, name: str) -> None:
        if name not in self._versions:
            raise PatchNameError(f"There is no patch `{name}`. {did_you_mean(name, self._versions)}".strip())

    def _advice(self, model: str) -> str:
        names = [f"{self.base}+{name}" for name in self._versions]
        return did_you_mean(model, names, then=f"There are: {', '.join(names)}.")

    def _model(self, model: str, *patches: NamedPatch) -> dict[str, Any]:
        return {
            "id": model,
            "object": "model",
            "created": 0,
            "owned_by": "policy-patch",
            "policy_patch": [one.facts() for one in patches],
            "policy_patch_base": self.base_facts,
        }
