"""Tests of `gguf_baked`: a baked checkpoint is converted with its tokens, and one that was changed is refused.

That llama.cpp computes the same with it is tested in `tests/engines/test_llama_cpp_kinds.py`.
"""

import json
import shutil

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from policy_patch.cli import main
from policy_patch.errors import ExportError
from policy_patch.export import bake
from policy_patch.export.baking import RECORD_NAME
from policy_patch.export.gguf_baked import baked_gguf, is_baked
from policy_patch.export.gguf_file import read_gguf
from policy_patch.export.gguf_rows import numbers
from policy_patch.export.gguf_vocabulary import CHAT_TEMPLATE, CONTROL, TYPES
from tests.export.gguf_bases import gguf_base, patched, saved


@pytest.fixture(scope="module")
def baked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("baked")
    saved(*gguf_base("llama"), folder / "base")
    base, tokenizer = (kind.from_pretrained(folder / "base") for kind in (AutoModelForCausalLM, AutoTokenizer))
    model = patched(base.eval(), tokenizer, tox=3, bias=2)
    bake(model, tokenizer, folder / "out", patches=["tox", "bias", ("tox", "bias")])
    return model, folder / "out"


def test_a_bake_is_converted_with_its_tokens(baked, tmp_path, capsys):
    model, folder = baked
    assert is_baked(folder) and not is_baked(tmp_path)
    assert main(["export", str(folder), "--format", "gguf", "--output_dir", str(tmp_path / "out"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["choices"] == ["tox", "bias", "tox+bias"] and facts["default"] == "tox"
    assert {"model.gguf", "llama_cpp.args", "policy_patch_probe.json"} == set(facts["files"])
    found = read_gguf(tmp_path / "out" / "model.gguf")
    rows = np.concatenate([numbers(found.tensors["token_embd.weight"], one, one + 1) for one in facts["token_ids"]])
    vectors = np.concatenate([model.patches[name].detach().numpy() for name in ("tox", "bias")])
    assert np.array_equal(rows, vectors) and not np.array_equal(rows, vectors[::-1])
    assert [found.get(TYPES)[one] for one in facts["token_ids"]] == [CONTROL] * 5
    assert json.loads(found.get("policy_patch.patch.1"))["name"] == "bias"
    assert found.get("policy_patch.token_ids") == facts["token_ids"]
    assert "policy_patch_prefixes" in found.get(CHAT_TEMPLATE)
    assert f"-l {facts['token_ids'][-1]}-inf" in (tmp_path / "out" / "llama_cpp.args").read_text()


def test_a_bake_that_was_changed_is_refused(baked, tmp_path):
    shutil.copytree(baked[1], tmp_path / "changed")
    record = json.loads((tmp_path / "changed" / RECORD_NAME).read_text())
    record["patches"]["tox"]["ids"][0] = 50
    (tmp_path / "changed" / RECORD_NAME).write_text(json.dumps(record))
    with pytest.raises(ExportError, match=r"the token 50 is .* Bake again"):
        baked_gguf(tmp_path / "changed", tmp_path / "out")
    assert not (tmp_path / "out").exists()
