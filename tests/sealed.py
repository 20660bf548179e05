"""A patch whose two files agree although somebody rewrote its configuration: what only a signature could tell."""

import hashlib
import json
from typing import Any

from safetensors.torch import load

from policy_patch.config import CONFIG_NAME, config_hash
from policy_patch.patch.folder import TENSORS_NAME
from policy_patch.patch.tensor_file import TENSOR_KEY
from policy_patch.patch.vectors import vectors_to_bytes


def sealed(values: dict[str, Any], tensors: bytes) -> dict[str, bytes]:
    """Return the two files, by name, of a patch with this configuration and the vectors of that tensor file."""
    content = vectors_to_bytes(load(tensors)[TENSOR_KEY], config_hash(values))
    values = {**values, "sha256": hashlib.sha256(content).hexdigest()}
    return {TENSORS_NAME: content, CONFIG_NAME: json.dumps(values).encode()}
