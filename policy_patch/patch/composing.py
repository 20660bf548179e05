"""Composes several patches into one: their vectors one after the other, and a configuration that names the parts.

The rules of a composed patch are those of all its parts. `stack_check.py` checks stacks and composed patches by them.

`policy_patch.injection` puts stacks in front of a base without composing them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from policy_patch.config import PolicyPatchConfig
from policy_patch.patch.folder import patch_hash
from policy_patch.patch.stack_check import OnConflict, check_same_place, check_stack, member
from policy_patch.stack_rules import ORDERS, OWN

Origin = tuple[str | None, str | None]  # repository and commit


def composed(
    patches: Sequence[tuple[str, PolicyPatchConfig, torch.Tensor]],
    *,
    origins: Mapping[str, Origin] | None = None,
    on_conflict: OnConflict = "warn",
) -> tuple[PolicyPatchConfig, torch.Tensor]:
    """Return configuration and vectors of one patch that equals the stack of the given patches (arXiv 2511.08484).

    Args:
        patches (`Sequence[tuple[str, PolicyPatchConfig, torch.Tensor]]`):
            Name, configuration and vectors `(num_virtual_tokens, hidden_size)` of each patch, in order.
        origins (`Mapping[str, tuple[str, str]]`, *optional*):
            Name -> repository and commit, of those that come from the Hub.
        on_conflict (`"warn"`, `"refuse"` or `"ignore"`, *optional*, defaults to `"warn"`):
            What follows if the stack breaks a rule of its patches.

    Returns:
        `tuple[PolicyPatchConfig, torch.Tensor]`: the vectors are `(sum of num_virtual_tokens, hidden_size)`.

    Raises:
        ConfigError: the patches differ in their placement or BOS token.
        PatchConflictError: a rule is broken, and `on_conflict` is `"refuse"`.
    """
    configs, origins = [config for _, config, _ in patches], origins or {}
    check_same_place({name: config for name, config, _ in patches})
    check_stack(
        [member(name, config, origins.get(name, (None, None))) for name, config, _ in patches], on_conflict=on_conflict
    )
    vectors = torch.cat([own for *_, own in patches])
    parts = [_part(name, config, own, origins.get(name, (None, None))) for name, config, own in patches]
    risks = dict.fromkeys(config.risk for config in configs if config.risk)
    config = replace(
        configs[0],
        num_virtual_tokens=vectors.shape[0],
        risk="+".join(risks) or None,
        patch_version="0.1.0",
        base_fingerprint=next((config.base_fingerprint for config in configs if config.base_fingerprint), None),
        composed_from=parts,
        filtered_by=sorted({name for config in configs for name in config.filtered_by or ()}) or None,
        conflicts=list(dict.fromkeys(text for config in configs for text in config.conflicts or ())) or None,
        order=_joined_order(configs),
        interference=_joined_measurements(configs, parts),
        rebased_from=None,
        sha256=None,
    )
    return config, vectors


def _part(name: str, config: PolicyPatchConfig, vectors: torch.Tensor, origin: Origin) -> dict[str, Any]:
    """Return the entry of a part in `composed_from`. Keys after `sha256` are left out where there is nothing to say."""
    entry = {
        "name": name,
        "risk": config.risk,
        "patch_version": config.patch_version,
        "num_virtual_tokens": vectors.shape[0],
        "sha256": patch_hash(config, vectors),
    }
    more = {
        "id": origin[0],
        "commit": origin[1],
        "conflicts": config.conflicts,
        "order": config.order,
        "composed_from": config.composed_from,
    }
    return entry | {key: value for key, value in more.items() if value}


def _joined_order(configs: Sequence[PolicyPatchConfig]) -> dict[str, list[str]] | None:
    joined = {
        side: list(dict.fromkeys(text for config in configs for text in (config.order or {}).get(side, ())))
        for side in ORDERS
    }
    return {side: texts for side, texts in joined.items() if texts} or None


def _joined_measurements(
    configs: Sequence[PolicyPatchConfig], parts: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]] | None:
    """Return the measurements of all parts; a part is then named by its hash instead of `self`."""
    found = []
    for config, part in zip(configs, parts, strict=True):
        for entry in config.interference or ():
            stack = [{**one, "sha256": part["sha256"]} if one["sha256"] == OWN else one for one in entry["stack"]]
            if {**entry, "stack": stack} not in found:
                found.append({**entry, "stack": stack})
    return found or None
