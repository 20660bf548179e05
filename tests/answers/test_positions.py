"""Tests of `answers.positions`: how much text fits is what the model itself can take, family by family."""

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BartConfig,
    BertConfig,
    BioGptConfig,
    CamembertConfig,
    DebertaV2Config,
    LongformerConfig,
    MPNetConfig,
    OPTConfig,
    RobertaConfig,
    T5Config,
    T5Model,
    XLMRobertaConfig,
)

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from policy_patch.answers.positions import configured_limit, forward_errors, learned_limit, num_vectors, room_for_text
from policy_patch.answers.sampling import sample_completions
from policy_patch.errors import DataError, EvaluationError
from tests.tiny_models import VOCAB_SIZE, tiny_model, tiny_tokenizer

SHAPE = {
    "vocab_size": VOCAB_SIZE, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 16, "max_position_embeddings": 34,
}  # fmt: skip
SEQ2SEQ = {
    "vocab_size": VOCAB_SIZE, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 34,
}  # fmt: skip
WORD = 40  # a token that is neither padding nor special


def rows(length):
    ids = torch.full((1, length), WORD)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def takes(model, length):
    """Return whether a text of so many tokens gets through."""
    try:
        with torch.no_grad():
            model(**rows(length))
    except (IndexError, RuntimeError):
        return False
    return True


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (RobertaConfig(**SHAPE, pad_token_id=1), 32),
        (RobertaConfig(**SHAPE, pad_token_id=5), 28),
        (XLMRobertaConfig(**SHAPE, pad_token_id=1), 32),
        (CamembertConfig(**SHAPE, pad_token_id=1), 32),
        (MPNetConfig(**SHAPE, pad_token_id=1), 32),
        (LongformerConfig(**SHAPE, pad_token_id=1, attention_window=[8]), 32),
        (BertConfig(**SHAPE), 34),
        (DebertaV2Config(**SHAPE), 34),
    ],
)
def test_tables_of_positions_hold_what_a_classifier_takes(config, limit):
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    assert learned_limit(model, rows) == limit
    assert takes(model, limit) and not takes(model, limit + 1)


def test_distances_between_tokens_are_no_positions():
    config = T5Config(vocab_size=VOCAB_SIZE, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    assert learned_limit(T5Decoding(config), rows) is None
    relative = DebertaV2Config(
        **SHAPE, relative_attention=True, pos_att_type=["p2c", "c2p"], position_biased_input=False
    )
    model = AutoModelForSequenceClassification.from_config(relative).eval()
    assert learned_limit(model, rows) is None and configured_limit(model) == 34
    assert takes(model, 50), "the configuration's limit is kept, though more would get through"


class T5Decoding(nn.Module):
    """Encoder and decoder of T5, whose distances to one side grow by one with each token of a short text."""

    def __init__(self, config):
        super().__init__()
        self.model = T5Model(config).eval()

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids=input_ids, attention_mask=attention_mask, decoder_input_ids=input_ids)


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (RobertaConfig(**SHAPE, pad_token_id=1, is_decoder=True), 32),
        (OPTConfig(**{**SHAPE, "word_embed_proj_dim": 16, "ffn_dim": 16}), 34),
        (BartConfig(**SEQ2SEQ), 34),
        (BioGptConfig(**SHAPE), 34),
    ],
)
def test_room_is_what_a_causal_model_takes(config, limit):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    assert room_for_text(model, tiny_tokenizer()) == limit
    assert takes(model, limit) and not takes(model, limit + 1)


@pytest.mark.parametrize(("family", "limit"), [("gpt2", 64), ("llama", 256)])
def test_patches_take_room(family, limit):
    model = get_policy_patch_model(tiny_model(family), PolicyPatchConfig(num_virtual_tokens=4, init="vocab"))
    assert (num_vectors(model), room_for_text(model, tiny_tokenizer())) == (4, limit - 4)
    assert (num_vectors(model.get_base_model()), room_for_text(model.get_base_model(), tiny_tokenizer())) == (0, limit)


def test_no_limit_is_none():
    model = tiny_model("llama")
    model.config.max_position_embeddings = -1
    assert configured_limit(model) is None and room_for_text(model, tiny_tokenizer()) is None


def test_a_model_and_the_random_state_are_left_as_they_were():
    model = tiny_model("gpt2").train()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    assert room_for_text(model, tiny_tokenizer()) == 64
    assert model.training and torch.equal(torch.rand(1), expected)


def test_a_table_that_was_resized_is_looked_at_again():
    model = AutoModelForSequenceClassification.from_config(BertConfig(**SHAPE)).eval()
    assert learned_limit(model, rows) == 34
    table = model.bert.embeddings.position_embeddings
    model.bert.embeddings.position_embeddings = nn.Embedding.from_pretrained(table.weight[:20])
    assert learned_limit(model, rows) == 20


def test_prompts_are_cut_to_what_a_model_with_an_offset_takes():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        RobertaConfig(**SHAPE, pad_token_id=0, bos_token_id=1, eos_token_id=2, is_decoder=True)
    ).eval()
    (texts,) = sample_completions(model, tiny_tokenizer(), ["long " * 20], num_samples=2, max_new_tokens=4)
    assert len(texts) == 2
    with pytest.raises(DataError, match="leave no room for a prompt: the model has 33 positions"):
        sample_completions(model, tiny_tokenizer(), ["a"], num_samples=1, max_new_tokens=33)


def test_a_forward_pass_that_fails_is_told_and_our_errors_pass():
    with (
        pytest.raises(
            EvaluationError, match=r"^`m` fails on a text of 9 tokens: index out of range.*`model_max_length`"
        ),
        forward_errors("m", 9, EvaluationError),
    ):
        nn.Embedding(2, 2)(torch.tensor([2]))
    with pytest.raises(DataError, match=r"^mine$"), forward_errors("m", 9, EvaluationError):
        raise DataError("mine")
