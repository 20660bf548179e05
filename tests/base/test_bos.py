"""Tests of `base.bos`: a patch keeps the token that text begins with, whatever the base says later."""

import json
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, RoCBertConfig

from policy_patch import PolicyPatchConfig, PolicyPatchModel, get_policy_patch_model
from policy_patch.base.bos import agreed_bos, decided_bos
from policy_patch.config import CONFIG_NAME
from policy_patch.errors import BaseMismatchError, ConfigError
from policy_patch.patch.folder import TENSORS_NAME
from tests.definition import logits_by_definition
from tests.listening import listening
from tests.sealed import sealed
from tests.tiny_models import BOS, EOS, VOCAB_SIZE, tiny_model, tiny_tokenizer

TOLERANCE = 1e-5
ROW = [BOS, 5, 9, 20, 31]
IDS = torch.tensor([ROW])


def config(**options) -> PolicyPatchConfig:
    return PolicyPatchConfig(num_virtual_tokens=4, init="random", **options)


def base_with(bos) -> PreTrainedModel:
    base = tiny_model()
    base.config.bos_token_id = bos
    return base


def off(model: PolicyPatchModel, row: list[int] = ROW, placement: str = "after_bos") -> float:
    """Return how far the logits of `row` are from those with the vectors where `placement` says."""
    model.eval()
    with torch.no_grad():
        expected = logits_by_definition(tiny_model(), model.patches["default"], row, placement)
        return float((model(torch.tensor([row])).logits[0] - expected).abs().max())


@pytest.fixture
def warnings():
    """What the module logged."""
    with listening("policy_patch.base.bos") as texts:
        yield texts


# A new patch


@pytest.mark.parametrize("of_base", [None, BOS, 77])
def test_a_new_patch_goes_behind_the_bos_of_its_tokenizer_whatever_the_base_says(of_base, tokenizer):
    model = get_policy_patch_model(base_with(of_base), config(), tokenizer)
    assert model.patch_config["default"].bos_token_id == BOS
    assert off(model) <= TOLERANCE


def test_without_a_tokenizer_the_base_is_asked():
    assert get_policy_patch_model(base_with(BOS), config()).patch_config["default"].bos_token_id == BOS
    for nothing in (None, -1):
        model = get_policy_patch_model(base_with(nothing), config())
        assert model.patch_config["default"].bos_token_id is None
        assert off(model, placement="before_bos") <= TOLERANCE, "there is no BOS to go behind"


def test_what_the_configuration_says_comes_first(tokenizer):
    model = get_policy_patch_model(base_with(BOS), config(bos_token_id=5), tokenizer)
    assert model.patch_config["default"].bos_token_id == 5
    with torch.no_grad():
        row = [5, 9, 20]
        embeds, vectors = tiny_model().get_input_embeddings()(torch.tensor([row])), model.patches["default"]
        joined = torch.cat([embeds[:, :1], vectors.unsqueeze(0), embeds[:, 1:]], dim=1)
        expected = tiny_model()(inputs_embeds=joined).logits[0, 4:]
        assert (model.eval()(torch.tensor([row])).logits[0] - expected).abs().max() <= TOLERANCE
    assert off(model, placement="before_bos") <= TOLERANCE, "the base's own BOS is a token like others"
    none = get_policy_patch_model(base_with(BOS), config(bos_token_id=None), tokenizer)
    assert none.patch_config["default"].bos_token_id is None


def test_a_tokenizer_without_bos_says_that_there_is_none():
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = None
    assert decided_bos(config(), base_with(BOS), tokenizer) is None


@pytest.mark.parametrize("value", [-1, True, "bos", 1.5])
def test_a_value_that_is_no_token_is_refused(value):
    with pytest.raises(ConfigError, match="bos_token_id"):
        config(bos_token_id=value)


# Later


@pytest.mark.parametrize("rewritten", [None, EOS, 77])
def test_a_configuration_that_is_rewritten_moves_no_vectors(rewritten, tokenizer):
    """Trainers align it with the tokenizer, and chat formats set it to none."""
    model = get_policy_patch_model(base_with(BOS), config(), tokenizer)
    before = off(model)
    model.config.bos_token_id = rewritten
    assert before <= TOLERANCE and off(model) <= TOLERANCE
    generated = model.generate(IDS, max_new_tokens=3, do_sample=False, pad_token_id=0)
    model.config.bos_token_id = BOS
    assert torch.equal(model.generate(IDS, max_new_tokens=3, do_sample=False, pad_token_id=0), generated)


def test_a_base_whose_configuration_has_no_such_attribute_carries_a_patch(monkeypatch, tokenizer):
    base = tiny_model()
    del base.config.bos_token_id
    with monkeypatch.context() as changes:
        changes.delattr(type(base.config), "bos_token_id")  # the default
        assert not hasattr(base.config, "bos_token_id")
        assert get_policy_patch_model(base, config()).patch_config["default"].bos_token_id is None
        model = get_policy_patch_model(base, config(), tokenizer).eval()
        with torch.no_grad():
            found = model(IDS).logits[0]
    with torch.no_grad():
        expected = logits_by_definition(tiny_model(), model.patches["default"], ROW)
    assert (found - expected).abs().max() <= TOLERANCE


def test_an_architecture_whose_configuration_knows_no_bos_is_exact():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    off_switches = {"enable_pronunciation": False, "enable_shape": False}
    base_config = RoCBertConfig(vocab_size=VOCAB_SIZE, **sizes, **off_switches, is_decoder=True)
    assert not hasattr(base_config, "bos_token_id")
    base = AutoModelForCausalLM.from_config(base_config).eval()
    model = get_policy_patch_model(base, config()).eval()
    assert model.patch_config["default"].bos_token_id is None
    row = [7, 9, 20, 31]
    with torch.no_grad():
        expected = logits_by_definition(base, model.patches["default"], row)
        assert (model(torch.tensor([row])).logits[0] - expected).abs().max() <= TOLERANCE


# Files


def test_a_patch_keeps_its_bos_on_disk_and_goes_where_it_was_trained(tmp_path, tokenizer):
    get_policy_patch_model(base_with(None), config(), tokenizer).save_pretrained(tmp_path)
    assert json.loads((tmp_path / CONFIG_NAME).read_text())["bos_token_id"] == BOS
    for of_base in (None, BOS):
        loaded = PolicyPatchModel.from_pretrained(base_with(of_base), tmp_path, tokenizer=tokenizer)
        assert off(loaded) <= TOLERANCE
    assert off(PolicyPatchModel.from_pretrained(base_with(None), tmp_path)) <= TOLERANCE, "none says nothing against it"


def test_a_base_with_another_bos_is_refused_at_load_unless_the_tokenizer_agrees(tmp_path, tokenizer):
    get_policy_patch_model(base_with(BOS), config(), tokenizer).save_pretrained(tmp_path)
    base = base_with(EOS)
    words = (
        "has its vectors after the token 1, .* the base's configuration says 2.* give it as `tokenizer=`: its BOS token"
    )
    with pytest.raises(BaseMismatchError, match=words):
        PolicyPatchModel.from_pretrained(base, tmp_path)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in base.modules())
    assert off(PolicyPatchModel.from_pretrained(base, tmp_path, tokenizer=tokenizer)) <= TOLERANCE


def test_a_tokenizer_with_another_bos_is_refused():
    other = SimpleNamespace(bos_token_id=EOS)
    with pytest.raises(BaseMismatchError, match=r"`p` has its vectors after the token 1, .* the tokenizer says 2"):
        agreed_bos(config(bos_token_id=BOS), base_with(BOS), other, "`p`")
    assert agreed_bos(config(bos_token_id=BOS), base_with(BOS), SimpleNamespace(bos_token_id=None), "`p`") == BOS
    assert agreed_bos(config(bos_token_id=None), base_with(BOS), other, "`p`") is None


def test_before_bos_no_token_matters():
    before = config(bos_token_id=BOS, placement="before_bos")
    assert agreed_bos(before, base_with(EOS), SimpleNamespace(bos_token_id=77), "`p`") == BOS


def test_a_file_of_before_the_field_takes_the_tokenizer_s_or_the_base_s_with_a_warning(tmp_path, warnings, tokenizer):
    get_policy_patch_model(base_with(BOS), config(), tokenizer).save_pretrained(tmp_path)
    fields = json.loads((tmp_path / CONFIG_NAME).read_text())
    del fields["bos_token_id"]
    for name, content in sealed(fields, (tmp_path / TENSORS_NAME).read_bytes()).items():
        (tmp_path / name).write_bytes(content)
    by_tokenizer = PolicyPatchModel.from_pretrained(base_with(EOS), tmp_path, tokenizer=tokenizer)
    by_base = PolicyPatchModel.from_pretrained(base_with(EOS), tmp_path)
    assert [model.patch_config["default"].bos_token_id for model in (by_tokenizer, by_base)] == [BOS, EOS]
    assert off(by_tokenizer) <= TOLERANCE
    assert warnings == [
        f"WARNING: `{tmp_path}` does not say after which token its vectors go; token {token} is assumed."
        for token in (BOS, EOS)
    ]


def test_a_patch_that_says_its_bos_is_silent(warnings, tokenizer):
    assert agreed_bos(config(bos_token_id=BOS), base_with(BOS), tokenizer, "`p`") == BOS
    assert warnings == []


# Stacks


def test_patches_behind_different_tokens_form_no_stack(tokenizer):
    model = get_policy_patch_model(base_with(BOS), config(), tokenizer, patch_name="a")
    model.add_patch("b", config(bos_token_id=None))
    words = r"A stack needs one `bos_token_id`; these patches differ: \{'a': 1, 'b': None\}"
    with pytest.raises(ConfigError, match=words):
        model.set_patch(["a", "b"])
    with pytest.raises(ConfigError, match=words):
        model.compose_patch(["a", "b"], "both")
    with pytest.raises(ConfigError, match=words):
        model(torch.tensor([ROW]), patch_names=[("a", "b")])
    model.set_patch("b")
    model.eval()
    with torch.no_grad():
        expected = logits_by_definition(tiny_model(), model.patches["b"], ROW, "before_bos")
        assert (model(IDS).logits[0] - expected).abs().max() <= TOLERANCE


def test_rows_behind_patches_with_different_bos_in_one_batch_are_each_exact(tokenizer):
    model = get_policy_patch_model(base_with(BOS), config(), tokenizer, patch_name="a").eval()
    model.add_patch("b", config(bos_token_id=None, init_seed=5))
    with torch.no_grad():
        found = model(torch.tensor([ROW, ROW]), patch_names=["a", "b"]).logits
        for index, (name, placement) in enumerate((("a", "after_bos"), ("b", "before_bos"))):
            expected = logits_by_definition(tiny_model(), model.patches[name], ROW, placement)
            assert (found[index] - expected).abs().max() <= TOLERANCE


def test_a_composed_patch_has_the_bos_of_its_parts(tokenizer):
    model = get_policy_patch_model(base_with(None), config(), tokenizer, patch_name="a")
    model.add_patch("b", config(), tokenizer)
    model.compose_patch(["a", "b"], "both")
    assert model.patch_config["both"].bos_token_id == BOS
