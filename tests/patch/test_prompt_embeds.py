"""Tests of prompt embeddings: what is decoded from them is the definition's input, to the last bit."""

import base64
import io

import pytest
import torch

from policy_patch import PolicyPatchConfig
from policy_patch.base.embedding_rows import embedding_rows
from policy_patch.errors import ConfigError
from policy_patch.patch.prompt_embeds import encoded_embeds, stack_of
from tests.tiny_models import BOS, tiny_model


def decoded(text):
    return torch.load(io.BytesIO(base64.b64decode(text, validate=True)), weights_only=True)


def config(**values):
    return PolicyPatchConfig(num_virtual_tokens=3, init="vocab", **{"bos_token_id": BOS, **values})


def test_an_engine_decodes_what_was_encoded_and_no_more():
    whole = torch.randn(1000, 8)
    text = encoded_embeds(whole[:3].bfloat16())
    assert torch.equal(decoded(text), whole[:3].bfloat16())
    assert len(encoded_embeds(whole[:3])) < 4000  # not the 32,000 bytes that the rows are a view of
    assert torch.equal(decoded(encoded_embeds(torch.nn.Parameter(whole[:2]))), whole[:2])


@pytest.mark.parametrize(("placement", "start"), [("after_bos", 1), ("before_bos", 0)])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_prompt_has_the_vectors_where_the_definition_has_them(family, placement, start, tmp_path):
    model = tiny_model(family)
    model.save_pretrained(tmp_path)
    rows = embedding_rows(tmp_path, model.config)
    one, two = torch.randn(3, 32), torch.randn(2, 32)
    stack = stack_of({"a": (config(placement=placement), one), "b": (config(placement=placement), two)}, torch.float32)
    ids = [BOS, 9, 10]
    tokens = model.get_input_embeddings()(torch.tensor(ids))
    expected = torch.cat([tokens[:start], one, two, tokens[start:]])
    assert torch.equal(stack.embedded(ids, rows), expected)
    assert not torch.equal(stack.embedded(ids, rows), torch.cat([tokens[: 1 - start], one, two, tokens[1 - start :]]))
    assert torch.equal(stack.embedded(ids[1:], rows), torch.cat([one, two, tokens[1:]]))  # no BOS: in front


def test_a_chat_message_holds_the_stack_as_one_part():
    one, two = torch.randn(3, 32), torch.randn(2, 32)
    message = stack_of({"a": (config(), one), "b": (config(), two)}, torch.bfloat16).chat_message()
    [part] = message["content"]
    assert (message["role"], part["type"]) == ("system", "prompt_embeds")
    assert torch.equal(decoded(part["data"]), torch.cat([one, two]).bfloat16())


def test_patches_that_do_not_fit_together_are_refused():
    one = torch.randn(3, 32)
    with pytest.raises(ConfigError, match="A stack needs one `placement`"):
        stack_of({"a": (config(), one), "b": (config(placement="before_bos"), one)}, torch.float32)
    with pytest.raises(ConfigError, match="vectors of one size"):
        stack_of({"a": (config(), one), "b": (config(), torch.randn(3, 8))}, torch.float32)
    with pytest.raises(ConfigError, match="after which token its vectors go"):
        stack_of({"a": (config(bos_token_id="auto"), one)}, torch.float32)
