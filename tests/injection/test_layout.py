"""Tests of `injection.layout`: every index equals that of a slow reference that moves list items one by one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from policy_patch.errors import PatchInputError
from policy_patch.injection.layout import Layout, first_real_columns
from tests.tiny_models import BOS, PAD

VECTOR = -1  # the i-th vector is written -1 - i among the ids


@st.composite
def batches(draw, uniform=False):
    """Draw (N, rows without padding, padding side); ids from 3, BOS in front of some rows, all or none if uniform."""
    number = draw(st.integers(1, 4))
    rows = draw(st.lists(st.lists(st.integers(3, 99), min_size=1, max_size=5), min_size=1, max_size=4))
    flags = [draw(st.booleans())] * len(rows) if uniform else [draw(st.booleans()) for _ in rows]
    rows = [[BOS, *row] if flag else row for row, flag in zip(rows, flags)]
    return number, rows, draw(st.sampled_from(["left", "right"])), draw(st.integers(0, 2))


def padded(batch):
    number, rows, side, extra = batch
    longest = max(len(row) for row in rows) + extra
    pads = [[PAD] * (longest - len(row)) for row in rows]
    full = [pad + row if side == "left" else row + pad for row, pad in zip(rows, pads)]
    return number, full


def tensors(batch):
    """Return ids and mask `(batch, length)`, and the layout of both."""
    number, full = padded(batch)
    ids = torch.tensor(full)
    mask = (ids != PAD).long()
    first = first_real_columns(mask, ids)
    has_bos = ids[torch.arange(len(full)), first] == BOS
    return ids, mask, Layout.of(number, first, has_bos)


def with_vectors(row: list, number: int, values: list) -> list:
    """Return one padded row with `values` behind its padding and BOS, the slow way."""
    out, done = [], False
    for item in row:
        if not done and item != PAD and item != BOS:
            out.extend(values)
            done = True
        out.append(item)
        if not done and item == BOS:
            out.extend(values)
            done = True
    return out


@given(batches())
def test_the_first_real_column_is_the_first_that_is_not_padding(batch):
    ids, mask, _ = tensors(batch)
    expected = [next(at for at, item in enumerate(row) if item != PAD) for row in ids.tolist()]
    assert first_real_columns(mask, ids).tolist() == expected
    assert first_real_columns(mask.bool(), ids).tolist() == expected
    assert first_real_columns(mask, torch.zeros(*ids.shape, 2)).tolist() == expected
    assert first_real_columns(None, ids).tolist() == [0] * len(expected)


@pytest.mark.parametrize("shape", [(2, 5), (2, 7), (1, 6), (12,)])
def test_a_mask_of_another_shape_than_the_tokens_is_refused(shape):
    with pytest.raises(PatchInputError, match=r"the tokens have \(2, 6\) .* Do not count the vectors"):
        first_real_columns(torch.ones(shape), torch.ones(2, 6))


@given(batches())
def test_vectors_go_behind_padding_and_bos(batch):
    ids, mask, layout = tensors(batch)
    number = layout.num_virtual_tokens
    names = [VECTOR - i for i in range(number)]
    expected = torch.tensor([with_vectors(row, number, names) for row in ids.tolist()])
    assert torch.equal(layout.insert(ids, torch.tensor(names)), expected)
    # the same for hidden states, and for vectors that differ by row
    deep = torch.stack([ids, 2 * ids], dim=-1)
    vectors = torch.tensor([[name, 2 * name] for name in names])
    assert torch.equal(layout.insert(deep, vectors), torch.stack([expected, 2 * expected], dim=-1))
    by_row = torch.tensor([[name - 100 * row for name in names] for row in range(len(ids))])
    got = layout.insert(ids, by_row)
    assert torch.equal(got, torch.where(expected < 0, expected - 100 * torch.arange(len(ids))[:, None], expected))
    assert torch.equal(layout.mask(mask, mask.shape[1]), (expected != PAD).long())
    assert layout.mask(None, 5) is None


@given(batches())
def test_real_tokens_and_vectors_are_counted_one_by_one_from_0(batch):
    ids, mask, layout = tensors(batch)
    positions = layout.positions(None, mask, ids)
    visible = layout.mask(mask, mask.shape[1]) == 1
    assert positions.shape == visible.shape
    for row, seen in zip(positions, visible):
        assert row[seen].tolist() == list(range(int(seen.sum())))
    assert (positions >= 0).all(), "padding has a position too, and tables begin at 0"


@given(batches(), st.integers(0, 9))
def test_positions_of_the_caller_are_kept_and_moved_by_the_vectors(batch, offset):
    ids, mask, layout = tensors(batch)
    own = (mask.cumsum(-1) - 1).clamp(min=0) + offset
    assert torch.equal(layout.positions(own, mask, ids), layout.positions(None, mask, ids) + offset)


@given(batches(uniform=True))
def test_behind_a_cached_prefix_each_row_shows_its_own_tokens_once(batch):
    ids, mask, layout = tensors(batch)
    cached = layout.cached()
    number, bos = layout.num_virtual_tokens, int(layout.all_bos)
    given_columns = ids[:, bos:]
    full_mask = cached.mask(mask, mask.shape[1])
    assert full_mask[:, : number + bos].eq(1).all()
    own = full_mask[:, number + bos :] == 1
    assert own.shape == given_columns.shape
    positions = cached.positions(None, mask, ids)
    for row, columns, shown, places in zip(batch[1], given_columns, own, positions):
        assert columns[shown].tolist() == row[bos:], "BOS is in the prefix, so its own column is cut or hidden"
        assert places[shown].tolist() == [number + at for at in range(bos, len(row))]
    assert cached.mask(None, 5) is None


@given(batches())
def test_outputs_of_concat_are_those_of_the_real_tokens_and_bos_has_the_last_vector_s(batch):
    ids, _, layout = tensors(batch)
    number = layout.num_virtual_tokens
    inserted = layout.insert(ids, torch.tensor([VECTOR - i for i in range(number)]))
    expected = ids.masked_fill(ids == BOS, VECTOR - number + 1)
    hidden = layout.real_hidden(inserted.unsqueeze(-1).float(), None)
    assert torch.equal(hidden.squeeze(-1).long(), expected)
    weights = inserted[:, None, :, None].expand(-1, 2, -1, 3)
    assert torch.equal(layout.real_attention(weights), expected[:, None, :, None].expand(-1, 2, -1, 3))


@given(batches(uniform=True))
def test_outputs_of_cached_are_those_of_the_real_tokens_and_bos_has_the_last_vector_s(batch):
    ids, mask, layout = tensors(batch)
    hidden = ids[:, int(layout.all_bos) :].unsqueeze(-1).float()
    got = layout.cached().real_hidden(hidden, torch.tensor([[[-7.0]]])).squeeze(-1).long()
    assert got.shape == ids.shape
    assert torch.equal(got[mask == 1], ids.masked_fill(ids == BOS, -7)[mask == 1])


@given(batches(uniform=True))
def test_without_padding_both_ways_have_the_same_outputs(batch):
    number, rows, _, _ = batch
    length = min(len(row) for row in rows)
    ids, _, layout = tensors((number, [row[:length] for row in rows], "left", 0))
    assert not layout.padded
    last = torch.tensor([[[float(VECTOR - number + 1)]]])
    inserted = layout.insert(ids, torch.tensor([VECTOR - i for i in range(number)]))
    by_cache = layout.cached().real_hidden(ids[:, int(layout.all_bos) :].unsqueeze(-1).float(), last)
    assert torch.equal(layout.real_hidden(inserted.unsqueeze(-1).float(), None), by_cache)


@given(batches(uniform=True), st.sampled_from(["cached", "concat"]))
def test_a_later_step_sees_what_the_first_one_saw_and_one_token_more(batch, way):
    number, rows, _, extra = batch
    _, mask, layout = tensors((number, rows, "left", extra))
    layout = layout.cached() if way == "cached" else layout
    step = layout.step()
    longer = torch.cat([mask, torch.ones(len(rows), 1, dtype=torch.long)], dim=1)
    assert torch.equal(
        step.mask(longer, longer.shape[1]), torch.cat([layout.mask(mask, mask.shape[1]), longer[:, -1:]], dim=1)
    )
    assert step.step_positions(None, longer, 1, mask.shape[1]).squeeze(1).tolist() == [
        number + len(row) for row in rows
    ]
    assert step.step_positions(torch.tensor([[5]]), longer, 1, 0).tolist() == [[number + 5]]
    assert step.step_positions(None, None, 1, 3) is None
    hidden, weights = torch.randn(len(rows), 1, 2), torch.randn(len(rows), 2, 1, 9)
    assert step.real_hidden(hidden, None) is hidden
    assert step.real_attention(weights) is weights


@given(batches())
def test_the_questions_about_all_rows_are_answered_right(batch):
    _, rows, side, _ = batch
    ids, _, layout = tensors(batch)
    bos = [row[0] == BOS for row in rows]
    assert layout.padded == (side == "left" and any(len(row) < ids.shape[1] for row in rows))
    assert (layout.all_bos, layout.uniform_bos) == (all(bos), len(set(bos)) == 1)
    assert layout.way == "concat" and layout.cached().way == "cached" and layout.step().is_step
