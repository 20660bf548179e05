"""Tests of `base.supported`: a base that cannot carry a patch exactly is refused, and the reason is named."""

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    OPTConfig,
    OPTForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from policy_patch import PolicyPatchModel
from policy_patch.base.supported import check_length, embedding_size
from policy_patch.errors import PositionLimitError, UnsupportedModelError
from tests.tiny_models import tiny_model


def tiny_t5() -> T5ForConditionalGeneration:
    return T5ForConditionalGeneration(T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2))


def tiny_bart() -> BartForConditionalGeneration:
    sizes = {f"{part}_{name}": 1 for part in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    return BartForConditionalGeneration(BartConfig(vocab_size=50, d_model=16, max_position_embeddings=16, **sizes))


@pytest.mark.parametrize("make", [tiny_t5, tiny_bart])
def test_an_encoder_decoder_model_is_refused(make):
    with pytest.raises(UnsupportedModelError, match=r"is an encoder-decoder model \(.*ForConditionalGeneration\)"):
        PolicyPatchModel(make())


def test_a_model_that_writes_no_text_is_refused():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    for base in (tiny_model().model, BertForMaskedLM(BertConfig(vocab_size=50, **sizes))):
        with pytest.raises(UnsupportedModelError, match="without a language-modelling head over a backbone"):
            PolicyPatchModel(base)


# PEFT 0.21 asks transformers for a name that version 6 removes.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_module_a_peft_model_and_a_name_are_refused():
    from peft import LoraConfig, get_peft_model

    lora = get_peft_model(tiny_model(), LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    for base, kind in ((torch.nn.Linear(2, 2), "Linear"), (lora, "PeftModelForCausalLM"), ("org/base", "str")):
        with pytest.raises(UnsupportedModelError, match=rf"`base` is a {kind}; expected .* Merge or unload PEFT"):
            PolicyPatchModel(base)


def test_token_embeddings_that_are_not_in_memory_are_refused():
    with pytest.raises(UnsupportedModelError, match="The token embeddings of `base` are not in memory"):
        PolicyPatchModel(tiny_model().to("meta"))


def test_learned_positions_are_a_limit_and_computed_ones_are_none():
    base = tiny_model("gpt2")
    positions = base.config.max_position_embeddings
    check_length(base, positions - 1)
    with pytest.raises(PositionLimitError, match=f"{positions} vectors leave no room .* learned {positions} positions"):
        check_length(base, positions)
    check_length(tiny_model("llama"), 10**6)


def test_the_length_of_a_vector_is_that_of_a_token_embedding_where_the_hidden_size_is_another():
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 16, "max_position_embeddings": 32}
    base = OPTForCausalLM(OPTConfig(vocab_size=50, hidden_size=24, word_embed_proj_dim=16, **sizes))
    assert base.config.hidden_size == 24
    assert embedding_size(base) == 16


def test_the_length_of_a_vector_is_read_off_the_table_where_its_module_does_not_say_it():
    base = tiny_model()
    table = torch.nn.Module()
    table.weight = torch.nn.Parameter(torch.zeros(50, 24))
    base.set_input_embeddings(table)
    assert embedding_size(base) == 24
