"""What a probe records: the predictions of the definition, with and without each stack, and a warning where alike."""

import pytest
import torch

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from policy_patch.answers.probe_file import BASE, PROBE_NAME, read_probe
from policy_patch.answers.probe_likelihood import distance, seen_of
from policy_patch.answers.served_probe import PROBE_PROMPTS, alike, record_probe
from policy_patch.errors import ExportError, PatchNameError
from tests.definition import logits_by_definition
from tests.listening import listening
from tests.tiny_models import tiny_model

_TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}[assistant]"


@pytest.fixture(scope="module")
def patched(tokenizer):
    config = PolicyPatchConfig(num_virtual_tokens=6, init="random", risk="toxicity", patch_version="1.2.0")
    model = get_policy_patch_model(tiny_model("llama"), config, tokenizer=tokenizer, patch_name="tox")
    model.add_patch("bias", PolicyPatchConfig(num_virtual_tokens=5, init="random", init_seed=7), tokenizer=tokenizer)
    return model.eval()


@pytest.fixture(scope="module")
def recorded(patched, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    stacks = {"tox": ["tox"], "both": ["tox", "bias"]}
    return record_probe(patched, tokenizer, folder, stacks=stacks, chat_template=_TEMPLATE), folder


def by_definition(patched, tokenizer, names, text, bos=True):
    ids = tokenizer(text, add_special_tokens=bos)["input_ids"]
    base = patched.get_base_model()
    vectors = torch.cat([patched.patches[name].detach() for name in names]) if names else torch.zeros(0, 32)
    with torch.no_grad():
        return logits_by_definition(base, vectors, ids)[-1].log_softmax(-1)


@pytest.mark.parametrize(("system", "names"), [(BASE, []), ("tox", ["tox"]), ("both", ["tox", "bias"])])
def test_each_system_is_recorded_as_the_definition_says(patched, tokenizer, recorded, system, names):
    for kind, form in (("completions", "{}"), ("chat", "<s>[user]{}[assistant]")):
        for row in recorded[0].rows[kind]:
            found = row.systems[system]
            log_probs = by_definition(patched, tokenizer, names, form.format(row.prompt), bos=kind == "completions")
            assert list(found.log_probs) == sorted(found.log_probs, reverse=True)
            torch.testing.assert_close(torch.tensor(found.log_probs), log_probs[list(found.ids)], atol=1e-5, rtol=0)
            assert found.ids[0] == int(log_probs.argmax())
    other = by_definition(patched, tokenizer, ["bias"], PROBE_PROMPTS[0])
    first = recorded[0].rows["completions"][0].systems[system]
    assert (torch.tensor(first.log_probs) - other[list(first.ids)]).abs().max() > 0.05, "another patch must differ"


def test_it_says_which_patches_and_which_base(recorded, patched):
    probe, folder = recorded
    assert (folder / PROBE_NAME).is_file() and read_probe(folder).stacks == probe.stacks
    assert probe.expected == "tox" and probe.described("both") == "tox 1.2.0 + bias 0.1.0"
    assert probe.stacks["tox"][0]["num_virtual_tokens"] == 6 and len(probe.stacks["tox"][0]["sha256"]) == 64
    assert probe.stacks["tox"][0]["sha256"] != probe.stacks["both"][1]["sha256"]
    assert len(probe.base_fingerprint_sha256) == 64 and probe.dtype == "float32"


def test_text_of_a_token_keeps_its_space(recorded):
    assert any(" " in row.systems[BASE].texts for row in recorded[0].rows["completions"])


def test_fewer_bits_move_the_predictions_more_and_the_model_is_left_as_it_was(recorded, patched, tokenizer, tmp_path):
    noise = recorded[0].noise["completions"]
    assert 0 < noise[16] < noise[8] < noise[4]
    before = {name: weight.clone() for name, weight in patched.named_parameters()}
    patched.train()
    record_probe(patched, tokenizer, tmp_path)
    assert patched.training
    patched.eval()
    assert all(torch.equal(weight, before[name]) for name, weight in patched.named_parameters())


def test_a_patch_that_changes_nothing_is_told(tokenizer, tmp_path):
    base = tiny_model("gpt2")
    model = get_policy_patch_model(base, PolicyPatchConfig(num_virtual_tokens=4, init="random"), tokenizer=tokenizer)
    with torch.no_grad():
        base.transformer.wte.weight.mul_(1e-4)  # what is said no longer depends on what was said
        base.transformer.wpe.weight.mul_(1e-4)
        model.patches["default"].mul_(1e-4)
    with listening("policy_patch") as said:
        probe = record_probe(model, tokenizer, tmp_path)
    assert alike(probe) and "predict so much the same" in said[0] and "16 or 8 or 4" in said[0]


def test_patches_that_differ_are_told_apart_without_a_warning(recorded):
    assert not [problem for problem in alike(recorded[0]) if "16" in problem]


def test_two_names_of_one_patch_cannot_be_told_apart(patched, tokenizer, tmp_path):
    probe = record_probe(patched, tokenizer, tmp_path, stacks={"one": ["tox"], "two": ["tox"]})
    assert [problem for problem in alike(probe) if "`one`" in problem and "`two`" in problem and "16" in problem]


def test_without_a_patch_there_is_nothing_to_record(patched, tokenizer, tmp_path):
    with pytest.raises(ExportError, match="at least one stack with a patch"):
        record_probe(patched, tokenizer, tmp_path, stacks={"none": []})
    with pytest.raises(ExportError, match="none may be called `base`"):
        record_probe(patched, tokenizer, tmp_path, stacks={"base": ["tox"]})
    with pytest.raises(PatchNameError, match="No patch named `nobody` is loaded"):
        record_probe(patched, tokenizer, tmp_path, stacks={"x": ["nobody"]})
    with pytest.raises(ExportError, match="Activate a patch"):
        record_probe(patched.get_base_model(), tokenizer, tmp_path)


def test_without_a_template_there_is_no_chat(patched, tokenizer, tmp_path):
    assert set(record_probe(patched, tokenizer, tmp_path).rows) == {"completions"}


def test_distance_to_itself_is_zero_and_to_the_base_is_not(recorded):
    for row in recorded[0].rows["completions"]:
        assert distance(seen_of(row.systems["tox"]), row.systems["tox"]) == 0
        assert distance(seen_of(row.systems["tox"]), row.systems[BASE]) > 0.1
