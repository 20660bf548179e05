"""Tests of `injection.stacks`: which row is behind which vectors, also where decoding has repeated the rows."""

import pytest
import torch

from policy_patch.errors import PatchInputError
from policy_patch.injection.stacks import BatchStacks, Stack, pad_front

LONG = Stack(("a", "b"), torch.full((3, 2), 1.0), "after_bos", loads=(0, 1))
SHORT = Stack(("c",), torch.full((1, 2), 2.0), "after_bos", loads=(2,))
NONE = Stack((), torch.zeros(0, 2), "after_bos")
CPU = torch.device("cpu")


def test_one_stack_is_in_front_of_all_rows():
    one = BatchStacks((LONG,))
    assert one.of_rows(5, CPU) is None and one.missing(None) is None
    assert one.origin == ((0, 1),) and one.longest == 3
    assert torch.equal(one.padded_vectors(None, torch.zeros(1)), LONG.vectors)


def test_each_row_has_its_own_stack_and_copies_of_a_row_stand_together():
    mixed = BatchStacks((LONG, SHORT, NONE), (1, 0, 2))
    assert mixed.origin == ((2,), (0, 1), ())
    assert mixed.of_rows(3, CPU).tolist() == [1, 0, 2]
    rows = mixed.of_rows(6, CPU)
    assert rows.tolist() == [1, 1, 0, 0, 2, 2]
    assert mixed.missing(rows).tolist() == [2, 2, 0, 0, 3, 3]
    vectors = mixed.padded_vectors(mixed.of_rows(3, CPU), torch.zeros(1, dtype=torch.float16))
    assert vectors.dtype == torch.float16
    assert vectors[:, :, 0].tolist() == [[0, 0, 2], [1, 1, 1], [0, 0, 0]]


def test_stacks_of_one_length_miss_nothing():
    other = Stack(("d",), torch.zeros(3, 2), "after_bos")
    mixed = BatchStacks((LONG, other), (1, 0))
    assert mixed.missing(mixed.of_rows(2, CPU)) is None


@pytest.mark.parametrize("batch", [0, 4, 5])
def test_a_batch_that_is_no_multiple_of_the_rows_is_refused(batch):
    with pytest.raises(PatchInputError, match=f"{batch} rows cannot be matched with the patches of 3 rows"):
        BatchStacks((LONG, SHORT, NONE), (1, 0, 2)).of_rows(batch, CPU)


def test_zeros_are_put_in_front():
    values = torch.arange(1.0, 5).reshape(2, 2)
    assert torch.equal(pad_front(values, 3, dim=0), torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]]))
    assert pad_front(values, 2, dim=1) is values
