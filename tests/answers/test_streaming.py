"""Tests of `answers.streaming`: what is streamed is what a measurement samples, row by row."""

import threading
import time
from itertools import pairwise

import pytest

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from policy_patch.data import sample_completions, stream_answers
from policy_patch.errors import DataError, PatchNameError
from tests.tiny_models import tiny_model

PROMPT = "The weather in the north is"
ROWS = ["__base__", "one", ("one", "two")]


@pytest.fixture(scope="module")
def model():
    """A base with two patches of different lengths."""
    model = get_policy_patch_model(
        tiny_model("llama"), PolicyPatchConfig(num_virtual_tokens=4, init="random"), patch_name="one"
    )
    model.add_patch("two", PolicyPatchConfig(num_virtual_tokens=7, init="random", init_seed=1))
    return model.eval()


def test_each_row_ends_as_it_would_be_sampled_alone(model, tokenizer):
    settings = {"max_new_tokens": 12, "temperature": 1.3, "top_p": 0.8, "seed": 5}
    seen = list(stream_answers(model, tokenizer, PROMPT, ROWS, **settings))
    alone = {"num_samples": 1, **settings}
    expected = [sample_completions(model.get_base_model(), tokenizer, [PROMPT], **alone)[0][0]]
    for names in (["one"], ["one", "two"]):
        model.set_patch(names)
        expected += sample_completions(model, tokenizer, [PROMPT], **alone)[0]
    assert [answer.text for answer in seen[-1]] == expected
    assert len(set(expected)) == 3


def test_texts_grow_token_by_token_and_every_list_has_all_rows(model, tokenizer):
    seen = list(stream_answers(model, tokenizer, PROMPT, ROWS, max_new_tokens=6))
    assert [max(answer.num_tokens for answer in rows) for rows in seen] == [1, 2, 3, 4, 5, 6, 6]
    for row in zip(*seen, strict=True):
        assert all(later.text.startswith(earlier.text) for earlier, later in pairwise(row))
        assert row[-1].finished and 0 < row[-1].first_token_seconds <= row[-1].seconds


def test_a_row_that_ended_its_text_writes_no_more_while_others_do(model, tokenizer):
    for seed in range(40):  # one in which a row ends its text before another one
        seen = list(stream_answers(model, tokenizer, PROMPT, ROWS, max_new_tokens=40, seed=seed, temperature=2.0))
        lengths = [answer.num_tokens for answer in seen[-1]]
        if min(lengths) < max(lengths):
            break
    short = lengths.index(min(lengths))
    after = [rows[short] for rows in seen if rows[short].finished]
    assert len(after) == len(seen) - min(lengths)
    assert {(answer.text, answer.seconds) for answer in after} == {(seen[-1][short].text, after[0].seconds)}


def test_closing_the_iterator_stops_the_thread(model, tokenizer):
    before = threading.active_count()
    stream = stream_answers(model, tokenizer, PROMPT, ["__base__"], max_new_tokens=110, temperature=0.1)
    next(stream)
    stream.close()
    for _ in range(200):
        if threading.active_count() == before:
            break
        time.sleep(0.01)
    assert threading.active_count() == before


def test_what_cannot_be_streamed_is_refused_before_anything_runs(model, tokenizer):
    with pytest.raises(DataError, match="expected at least 1"):
        stream_answers(model, tokenizer, PROMPT, ROWS, max_new_tokens=0)
    with pytest.raises(DataError, match=r"has \d+ tokens; at most 3 are allowed"):
        stream_answers(model, tokenizer, PROMPT, ROWS, max_prompt_tokens=3)
    with pytest.raises(PatchNameError, match="No patch named `three` is loaded"):
        list(stream_answers(model, tokenizer, PROMPT, ["three"]))
