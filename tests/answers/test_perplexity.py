"""Tests of `answers.perplexity`: equal to the formula, one text at a time, whatever the batch."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from policy_patch.answers.perplexity import conditional_nll
from policy_patch.errors import EvaluationError
from tests.tiny_models import BOS, tiny_model, tiny_tokenizer

PROMPTS = ["You are", "The weather in the north", "", "She said"]
TEXTS = [" so kind", " is cold and it rains.", "Hello", "!"]


def nll_of(model, ids):
    """Return the negative log-likelihood of all ids but the first, in nats, the slow way."""
    with torch.no_grad():
        log_probabilities = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return -sum(log_probabilities[at - 1, ids[at]].item() for at in range(1, len(ids)))


def test_it_equals_the_difference_of_two_likelihoods(family, tokenizer):
    model = tiny_model(family)
    nll, tokens = conditional_nll(model, tokenizer, PROMPTS, TEXTS)
    for row, (prompt, text) in enumerate(zip(PROMPTS, TEXTS)):
        whole, alone = tokenizer(prompt + text)["input_ids"], tokenizer(prompt)["input_ids"]
        assert nll[row] == pytest.approx(nll_of(model, whole) - nll_of(model, alone), rel=1e-4)
        assert tokens[row] == len(whole) - len(alone) == len(text)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_batch_size_and_order_have_no_part_in_it(tokenizer, batch_size):
    model = tiny_model()
    expected, counts = conditional_nll(model, tokenizer, PROMPTS, TEXTS)
    nll, tokens = conditional_nll(model, tokenizer, PROMPTS[::-1], TEXTS[::-1], batch_size=batch_size)
    assert nll[::-1] == pytest.approx(expected, rel=1e-5)
    assert tokens[::-1].tolist() == counts.tolist()


def test_an_empty_completion_counts_nothing(tokenizer):
    nll, tokens = conditional_nll(tiny_model(), tokenizer, PROMPTS[:2], ["", TEXTS[1]])
    assert (nll[0], tokens[0]) == (0.0, 0)
    assert nll[1] > 0
    nll, tokens = conditional_nll(tiny_model(), tokenizer, ["You"], [""])
    assert (nll.tolist(), tokens.tolist()) == ([0.0], [0])


def test_a_token_across_the_boundary_belongs_to_the_completion():
    vocabulary = {"<s>": 0, "a": 1, "b": 2, "c": 3, "bc": 4}
    merging = Tokenizer(models.BPE(vocab=vocabulary, merges=[("b", "c")]))
    merging.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=merging, bos_token="<s>")
    model = tiny_model()
    nll, tokens = conditional_nll(model, tokenizer, ["ab"], ["ca"])  # a b | c a is read as a bc a
    assert tokens.tolist() == [2]
    assert nll[0] == pytest.approx(nll_of(model, [1, 4, 1]) - nll_of(model, [1]), rel=1e-4)


def test_a_tokenizer_that_ends_texts_changes_nothing(tokenizer):
    from tokenizers import processors

    ending = tiny_tokenizer()
    ending.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", BOS), ("</s>", 2)]
    )
    assert ending("a")["input_ids"][-1] == 2
    expected = conditional_nll(tiny_model(), tokenizer, PROMPTS, TEXTS)
    assert np.array_equal(conditional_nll(tiny_model(), ending, PROMPTS, TEXTS), expected)


def test_a_family_that_cannot_leave_logits_out_gives_the_same(tokenizer):
    model = tiny_model()
    expected = conditional_nll(model, tokenizer, PROMPTS, TEXTS)

    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.config, self.device = model, model.config, model.device

        def forward(self, input_ids, attention_mask, use_cache):
            return self.inner(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)

    nll, tokens = conditional_nll(Plain(), tokenizer, PROMPTS, TEXTS)
    assert nll == pytest.approx(expected[0], rel=1e-5)
    assert tokens.tolist() == expected[1].tolist()


def test_a_prompt_beyond_the_context_loses_its_beginning(tokenizer):
    model = tiny_model("gpt2")  # 64 positions
    nll, tokens = conditional_nll(model, tokenizer, ["x" * 100 + "You are"], [" kind"])
    ids = tokenizer("x" * 100 + "You are kind")["input_ids"][-64:]
    assert tokens.tolist() == [5]
    assert nll[0] == pytest.approx(nll_of(model, ids) - nll_of(model, ids[:-5]), rel=1e-4)
    with pytest.raises(EvaluationError, match=r"A text has 70 tokens, but the context of .* has 64 positions"):
        conditional_nll(model, tokenizer, ["x"], ["y" * 70])


def test_the_perplexity_model_is_left_as_it_was_and_progress_is_told(tokenizer):
    model, told = tiny_model().train(), []
    conditional_nll(
        model, tokenizer, PROMPTS, TEXTS, batch_size=3, on_progress=lambda done, total: told.append((done, total))
    )
    assert model.training
    assert told == [(3, 4), (4, 4)]


def test_a_model_without_a_perplexity_is_refused(tokenizer):
    with pytest.raises(EvaluationError, match="2 prompts and 1 completions"):
        conditional_nll(tiny_model(), tokenizer, ["a", "b"], ["c"])
    broken = tiny_model()
    with torch.no_grad():
        broken.lm_head.weight[5] = torch.nan
    with pytest.raises(EvaluationError, match="logits are not numbers"):
        conditional_nll(broken, tokenizer, ["a"], ["c"])
    bare = tiny_tokenizer()
    bare.backend_tokenizer.post_processor = None
    bare.bos_token = bare.eos_token = None
    with pytest.raises(EvaluationError, match="A prompt is empty, and the tokenizer has neither a BOS nor an EOS"):
        conditional_nll(tiny_model(), bare, [""], ["c"])
