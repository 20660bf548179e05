"""Tests of the suppression files: each names every patch token and nothing else, and vLLM's processor does its work."""

import importlib.util
import json
import re
import sys
from types import ModuleType

import torch

from policy_patch.export.suppression import write_suppression
from tests.export.test_patch_tokens import tokens


def test_every_file_names_every_patch_token(tmp_path):
    write_suppression(tokens(), tmp_path)
    folder = tmp_path / "suppression"
    bias = json.loads((folder / "logit_bias.json").read_text())["logit_bias"]
    assert bias == {"10": -100, "11": -100, "12": -100}
    assert (folder / "llama_cpp.args").read_text() == "-l 10-inf -l 11-inf -l 12-inf --no-prefill-assistant\n"
    names = [[name] for name in tokens().name_of.values()]
    assert json.loads((folder / "ctranslate2.json").read_text()) == {"suppress_sequences": names}
    about = (folder / "README.md").read_text()
    assert {path.name for path in folder.iterdir()} - {"README.md"} <= set(re.findall(r"\w+\.\w+", about)) | {
        "vllm_patch_tokens.py"
    }


def test_the_processor_for_vllm_leaves_no_patch_token(tmp_path, monkeypatch):
    write_suppression(tokens(), tmp_path)
    for name in ("vllm", "vllm.v1", "vllm.v1.sample", "vllm.v1.sample.logits_processor"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["vllm.v1.sample.logits_processor"].LogitsProcessor = object
    spec = importlib.util.spec_from_file_location("vllm_patch_tokens", tmp_path / "suppression/vllm_patch_tokens.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    processor = module.NoPatchTokens(None, torch.device("cpu"), False)
    before = torch.randn(3, 20)
    after = processor.apply(before.clone())
    assert torch.isinf(after[:, 10:13]).all() and not processor.is_argmax_invariant()
    assert torch.equal(after[:, :10], before[:, :10]) and torch.equal(after[:, 13:], before[:, 13:])
    assert processor.update_state(None) is None and module.NoPatchTokens.validate_params(None) is None
