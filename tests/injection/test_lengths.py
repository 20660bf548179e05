"""Tests of `injection.lengths`; calls of models near their limits are those of `test_length_switch.py`."""

import pytest
import torch

from policy_patch.errors import PositionLimitError
from policy_patch.injection.lengths import check_switch_of_step, is_beyond_switch


def reaching(*lengths: int) -> torch.Tensor:
    """Return positions `(rows, longest)` of rows of these lengths, padded on the right."""
    return torch.stack([torch.arange(max(lengths)).clamp(max=length - 1) for length in lengths])


@pytest.mark.parametrize("grows", [True, False])
def test_rows_up_to_the_switch_are_not_beyond_it_and_longer_ones_are(grows):
    assert is_beyond_switch(reaching(40, 3), 4, 40, grows_beyond=grows) is False
    assert is_beyond_switch(reaching(41, 41), 4, 40, grows_beyond=grows) is True
    with pytest.raises(PositionLimitError, match="the rows reach 40 to 41"):
        is_beyond_switch(reaching(41, 40), 4, 40, grows_beyond=grows)


def test_rows_of_different_length_beyond_it_are_for_bases_that_grow_no_further():
    assert is_beyond_switch(reaching(41, 50), 4, 40, grows_beyond=False) is True
    with pytest.raises(
        PositionLimitError, match=r"rows reach 41 to 50\. Give rows of one length, or of at most 36 tok"
    ):
        is_beyond_switch(reaching(41, 50), 4, 40, grows_beyond=True)


def test_the_highest_of_several_kinds_of_positions_counts_in_each_row():
    """Of an image, places across it are lower than its place in time."""
    positions = torch.stack([reaching(41, 41), torch.zeros(2, 41, dtype=torch.long)])  # (kinds, batch, columns)
    assert is_beyond_switch(positions, 4, 40, grows_beyond=True) is True
    positions[0, 1] = 5
    with pytest.raises(PositionLimitError, match="reach 6 to 41"):
        is_beyond_switch(positions, 4, 40, grows_beyond=False)


@pytest.mark.parametrize("grows", [True, False])
def test_a_step_that_ends_at_the_switch_is_let_through_and_one_across_it_refused(grows):
    check_switch_of_step(torch.tensor([[38, 39]]), 4, 40, grows_beyond=grows)
    with pytest.raises(PositionLimitError, match=r"With the 4 vectors this step reaches 42\. Generate up to 36 tokens"):
        check_switch_of_step(torch.tensor([[40, 41]]), 4, 40, grows_beyond=grows)
    if grows:
        with pytest.raises(PositionLimitError, match="this step reaches 51"):
            check_switch_of_step(torch.tensor([[50]]), 4, 40, grows_beyond=grows)
    else:
        check_switch_of_step(torch.tensor([[50]]), 4, 40, grows_beyond=grows)
