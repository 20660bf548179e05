"""Tests of `evaluation.verdicts`: equal to one text at a time without padding, in every family."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from policy_patch.evaluation.verdicts import _log_probabilities, _spellings, verdict_probabilities
from tests.tiny_models import VOCAB_SIZE, tiny_model, tiny_tokenizer

WORDS = ("unsafe", "safe")
OPENINGS = ("", " ", "\n", "\n\n")
LENGTHS = (1, 30, 7, 13, 22, 7)


def rows_of(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(3, VOCAB_SIZE, length).tolist() for length in lengths]


def slow(model, rows):
    """Return `(rows, openings, 2)` log probabilities, one row and word at a time, without padding and without cache."""
    found = np.zeros((len(rows), len(OPENINGS), 2))
    for number, row in enumerate(rows):
        for opening, text in enumerate(OPENINGS):
            for column, word in enumerate(WORDS):
                ids = tiny_tokenizer()(text + word, add_special_tokens=False)["input_ids"]
                with torch.no_grad():
                    logits = model(torch.tensor([row + ids]), use_cache=False).logits[0, len(row) - 1 : -1]
                found[number, opening, column] = logits.log_softmax(-1)[range(len(ids)), ids].sum().item()
    return found


@pytest.mark.parametrize("batch_size", [1, 4, 8])
def test_it_is_the_likeliest_openings_share_in_every_family(family, batch_size):
    model, rows = tiny_model(family), rows_of(LENGTHS)
    expected = slow(model, rows)
    either = np.logaddexp(expected[..., 0], expected[..., 1])
    best = either.argmax(-1)
    with torch.no_grad():
        assert _log_probabilities(model, rows, _spellings(tiny_tokenizer(), WORDS)) == pytest.approx(expected, abs=1e-3)
    share = np.exp(expected[range(len(rows)), best, 0] - either.max(-1))
    values, mass = verdict_probabilities(model, tiny_tokenizer(), rows, WORDS, batch_size=batch_size)
    assert values == pytest.approx(share, abs=1e-4)
    assert np.log(mass) == pytest.approx(np.log(np.exp(either).sum(-1)), abs=1e-3)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.integers(1, 5), st.randoms())
def test_values_are_probabilities_whatever_the_batches_and_order(lengths, batch_size, random):
    model, rows = tiny_model(), rows_of(lengths)
    values, mass = verdict_probabilities(model, tiny_tokenizer(), rows, WORDS, batch_size=1)
    assert ((values >= 0) & (values <= 1) & (mass >= 0) & (mass <= 1)).all()
    order = random.sample(range(len(rows)), len(rows))
    shuffled, _ = verdict_probabilities(
        model, tiny_tokenizer(), [rows[index] for index in order], WORDS, batch_size=batch_size
    )
    assert shuffled == pytest.approx(values[order], abs=1e-4)


def test_no_rows_give_no_values():
    values, mass = verdict_probabilities(tiny_model(), tiny_tokenizer(), [], WORDS, batch_size=4)
    assert values.shape == mass.shape == (0,)


def test_swapped_words_give_the_rest():
    rows = rows_of(LENGTHS)
    one, _ = verdict_probabilities(tiny_model(), tiny_tokenizer(), rows, WORDS, batch_size=4)
    other, _ = verdict_probabilities(tiny_model(), tiny_tokenizer(), rows, WORDS[::-1], batch_size=4)
    assert one + other == pytest.approx(np.ones(len(rows)), abs=1e-6)


def test_words_are_found_with_and_without_the_mark_of_a_beginning():
    # As the tokenizer of Llama 2 does, which HarmBench's classifier has: alone, a word is encoded with the mark.
    pieces = ["<unk>", "▁", ":", "Y", "e", "s", "N", "o", "Ye", "Yes", "▁Yes", "No", "▁No", "▁:"]
    merges = [("Y", "e"), ("Ye", "s"), ("▁", "Yes"), ("N", "o"), ("▁", "No"), ("▁", ":")]
    inner = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, merges, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    found = _spellings(tokenizer, ("Yes", "No"))
    assert ([pieces.index("▁Yes")], [pieces.index("▁No")]) in found
    assert ([pieces.index("Yes")], [pieces.index("No")]) in found


def test_each_spelling_counts_once():
    found = _spellings(tiny_tokenizer(), WORDS)
    assert found == [
        tuple(tiny_tokenizer()(opening + word, add_special_tokens=False)["input_ids"] for word in WORDS)
        for opening in OPENINGS
    ]
