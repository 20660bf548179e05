"""Adapters of PEFT both ways, with PEFT itself as the oracle; what would change its meaning on the way is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from policy_patch import PolicyPatchConfig, PolicyPatchModel, get_policy_patch_model
from policy_patch.errors import BaseMismatchError, ExportError, PatchFileError, PatchNotFoundError
from policy_patch.export import from_peft, to_peft
from policy_patch.export.formats import export_as
from policy_patch.export.peft_adapter import ADAPTER_CONFIG, ADAPTER_TENSORS
from policy_patch.patch_folder import write_patch_folder
from tests.listening import listening
from tests.tiny_models import tiny_model

peft = pytest.importorskip("peft")
# PEFT 0.21 asks transformers for a name that version 6 removes.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning"),  # PEFT drops them in `generate`
]

FAMILIES = ("llama", "gpt2", "qwen2", "gemma2")  # gemma2: scaled embeddings
ROW = torch.tensor([[1, 40, 50, 60, 70]])


def patched(family, tokenizer, **changes):
    values = {"num_virtual_tokens": 5, "init": "random", "placement": "before_bos", **changes}
    return get_policy_patch_model(tiny_model(family), PolicyPatchConfig(**values), tokenizer=tokenizer).eval()


def logits(model, vectors=0):
    """Return the logits of the real tokens; PEFT's include those of its vectors."""
    with torch.no_grad():
        return model(input_ids=ROW, attention_mask=torch.ones_like(ROW)).logits[:, vectors:]


@pytest.mark.parametrize("family", FAMILIES)
def test_to_peft_gives_the_same_logits_and_text_in_peft(family, tokenizer, tmp_path):
    model = patched(family, tokenizer)
    assert to_peft(model, tmp_path / "adapter") == tmp_path / "adapter"
    theirs = peft.PeftModel.from_pretrained(tiny_model(family), tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(theirs, 5), logits(model), atol=1e-5, rtol=1e-5)
    assert (logits(theirs, 5) - logits(tiny_model(family))).abs().max() > 0.01, "control: the base is another"
    how = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones_like(ROW)}
    assert torch.equal(theirs.generate(input_ids=ROW, **how), model.generate(input_ids=ROW, **how))


@pytest.mark.parametrize("family", FAMILIES)
def test_from_peft_gives_the_same_logits_here_and_goes_back_unchanged(family, tokenizer, tmp_path):
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    theirs = peft.get_peft_model(tiny_model(family), config).eval()
    theirs.save_pretrained(tmp_path / "adapter")
    ours = from_peft(tiny_model(family), tmp_path / "adapter", tokenizer=tokenizer, risk="toxicity")
    torch.testing.assert_close(logits(ours), logits(theirs, 5), atol=1e-5, rtol=1e-5)
    assert (logits(ours) - logits(tiny_model(family))).abs().max() > 0.01, "control: the base is another"
    found = ours.patch_config["default"]
    assert (found.placement, found.num_virtual_tokens, found.risk) == ("before_bos", 5, "toxicity")
    to_peft(ours, tmp_path / "back")
    before, after = (load_file(tmp_path / name / ADAPTER_TENSORS) for name in ("adapter", "back"))
    assert before.keys() == after.keys() and torch.equal(before["prompt_embeddings"], after["prompt_embeddings"])
    ours.save_pretrained(tmp_path / "patch")
    again = PolicyPatchModel.from_pretrained(tiny_model(family), tmp_path / "patch", tokenizer=tokenizer)
    assert torch.equal(logits(again), logits(ours)), "once saved it is a patch like any other, with a fingerprint"


def test_vectors_after_bos_are_refused_since_peft_would_answer_otherwise(tokenizer, tmp_path):
    model = patched("llama", tokenizer, placement="after_bos")
    with pytest.raises(ExportError, match=r"vectors after BOS \(the token 1\), and PEFT puts vectors before"):
        to_peft(model, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    theirs = peft.get_peft_model(tiny_model("llama"), config).eval()
    with torch.no_grad():
        theirs.prompt_encoder["default"].embedding.weight.copy_(model.patches["default"])
    assert (logits(theirs, 5) - logits(model)).abs().max() > 0.01, "the reason: the same vectors mean another thing"


def test_without_bos_both_orders_are_the_same_and_it_is_written(tokenizer, tmp_path):
    model = patched("qwen2", tokenizer, placement="after_bos", bos_token_id=None)
    to_peft(model, tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(tiny_model("qwen2"), tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(theirs, 5), logits(model), atol=1e-5, rtol=1e-5)


def test_it_can_be_trained_further(tokenizer, tmp_path):
    to_peft(patched("llama", tokenizer), tmp_path / "adapter")
    assert not from_peft(tiny_model(), tmp_path / "adapter").patches["default"].requires_grad
    model = from_peft(tiny_model(), tmp_path / "adapter", is_trainable=True, patch_name="tox")
    model(input_ids=ROW, labels=ROW).loss.backward()
    assert model.patches["tox"].grad.abs().max() > 0


def test_the_command_writes_one_adapter_or_one_for_each_patch(tokenizer, tmp_path):
    for name, seed in (("tox", 1), ("bias", 2)):
        patched("llama", tokenizer, init_seed=seed, base_model_name_or_path="org/tiny").save_pretrained(tmp_path / name)
    done = export_as("peft", [tmp_path / "tox"], tmp_path / "one")
    assert set(done.files) == {ADAPTER_CONFIG, ADAPTER_TENSORS} and "PeftModel.from_pretrained" in done.then
    export_as("peft", [tmp_path / "tox", tmp_path / "bias"], tmp_path / "two", base="org/other")
    theirs = peft.PeftModel.from_pretrained(tiny_model(), tmp_path / "two", subfolder="bias").eval()
    ours = PolicyPatchModel.from_pretrained(tiny_model(), tmp_path / "bias")
    torch.testing.assert_close(logits(theirs, 5), logits(ours), atol=1e-5, rtol=1e-5)
    assert json.loads((tmp_path / "two" / "tox" / ADAPTER_CONFIG).read_text())["base_model_name_or_path"] == "org/other"
    assert json.loads((tmp_path / "one" / ADAPTER_CONFIG).read_text())["base_model_name_or_path"] == "org/tiny"


def test_which_patch_must_be_clear_and_nothing_is_overwritten(tokenizer, tmp_path):
    model = patched("llama", tokenizer)
    model.add_patch("more", PolicyPatchConfig(num_virtual_tokens=2, init="random", placement="before_bos"))
    model.set_patch(["default", "more"])
    with pytest.raises(ExportError, match=r"Which patch\?.*compose_patch"):
        to_peft(model, tmp_path / "adapter")
    with pytest.raises(ExportError, match=r"Which patch\?"):
        to_peft(model, tmp_path / "adapter", patch_name="nobody")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(ExportError, match="holds files"):
        to_peft(model, tmp_path / "full", patch_name="more")


# What is refused on the way in


@pytest.fixture
def adapter(tokenizer, tmp_path):
    return to_peft(patched("llama", tokenizer), tmp_path / "adapter")


def changed(adapter, **values):
    path = adapter / ADAPTER_CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"peft_type": "P_TUNING"}, r"type 'P_TUNING': its vectors come out of an encoder"),
        ({"peft_type": "PREFIX_TUNING"}, r"type 'PREFIX_TUNING': it holds keys and values for every layer"),
        ({"peft_type": "MULTITASK_PROMPT_TUNING"}, "depend on a task id"),
        ({"peft_type": "LORA"}, r"type 'LORA': it changes weights"),
        ({"peft_type": None}, "Only PROMPT_TUNING becomes a patch"),
        ({"task_type": "SEQ_2_SEQ_LM"}, "is for 'SEQ_2_SEQ_LM'"),
        ({"num_transformer_submodules": 2}, "2 submodules"),
        ({"modules_to_save": ["lm_head"]}, r"also replaces \['lm_head'\]"),
        ({"num_virtual_tokens": 7}, r"expected one, `prompt_embeddings`, of shape \(7, 32\)"),
        ({"token_dim": 64}, r"of shape \(5, 64\)"),
        ({"num_virtual_tokens": "5"}, "of shape"),
    ],
)
def test_other_adapters_are_refused_with_the_reason(adapter, values, message):
    changed(adapter, **values)
    with pytest.raises(ExportError, match=message):
        from_peft(tiny_model(), adapter)


def test_real_adapters_of_other_kinds_are_refused(tmp_path):
    kinds = {
        "P_TUNING": peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=8),
        "PREFIX_TUNING": peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    }
    for name, config in kinds.items():
        peft.get_peft_model(tiny_model("gpt2"), config).save_pretrained(tmp_path / name)
        with pytest.raises(ExportError, match=name):
            from_peft(tiny_model("gpt2"), tmp_path / name)


def test_damaged_and_pickled_tensors_are_refused(adapter):
    path = adapter / ADAPTER_TENSORS
    good = path.read_bytes()
    for content in (b"", good[:-5], b"\xff" * 40):
        path.write_bytes(content)
        with pytest.raises(ExportError, match="cannot be read"):
            from_peft(tiny_model(), adapter)
    save_file({"prompt_embeddings": torch.zeros(5, 32), "more": torch.zeros(1)}, path)
    with pytest.raises(ExportError, match="expected one"):
        from_peft(tiny_model(), adapter)
    save_file({"prompt_embeddings": torch.zeros(5, 32, dtype=torch.int64)}, path)
    with pytest.raises(ExportError, match="floating-point"):
        from_peft(tiny_model(), adapter)
    save_file({"prompt_embeddings": torch.full((5, 32), float("nan"))}, path)
    with pytest.raises(PatchFileError, match="NaN"):
        from_peft(tiny_model(), adapter)
    save_file({"prompt_embeddings": torch.full((5, 32), 1e6)}, path)
    with pytest.raises(PatchFileError, match="allow_large_vectors"):
        from_peft(tiny_model(), adapter)
    from_peft(tiny_model(), adapter, allow_large_vectors=True)
    path.rename(adapter / "adapter_model.bin")
    with pytest.raises(ExportError, match="pickled and is not read"):
        from_peft(tiny_model(), adapter)


@pytest.mark.parametrize("text", ["{", "[]", '{"peft_type": NaN}'])
def test_a_configuration_that_is_none_is_refused(adapter, text):
    (adapter / ADAPTER_CONFIG).write_text(text)
    with pytest.raises(ExportError, match=ADAPTER_CONFIG.replace(".", r"\.")):
        from_peft(tiny_model(), adapter)


def test_another_base_is_refused_by_its_size_and_warned_of_by_its_name(adapter, tmp_path):
    from transformers import AutoModelForCausalLM, LlamaConfig

    wide = LlamaConfig(hidden_size=64, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, vocab_size=50)
    with pytest.raises(BaseMismatchError, match=r"vectors of 32 numbers.*hidden size of 64"):
        from_peft(AutoModelForCausalLM.from_config(wide), adapter)
    with pytest.raises(PatchNotFoundError, match=r"no adapter_config\.json"):
        from_peft(tiny_model(), tmp_path)
    changed(adapter, base_model_name_or_path="org/one")
    base = tiny_model()
    base.config._name_or_path = "org/two"
    with listening("policy_patch") as said:
        from_peft(base, adapter)
    assert any("was made for `org/one`; the base given is `org/two`" in text for text in said)


def test_a_patch_of_an_old_file_does_not_say_where_its_vectors_go(tmp_path):
    config = PolicyPatchConfig(num_virtual_tokens=2, init="random")  # bos_token_id="auto"
    write_patch_folder(tmp_path / "old", config, torch.randn(2, 32))
    with pytest.raises(ExportError, match="an unknown token"):
        export_as("peft", [tmp_path / "old"], tmp_path / "out")
