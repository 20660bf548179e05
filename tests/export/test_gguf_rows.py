"""Tests of `gguf_rows`: rows are replaced and added in the type of the table, or the table becomes F16."""

import gguf
import numpy as np
import pytest

from policy_patch.errors import ExportError
from policy_patch.export.gguf_file import Tensor, quantisation
from policy_patch.export.gguf_proof import tolerance
from policy_patch.export.gguf_rows import mean_row, numbers, stored_rows, with_rows, writable

WRITTEN = ("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")
K_QUANTS = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
RANDOM = np.random.default_rng(0)


def table(kind: str, rows: int = 40, length: int = 256) -> Tensor:
    """Return a random table; of a type that cannot be written, random blocks of it with small scales."""
    if writable(kind):
        stored = stored_rows(RANDOM.normal(size=(rows, length)).astype(np.float32), kind)
    else:
        block, size = gguf.GGML_QUANT_SIZES[quantisation(kind)]
        stored = RANDOM.integers(0, 60, size=(rows, length // block * size), dtype=np.uint8)  # small fp16 scales
    return Tensor("token_embd.weight", (rows, length), kind, lambda: stored)


@pytest.mark.parametrize("kind", WRITTEN)
def test_rows_are_added_in_the_type_of_the_table_and_the_others_keep_their_bytes(kind):
    before, rows = table(kind), RANDOM.normal(size=(3, 256)).astype(np.float32)
    after = with_rows(before, [40, 41, 42], rows)
    assert (after.shape, after.type) == ((43, 256), kind)
    assert after.load()[:40].tobytes() == before.load().tobytes()
    error = np.linalg.norm(numbers(after, 40) - rows) / np.linalg.norm(rows)
    assert error <= tolerance(kind)
    assert np.linalg.norm(numbers(after, 40)[::-1] - rows) / np.linalg.norm(rows) > 1  # the tolerance is not all


def test_rows_are_replaced():
    before, rows = table("Q8_0"), np.full((2, 256), 5.0, dtype=np.float32)
    after = with_rows(before, [7, 3], rows)
    assert after.shape == before.shape
    assert np.allclose(numbers(after)[[3, 7]], 5, atol=0.05)
    others = [index for index in range(40) if index not in (3, 7)]
    assert np.array_equal(after.load()[others], before.load()[others])


@pytest.mark.parametrize("kind", K_QUANTS)
def test_a_table_of_k_quants_becomes_f16_as_a_whole(kind):
    before, rows = table(kind), RANDOM.normal(size=(2, 256)).astype(np.float32)
    assert not writable(kind)
    after = with_rows(before, [40, 41], rows)
    assert (after.type, after.shape) == ("F16", (42, 256))
    assert np.allclose(numbers(after, 0, 40), numbers(before), rtol=1e-3, atol=1e-6)
    assert np.allclose(numbers(after, 40), rows, rtol=1e-3, atol=1e-6)
    assert not np.allclose(numbers(before, 0, 20), numbers(before, 20, 40), rtol=1e-3, atol=1e-6)


def test_the_mean_is_that_of_all_rows():
    before = table("F32", rows=9000)  # more than are turned into numbers at a time
    assert np.allclose(mean_row(before), numbers(before).mean(axis=0), atol=1e-6)


def test_numbers_that_a_type_cannot_hold_are_refused():
    for kind, value in (("F16", 1e5), ("F32", np.inf), ("Q8_0", np.nan)):
        with pytest.raises(ExportError, match=f"cannot be stored as {kind}"):
            stored_rows(np.full((1, 256), value, dtype=np.float32), kind)
    with pytest.raises(ExportError, match="cannot write Q4_K"):
        stored_rows(np.ones((1, 256), dtype=np.float32), "Q4_K")


def test_a_type_that_cannot_be_read_is_refused():
    unknown = Tensor("token_embd.weight", (1, 32), "I8", lambda: np.zeros((1, 32), dtype=np.int8))
    with pytest.raises(ExportError, match="stored as I8, which the package gguf cannot read"):
        numbers(unknown)
