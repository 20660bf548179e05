"""Baked checkpoints in transformers 4.57: the same ids, logits and greedy tokens as in this version.

It needs that version in a folder of its own: `pip install --no-deps --target FOLDER transformers==4.57.6
"tokenizers<=0.23.0" "huggingface_hub<1"`, and `POLICY_PATCH_TRANSFORMERS_4=FOLDER`.
"""

import json
import os
import subprocess
import sys

import pytest
import torch

from policy_patch.export import bake
from tests.export.bases import BASES, patched, save_base

FOLDER = os.environ.get("POLICY_PATCH_TRANSFORMERS_4", "")
pytestmark = pytest.mark.skipif(not FOLDER, reason="POLICY_PATCH_TRANSFORMERS_4 names no folder with transformers 4.57")

READER = """
import json, sys
import torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

def read(folder):
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    found = {}
    for choice in (None, "bias", "off"):
        variables = {} if choice is None else {"patch": choice}
        messages = [{"role": "user", "content": "Hello there, "}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **variables)
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            logits = model(ids, use_cache=False).logits[0, -1]
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        plain = tokenizer(" import os")["input_ids"]
        found[str(choice)] = {"ids": ids[0].tolist(), "plain": plain, "logits": logits.tolist(), "out": out[0].tolist()}
    return found

if __name__ == "__main__":
    json.dump({"version": transformers.__version__, **{f: read(f) for f in sys.argv[1:]}}, sys.stdout)
"""


def with_large_theta(folder):
    """Make a base whose rotary embeddings transformers 4 reads wrongly from a configuration of transformers 5."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["rope_parameters"]["rope_theta"] = 500.0
    path.write_text(json.dumps(config))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Return for each checkpoint what this version and the older one read, and the older one's number."""
    folders, here = {}, {}
    names = {}
    exec(compile(READER, "reader", "exec"), names)  # the text above
    for name in [*BASES, "large theta", "control"]:
        folder = tmp_path_factory.mktemp("v4")
        save_base(folder / "base", name if name in BASES else "llama untied")
        if name not in BASES:
            with_large_theta(folder / "base")
        model, tokenizer = patched(folder / "base", "tox", "bias")
        folders[name] = str(bake(model, tokenizer, folder / "baked", patches=["tox", "bias"], probe=False).folder)
        here[name] = names["read"](folders[name])
        if name == "control":
            path = os.path.join(folders[name], "config.json")
            with open(path) as file:
                config = json.load(file)
            del config["rope_theta"]
            with open(path, "w") as file:
                json.dump(config, file)
    command = [sys.executable, "-c", READER, *folders.values()]
    out = subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": FOLDER})
    there = json.loads(out.stdout)
    return here, {name: there[folder] for name, folder in folders.items()}, there["version"]


def off(one, other):
    pairs = [(torch.tensor(one[choice]["logits"]), torch.tensor(other[choice]["logits"])) for choice in one]
    return max(float((first - second).abs().max()) for first, second in pairs)


def test_it_is_the_older_version(both):
    assert both[2].startswith("4.57")


@pytest.mark.parametrize("name", [*BASES, "large theta"])
def test_ids_logits_and_greedy_tokens_are_the_same(name, both):
    here, there, _ = both
    for choice, found in here[name].items():
        for key in ("ids", "plain", "out"):
            assert there[name][choice][key] == found[key], (choice, key)
    assert off(here[name], there[name]) <= 1e-5


def test_the_control_without_the_old_keys_is_far_off(both):
    here, there, _ = both
    assert off(here["control"], there["control"]) > 0.1
