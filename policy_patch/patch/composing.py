"""Composes several patches into one: their vectors one after the other, and a configuration that names the parts.

`policy_patch.injection` puts stacks in front of a base without composing them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from policy_patch.config import PolicyPatchConfig
from policy_patch.errors import ConfigError
from policy_patch.patch.folder import patch_hash


def composed(
    patches: Sequence[tuple[str, PolicyPatchConfig, torch.Tensor]],
) -> tuple[PolicyPatchConfig, torch.Tensor]:
    """Return configuration and vectors of one patch that equals the stack of the given patches (arXiv 2511.08484).

    Args:
        patches (`Sequence[tuple[str, PolicyPatchConfig, torch.Tensor]]`):
            Name, configuration and vectors `(num_virtual_tokens, hidden_size)` of each patch, in order.

    Returns:
        `tuple[PolicyPatchConfig, torch.Tensor]`: the vectors are `(sum of num_virtual_tokens, hidden_size)`.

    Raises:
        ConfigError: the patches differ in their placement or BOS token.
    """
    configs = [config for _, config, _ in patches]
    check_same_place({name: config for name, config, _ in patches})
    vectors = torch.cat([own for *_, own in patches])
    parts = [
        {
            "name": name,
            "risk": config.risk,
            "patch_version": config.patch_version,
            "num_virtual_tokens": own.shape[0],
            "sha256": patch_hash(config, own),
        }
        for name, config, own in patches
    ]
    risks = dict.fromkeys(config.risk for config in configs if config.risk)
    config = replace(
        configs[0],
        num_virtual_tokens=vectors.shape[0],
        risk="+".join(risks) or None,
        patch_version="0.1.0",
        base_fingerprint=next((config.base_fingerprint for config in configs if config.base_fingerprint), None),
        composed_from=parts,
        filtered_by=sorted({name for config in configs for name in config.filtered_by or ()}) or None,
        sha256=None,
    )
    return config, vectors


def check_same_place(configs: Mapping[str, PolicyPatchConfig]) -> None:
    """Raise `ConfigError` if patches, given by name, differ in placement or BOS token and so cannot be stacked."""
    for field in ("placement", "bos_token_id"):
        values = {name: getattr(config, field) for name, config in configs.items()}
        if len(set(values.values())) > 1:
            raise ConfigError(f"A stack needs one `{field}`; these patches differ: {values}.")
