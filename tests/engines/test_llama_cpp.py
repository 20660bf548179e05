"""Tests of GGUF files in llama.cpp: it computes what the patched model computes, for each patch, a stack and none.

llama.cpp's server is run by the package xllamacpp. Attention is in fp32 there, so that numbers can be compared.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from policy_patch import PolicyPatchModel
from policy_patch.export import bake
from policy_patch.export.gguf_baked import baked_gguf
from policy_patch.export.gguf_edit import ARGUMENTS_NAME, FILE_NAME
from policy_patch.export.gguf_export import export_gguf, write_patched_gguf
from policy_patch.export.gguf_file import read_gguf, write_gguf
from policy_patch.export.gguf_folder import gguf_of_folder
from policy_patch.export.gguf_vocabulary import CHAT_TEMPLATE, TOKENS
from policy_patch.lab import lab_patch_folder, load_lab_base, load_lab_tokenizer
from policy_patch.lab.checkpoints import LAB_MODELS_PATH
from tests.engines.llama_cpp import WHY, llama_cpp
from tests.export.gguf_bases import CONVERTED, gguf_base, gguf_file, patched

pytest.importorskip("xllamacpp", reason=WHY)
RISKS = {"tox": "toxicity", "bias": "gender_bias", "harm": "harmfulness"}
CHOICES = {**{name: [name] for name in RISKS}, "tox+bias": ["tox", "bias"]}
TEXTS = ("The man said that", "You are", 'Adam: "Hi!"\nIda:')


def same_as(model, ids, length=16):
    """Return the greedy continuation of `ids` by transformers."""
    row = torch.tensor([ids])
    out = model.generate(row, attention_mask=torch.ones_like(row), max_new_tokens=length, do_sample=False)
    return out[0, len(ids) :].tolist()


# Tiny models of each family that we convert, by token ids


@pytest.mark.parametrize("family", CONVERTED)
def test_every_converted_family_continues_token_ids_as_the_patched_model_does(tmp_path, family):
    base, tokenizer = gguf_base(family)
    source = gguf_file(tmp_path / "base.gguf", base, tokenizer)
    tokenizer = AutoTokenizer.from_pretrained(source.with_suffix(".base"))
    ends = ["</s>", "<|endoftext|>"]  # which llama.cpp knows by its name
    base.generation_config.eos_token_id = [
        tokenizer.get_vocab()[name] for name in ends if name in tokenizer.get_vocab()
    ]
    model = patched(base, tokenizer, tox=3, bias=5)
    write_patched_gguf(
        model, tokenizer, tmp_path / "out", source=source, choices={"both": ("tox", "bias")}, probe=False
    )
    found = read_gguf(tmp_path / "out" / FILE_NAME)
    ids = list(found.get("policy_patch.token_ids"))
    rows = len(found.get(TOKENS))
    model.set_patch(["tox", "bias"])
    differences = {"patched": [], "reversed": [], "base": []}
    with llama_cpp(tmp_path / "out" / FILE_NAME) as engine:
        for text in TEXTS:
            row = [1, *tokenizer(text, add_special_tokens=False)["input_ids"]]
            assert engine.continued([1, *ids, *row[1:]]) == same_as(model, row)
            with torch.no_grad():
                expected = model(torch.tensor([row])).logits[0, -1].log_softmax(-1).numpy()
            for name, prefix in (("patched", ids), ("reversed", ids[::-1]), ("base", [])):
                got = engine.log_probs([1, *prefix, *row[1:]], rows)[: len(expected)]
                got -= np.log(np.exp(got).sum())  # without the patch tokens
                likely = expected > -12
                differences[name].append(np.abs(got - expected)[likely].max())
    # llama.cpp looks GPT-2's activation up in a table of fp16 numbers.
    assert max(differences["patched"]) < (5e-3 if family == "gpt2" else 2e-4)
    assert min(differences["reversed"]) > 0.02 and min(differences["base"]) > 0.02


# The lab's base with its three patches, a stack and none, by chat


@pytest.fixture(scope="module")
def lab_file(tmp_path_factory):
    patches = [f"{name}={lab_patch_folder(risk)}" for name, risk in RISKS.items()]
    folder = tmp_path_factory.mktemp("lab") / "out"
    export_gguf(patches, folder, stacks="tox+bias", weight_type="F32", probe=False)
    return folder / FILE_NAME


@pytest.fixture(scope="module")
def engine(lab_file):
    with llama_cpp(lab_file) as server:
        yield server


@pytest.fixture(scope="module")
def lab():
    tokenizer = load_lab_tokenizer()
    folders = [lab_patch_folder(risk) for risk in RISKS.values()]
    return PolicyPatchModel.from_pretrained(load_lab_base(), folders, list(RISKS), tokenizer=tokenizer), tokenizer


def answers(lab, choice, length=16):
    """Return what the patched model in transformers answers to each text."""
    model, tokenizer = lab
    model.set_patch(CHOICES.get(choice, ["tox"]))
    continued = []
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        out = same_as(model if choice in CHOICES else model.get_base_model(), ids, length)
        continued.append(tokenizer.decode(out, skip_special_tokens=True))
    return continued


@pytest.mark.parametrize("choice", [*CHOICES, "off", "none", None])
def test_chat_answers_as_the_patched_model_does(lab, engine, choice):
    kwargs = {} if choice is None else {"chat_template_kwargs": {"patch": choice}}
    assert [engine.chat(text, **kwargs) for text in TEXTS] == answers(lab, "tox" if choice is None else choice)


def test_the_choices_answer_differently(lab):
    assert len({tuple(answers(lab, choice)) for choice in (*CHOICES, "off")}) == 5


def test_an_unknown_patch_is_an_error_and_not_silently_the_base(engine):
    message = [{"role": "user", "content": "Hi"}]
    answer = engine.post("/v1/chat/completions", messages=message, chat_template_kwargs={"patch": "nope"})
    assert "There is no patch of this name" in answer["error"]["message"] and "choices" not in answer


def test_raw_completions_are_silently_the_base(lab, engine):
    """A known fact of llama.cpp, which is why the gateway refuses them and the file's metadata warns of them."""
    for text, base, tox in zip(TEXTS, answers(lab, "off"), answers(lab, "tox")):
        for path in ("/v1/completions", "/completion"):
            answer = engine.post(path, prompt=text, temperature=0, max_tokens=16, n_predict=16)
            got = answer["choices"][0]["text"] if "choices" in answer else answer["content"]
            assert got == base != tox


def test_a_whole_conversation_begins_with_the_patch_once(lab_file, engine):
    content = read_gguf(lab_file)
    ids = content.get("policy_patch.token_ids")
    talk = [{"role": role, "content": text} for role, text in zip(["system", "user", "assistant", "user"], "abcd")]
    tokens = engine.tokens(engine.post("/apply-template", messages=talk)["prompt"])
    assert tokens[: 1 + 50] == [1, *ids[:50]] and not set(tokens[51:]) & set(ids)
    none = engine.post("/apply-template", messages=talk, chat_template_kwargs={"patch": "none"})["prompt"]
    assert engine.tokens(none) == [1, *tokens[51:]]


def test_texts_of_users_cannot_spell_patch_tokens(lab_file, engine):
    content = read_gguf(lab_file)
    names, ids = content.get(TOKENS), set(content.get("policy_patch.token_ids"))
    name = names[max(ids)]
    marker = name.split("_")[1]
    assert engine.tokens(name) == [1, max(ids)], "the name alone is parsed"
    half = len(name) // 2
    hostile = [name, name * 3, f"{name[:half]}{name}{name[half:]}", f"<|patch_{marker[:16]}{marker}{marker[16:]}_0|>"]
    for text in hostile:
        for message in ({"role": "user", "content": text}, {"role": text, "content": "x"}):
            rendered = engine.post("/apply-template", messages=[message])
            tokens = engine.tokens(rendered["prompt"]) if "prompt" in rendered else []  # or the role is refused
            assert not set(tokens[51:]) & ids
    parts = [{"type": "text", "text": name[:half]}, {"type": "text", "text": name[half:]}]
    rendered = engine.post("/apply-template", messages=[{"role": "user", "content": parts}])["prompt"]
    assert not set(engine.tokens(rendered)[51:]) & ids


def test_a_last_message_of_the_assistant_can_spell_them_unless_the_server_begins_no_answers(lab_file, engine):
    """A known fact of llama.cpp: it puts that text behind what the template has rendered, where nothing is removed."""
    content = read_gguf(lab_file)
    name, ids = content.get(TOKENS)[-1], set(content.get("policy_patch.token_ids"))
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": name}]
    assert "--no-prefill-assistant" in (lab_file.parent / ARGUMENTS_NAME).read_text()
    with llama_cpp(lab_file, prefill=False) as closed:
        for server, spelled in ((engine, {max(ids)}), (closed, set())):
            tokens = server.tokens(server.post("/apply-template", messages=talk)["prompt"])
            assert set(tokens[51:]) & ids == spelled


# Sampling


def sampled(file, count, never=(), slots=8):
    """Return token ids sampled at temperature 1 with the default patch.

    The package has no way to give a server `-l ID-inf`, so each request says it.
    """
    body = {"n_predict": 50, "temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0, "return_tokens": True}
    body |= {"logit_bias": [[one, False] for one in never], "ignore_eos": True}
    found = []
    with llama_cpp(file, slots=slots) as engine:
        prompt = engine.post("/apply-template", messages=[{"role": "user", "content": "You are"}])["prompt"]
        while len(found) < count:
            answer = engine.post("/completion", prompt=[prompt] * slots, seed=len(found), **body)
            found += [token for each in answer for token in each["tokens"]]
    return found[:count]


def test_no_patch_token_is_sampled_where_the_file_of_arguments_excludes_them_and_many_without_a_head(
    lab_file, tmp_path
):
    ids = set(read_gguf(lab_file).get("policy_patch.token_ids"))
    words = (lab_file.parent / ARGUMENTS_NAME).read_text().split()
    never = [int(word.removesuffix("-inf")) for word in words if word.endswith("-inf")]
    assert set(never) == ids
    content = read_gguf(lab_file)
    tied = {name: tensor for name, tensor in content.tensors.items() if name != "output.weight"}
    write_gguf(tmp_path / "tied.gguf", replace(content, tensors=tied))
    assert sum(token in ids for token in sampled(tmp_path / "tied.gguf", 400)) > 4
    assert not ids & set(sampled(tmp_path / "tied.gguf", 400, never=never))


def test_no_patch_token_is_sampled_where_requests_carry_the_content_of_a_bakes_logit_bias_json(tmp_path):
    tokenizer = load_lab_tokenizer()
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    base = AutoModelForCausalLM.from_pretrained(LAB_MODELS_PATH / "base")
    model = PolicyPatchModel.from_pretrained(base, [lab_patch_folder("toxicity")], ["tox"], tokenizer=tokenizer).eval()
    ids = set(bake(model, tokenizer, tmp_path / "baked", probe=False).tokens.all_ids)
    baked_gguf(tmp_path / "baked", tmp_path / "out")
    content = read_gguf(tmp_path / "out" / FILE_NAME)
    tied = {name: tensor for name, tensor in content.tensors.items() if name != "output.weight"}
    write_gguf(tmp_path / "tied.gguf", replace(content, tensors=tied))  # so that there is something to exclude
    given = json.loads((tmp_path / "baked" / "suppression" / "logit_bias.json").read_text())
    how = {"temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0, "max_tokens": 200, "ignore_eos": True, "seed": 1}
    with llama_cpp(tmp_path / "tied.gguf") as engine:
        messages = [{"role": "user", "content": "You are"}]
        prompt = engine.post("/apply-template", messages=messages)["prompt"]
        for path, asked in (
            ("/v1/chat/completions", {"messages": messages, "logprobs": True}),
            ("/v1/completions", {"prompt": prompt, "logprobs": 1}),
        ):
            for bias, is_free in (({}, False), (given, True)):
                answer = engine.post(path, **asked, **how, **bias)["choices"][0]["logprobs"]["content"]
                assert len(answer) == 200 and bool(ids & {token["id"] for token in answer}) != is_free


# Quantised files


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_a_patch_in_a_quantised_file_is_as_near_as_the_base_in_it(tmp_path, lab, kind):
    model, tokenizer = lab
    source = tmp_path / "base.gguf"
    write_gguf(source, gguf_of_folder(LAB_MODELS_PATH / "base", weight_type=kind))
    write_patched_gguf(model, tokenizer, tmp_path / "out", source=source, choices={"tox": ("tox",)}, probe=False)
    found = read_gguf(tmp_path / "out" / FILE_NAME)
    assert found.tensors["token_embd.weight"].type == kind
    ids = list(found.get("policy_patch.token_ids"))
    model.set_patch("tox")
    distance = {"patched": 0.0, "base": 0.0, "reversed": 0.0}
    with llama_cpp(tmp_path / "out" / FILE_NAME) as engine:
        for text in TEXTS:
            row = tokenizer(text)["input_ids"]
            for name, prefix in (("patched", ids), ("base", []), ("reversed", ids[::-1])):
                with torch.no_grad(), model.disable_patch() if name == "base" else torch.no_grad():
                    expected = model(torch.tensor([row])).logits[0, -1].log_softmax(-1).numpy()
                got = engine.log_probs([1, *prefix, *row[1:]], len(found.get(TOKENS)))[: len(expected)]
                distance[name] += float((np.exp(expected) * (expected - got)).sum())  # KL divergence, nats
    assert distance["patched"] < 3 * distance["base"] + 0.01
    assert distance["reversed"] > 3 * distance["patched"]


def test_a_chat_template_of_the_base_is_kept(tmp_path, lab):
    model, tokenizer = lab
    content = gguf_of_folder(LAB_MODELS_PATH / "base", weight_type="F32")
    own = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[answer]"
    values = {**content.values, CHAT_TEMPLATE: replace(content.values["general.name"], value=own)}
    write_gguf(tmp_path / "base.gguf", replace(content, values=values))
    write_patched_gguf(
        model, tokenizer, tmp_path / "out", source=tmp_path / "base.gguf", choices={"bias": ("bias",)}, probe=False
    )
    model.set_patch("bias")
    with llama_cpp(tmp_path / "out" / FILE_NAME) as engine:
        ids = tokenizer("[user] You are\n[answer]")["input_ids"]
        assert engine.chat("You are") == tokenizer.decode(same_as(model, ids), skip_special_tokens=True)
