"""Baked checkpoints in engines that know nothing of patches: the greedy tokens are the patched model's.

Three patches of the lab, their stack and none, in CTranslate2, ONNX Runtime GenAI and `transformers serve`.
"""

import json
import subprocess
import sys
import urllib.request

import pytest
import torch

from policy_patch import PolicyPatchModel
from policy_patch.export import bake
from policy_patch.lab import lab_patch_folder, load_lab_base, load_lab_tokenizer
from tests.loopback import transformers_serve

PATCHES = ["toxicity", "gender_bias", "harmfulness"]
STACK = tuple(PATCHES)
CHOICES = [*PATCHES, "+".join(STACK), "off"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}Answer:{% endif %}"
)
MESSAGES = [{"role": "user", "content": "Everyone knows that Anna is"}]
NEW = 16


@pytest.fixture(scope="module")
def baked(tmp_path_factory):
    """Return the folder of a baked checkpoint, its tokenizer and what the patched model writes for each choice."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("engines")
    tokenizer = load_lab_tokenizer()
    tokenizer.chat_template = TEMPLATE
    load_lab_base().save_pretrained(folder / "base")  # in fp32, as the engines compute
    tokenizer.save_pretrained(folder / "base")
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    model = PolicyPatchModel.from_pretrained(base, [lab_patch_folder(risk) for risk in PATCHES], PATCHES).eval()
    done = bake(model, tokenizer, folder / "baked", patches=[*PATCHES, STACK], probe=False)
    row = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    expected = {}
    for choice in CHOICES:
        names = [done.tokens.choices.get(choice, "__base__")]
        out = model.generate(**row, patch_names=names, max_new_tokens=NEW, do_sample=False, pad_token_id=0)
        expected[choice] = out[0, row["input_ids"].shape[1] :].tolist()
    assert len({tuple(ids) for ids in expected.values()}) >= 4, "the control: the choices write different texts"
    return folder / "baked", AutoTokenizer.from_pretrained(folder / "baked"), expected


def prompt_ids(tokenizer, choice):
    return tokenizer.apply_chat_template(MESSAGES, patch=choice, add_generation_prompt=True, return_dict=False)


def without_end(ids):
    return ids[: ids.index(2)] if 2 in ids else ids


def test_ctranslate2(baked, tmp_path):
    engine = pytest.importorskip("ctranslate2", reason="CTranslate2 is not installed: `pip install ctranslate2`")
    folder, tokenizer, expected = baked
    engine.converters.TransformersConverter(str(folder)).convert(str(tmp_path / "out"))
    generator = engine.Generator(str(tmp_path / "out"), compute_type="float32", intra_threads=1)
    suppressed = json.loads((folder / "suppression" / "ctranslate2.json").read_text())
    prompts = [tokenizer.convert_ids_to_tokens(prompt_ids(tokenizer, choice)) for choice in CHOICES]
    results = generator.generate_batch(
        prompts, max_length=NEW, sampling_topk=1, include_prompt_in_result=False, **suppressed
    )
    found = {choice: result.sequences_ids[0] for choice, result in zip(CHOICES, results)}
    assert found == {choice: without_end(ids) for choice, ids in expected.items()}


def test_onnxruntime_genai(baked, tmp_path):
    engine = pytest.importorskip("onnxruntime_genai", reason="not installed: `pip install onnxruntime-genai`")
    for needed in ("onnx", "onnx_ir"):
        pytest.importorskip(needed, reason=f"onnxruntime-genai builds models with `{needed}`, which is not installed")
    folder, tokenizer, expected = baked
    words = ["-i", folder, "-o", tmp_path / "out", "-p", "fp32", "-e", "cpu", "-c", tmp_path / "cache"]
    builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", *map(str, words)]
    subprocess.run(builder, check=True, capture_output=True)
    model = engine.Model(str(tmp_path / "out"))
    for choice in CHOICES:
        ids = prompt_ids(tokenizer, choice)
        parameters = engine.GeneratorParams(model)
        parameters.set_search_options(do_sample=False, max_length=len(ids) + NEW)
        generator = engine.Generator(model, parameters)
        generator.append_tokens(ids)
        found = []
        while not generator.is_done() and len(found) < NEW:
            generator.generate_next_token()
            found.append(int(generator.get_next_tokens()[0]))
        assert without_end(found) == without_end(expected[choice]), choice


@pytest.fixture(scope="module")
def served(baked, tmp_path_factory):
    """Serve the checkpoint with `transformers serve`; yield a function that sends a request."""
    folder, _, _ = baked
    with transformers_serve(folder, tmp_path_factory.mktemp("log") / "serve.log") as address:

        def ask(path, **content):
            body = json.dumps({"model": str(folder), "temperature": 0, "max_tokens": NEW, **content}).encode()
            request = urllib.request.Request(f"{address}/{path}", body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["choices"][0]

        yield ask


def test_transformers_serve_chat_chooses_a_patch(baked, served):
    _, tokenizer, expected = baked
    for choice, ids in expected.items():
        answer = served("chat/completions", messages=MESSAGES, chat_template_kwargs={"patch": choice})
        text = tokenizer.decode(ids, skip_special_tokens=True)
        assert answer["message"]["content"].strip() == text.strip(), choice


def test_transformers_serve_gives_plain_text_the_default(baked, served):
    folder, tokenizer, _ = baked
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    row = tokenizer("The man said", return_tensors="pt")
    with torch.no_grad():
        out = model.generate(**row, max_new_tokens=NEW, do_sample=False, pad_token_id=0)
    text = tokenizer.decode(out[0, row["input_ids"].shape[1] :], skip_special_tokens=True)
    assert served("completions", prompt="The man said")["text"].strip() == text.strip()
    assert row["input_ids"][0, 1:4].tolist() == prompt_ids(tokenizer, "toxicity")[1:4], "the default is in the row"
