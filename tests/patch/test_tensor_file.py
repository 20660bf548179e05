"""Tests of `patch.tensor_file`: the same bytes as for tensors, and back; what it refuses is in `test_vectors.py`."""

import dataclasses

import numpy as np
import pytest
import torch

from policy_patch import PolicyPatchConfig
from policy_patch.errors import PatchFileError
from policy_patch.patch.tensor_file import array_from_bytes, array_to_bytes, config_hash_in
from policy_patch.patch.vectors import vectors_to_bytes

CONFIG = PolicyPatchConfig(num_virtual_tokens=3, init="random", hidden_size=4)
VECTORS = np.arange(12, dtype=np.float32).reshape(3, 4) / 7
HASH = "0" * 64


def test_arrays_and_tensors_are_the_same_bytes_which_read_back():
    content = array_to_bytes(VECTORS, HASH)
    assert content == vectors_to_bytes(torch.from_numpy(VECTORS), HASH) != array_to_bytes(VECTORS + 1, HASH)
    read = array_from_bytes(content, CONFIG, "it")
    assert read.dtype == np.float32 and np.array_equal(read, VECTORS) and config_hash_in(content, "it") == HASH
    read[0] = 1  # a copy, which may be changed
    assert np.array_equal(array_from_bytes(content, CONFIG, "it"), VECTORS)


def test_another_shape_and_values_that_are_not_finite_are_refused():
    with pytest.raises(PatchFileError, match=r"shape \(3, 4\) and dtype F32; its configuration says \(2, 4\)"):
        array_from_bytes(array_to_bytes(VECTORS, HASH), dataclasses.replace(CONFIG, num_virtual_tokens=2), "it")
    with pytest.raises(PatchFileError, match="the vectors hold 1 NaN or infinite values of 12"):
        array_to_bytes(np.where(VECTORS == 0, np.nan, VECTORS), HASH)
