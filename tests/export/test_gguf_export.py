"""Tests of `export_gguf` without an engine: the file holds the vectors, and whatever is not the base is refused.

What llama.cpp makes of the file is tested in `tests/engines/test_llama_cpp.py`.
"""

import errno
import json
from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from policy_patch.answers.served_probe import PROBE_NAME
from policy_patch.cli import main
from policy_patch.errors import BaseMismatchError, ConfigError, ExportError, PatchConflictError, PatchNameError
from policy_patch.export import export_gguf
from policy_patch.export.gguf_edit import ARGUMENTS_NAME, FILE_NAME
from policy_patch.export.gguf_export import write_patched_gguf
from policy_patch.export.gguf_file import read_gguf, write_gguf
from policy_patch.export.gguf_folder import gguf_of_folder
from policy_patch.export.gguf_rows import numbers
from policy_patch.export.gguf_vocabulary import CHAT_TEMPLATE, TOKENS
from policy_patch.lab import lab_patch_folder
from policy_patch.patch.folder import read_patch_folder, write_patch_folder
from tests.export.gguf_bases import bpe_tokenizer, gguf_base, gguf_file, patched, saved
from tests.export.test_gguf_rows import table


def written(tmp_path, family="llama", kind="F32", spare=0, **more):
    """Write two patches into a tiny base's GGUF; return model, what was written and the file's content."""
    base, tokenizer = gguf_base(family, spare=spare)
    source = gguf_file(tmp_path / "base.gguf", base, tokenizer, kind)
    tokenizer = AutoTokenizer.from_pretrained(source.with_suffix(".base"))  # Qwen's gets a token of its own there
    model = patched(base, tokenizer, tox=3, bias=2)
    done = write_patched_gguf(model, tokenizer, tmp_path / "out", source=source, probe=False, **more)
    return model, done, read_gguf(tmp_path / "out" / FILE_NAME)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2", "qwen3"])
def test_the_rows_of_the_file_are_the_vectors(tmp_path, family):
    model, done, found = written(tmp_path, family)
    ids = done.facts["token_ids"]
    rows = np.concatenate([numbers(found.tensors["token_embd.weight"], one, one + 1) for one in ids])
    vectors = torch.cat([model.patches["tox"], model.patches["bias"]]).detach().numpy()
    assert np.array_equal(rows, vectors) and done.facts["error_of_stored_vectors"] == 0
    assert not np.array_equal(rows, vectors[::-1])
    arguments = (tmp_path / "out" / ARGUMENTS_NAME).read_text().split()
    assert arguments == [*(word for one in ids for word in ("-l", f"{one}-inf")), "--no-prefill-assistant"]
    assert done.facts["choices"] == ["tox", "bias"] and done.facts["default"] == "tox"
    assert sorted(done.files) == sorted(path.name for path in (tmp_path / "out").iterdir())
    assert done.facts["rows_added"] + done.facts["rows_reused"] == 5


@pytest.mark.parametrize(("kind", "most"), [("F16", 1e-3), ("BF16", 4e-3), ("Q8_0", 0.01), ("Q4_0", 0.12)])
def test_in_quantised_files_the_rows_have_the_type_of_the_table(tmp_path, kind, most):
    _, done, found = written(tmp_path, kind=kind)
    assert found.tensors["token_embd.weight"].type == done.facts["embedding_type"] == kind
    assert 0 < done.facts["error_of_stored_vectors"] < most


def test_unused_rows_are_taken_first_and_then_the_head_is_as_it_was(tmp_path):
    _, done, found = written(tmp_path, spare=4)
    before = read_gguf(tmp_path / "base.gguf")
    assert (done.facts["rows_reused"], done.facts["rows_added"]) == (4, 1)
    assert np.array_equal(numbers(found.tensors["output.weight"])[:-1], numbers(before.tensors["output.weight"]))
    base, tokenizer = gguf_base("llama", spare=5)
    source = gguf_file(tmp_path / "more.gguf", base, tokenizer)
    model = patched(base, tokenizer, tox=3, bias=2)
    done = write_patched_gguf(model, tokenizer, tmp_path / "exact", source=source, probe=False)
    assert (done.facts["rows_reused"], done.facts["bound"]) == (5, 0)
    after = read_gguf(tmp_path / "exact" / FILE_NAME)
    assert (
        after.tensors["output.weight"].load().tobytes() == read_gguf(source).tensors["output.weight"].load().tobytes()
    )


def test_the_bound_is_that_of_the_mean_row_and_a_layer_norm_leaves_nothing(tmp_path):
    model, done, found = written(tmp_path)
    total = model.get_input_embeddings().weight.shape[0]
    assert done.facts["bound"] == 5 / (5 + total)
    mean = model.get_base_model().get_output_embeddings().weight.mean(dim=0).detach()
    assert np.allclose(numbers(found.tensors["output.weight"], total), mean, atol=1e-6)
    (tmp_path / "norm").mkdir()
    base, tokenizer = gguf_base("gpt2")
    torch.nn.init.normal_(base.transformer.ln_f.bias)
    model = patched(base, tokenizer, tox=3)
    source = saved(base, tokenizer, tmp_path / "norm" / "base")
    done = write_patched_gguf(model, tokenizer, tmp_path / "norm" / "out", source=source, probe=False)
    assert done.facts["bound"] == 0


def test_a_table_of_k_quants_becomes_f16_and_all_other_weights_keep_their_bytes(tmp_path):
    tokenizer = bpe_tokenizer()
    rows = table("Q6_K", rows=len(tokenizer))
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True,
    )  # fmt: skip
    base = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        base.get_input_embeddings().weight.copy_(torch.from_numpy(numbers(rows)))
    content = gguf_of_folder(saved(base, tokenizer, tmp_path / "base"), weight_type="Q8_0")
    content.tensors["token_embd.weight"] = rows
    write_gguf(tmp_path / "k.gguf", content)
    model = patched(base, tokenizer, tox=3)
    done = write_patched_gguf(model, tokenizer, tmp_path / "out", source=tmp_path / "k.gguf", probe=False)
    found = read_gguf(tmp_path / "out" / FILE_NAME)
    assert done.facts["embedding_type"] == "F16" and done.facts["error_of_stored_vectors"] < 1e-3
    for name, tensor in content.tensors.items():
        if name != "token_embd.weight":
            assert found.tensors[name].load().tobytes() == tensor.load().tobytes()


def test_the_base_of_the_patches_is_loaded_and_its_checkpoint_converted(tmp_path, capsys):
    toxicity, bias = lab_patch_folder("toxicity"), lab_patch_folder("gender_bias")
    words = ["export", f"tox={toxicity}", f"bias={bias}", "--format", "gguf", "--output_dir", str(tmp_path / "out")]
    assert main([*words, "--set", "stacks=tox+bias", "default=bias", "probe=false", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["choices"] == ["tox", "bias", "tox+bias"] and facts["default"] == "bias"
    found = read_gguf(tmp_path / "out" / FILE_NAME)
    told = json.loads(found.get("policy_patch.patch.0"))
    assert told["name"] == "tox" and told["version"] == "0.1.0" and len(told["sha256"]) == 64
    assert json.loads(found.get("policy_patch.base"))["name"] == "lab:base"
    assert len(found.get(TOKENS)) == found.tensors["token_embd.weight"].rows == 1536 + 150
    assert "policy_patch_prefixes" in found.get(CHAT_TEMPLATE)


def test_a_probe_is_recorded_with_the_default_first(tmp_path):
    base, tokenizer = gguf_base("llama")
    model = patched(base, tokenizer, tox=3, bias=2)
    source = saved(base, tokenizer, tmp_path / "base")
    done = write_patched_gguf(model, tokenizer, tmp_path / "out", source=source, default="bias")
    probe = json.loads((tmp_path / "out" / PROBE_NAME).read_text())
    assert PROBE_NAME in done.files and list(probe["stacks"]) == ["bias", "tox"] and "chat" in probe["rows"]


def test_other_bases_and_wrong_arguments_are_refused_and_leave_nothing(tmp_path):
    base, tokenizer = gguf_base("llama")
    model = patched(base, tokenizer, tox=3)
    right = gguf_file(tmp_path / "right.gguf", base, tokenizer)
    wrong = gguf_file(tmp_path / "wrong.gguf", *gguf_base("llama", seed=1))
    out = tmp_path / "out"
    for source, more, error, message in (
        (wrong, {}, BaseMismatchError, "is not of this base: `token_embd.weight` differs"),
        (wrong.with_suffix(".base"), {}, BaseMismatchError, "is not of this base"),
        (right, {"weight_type": "Q8_0"}, ExportError, "the types of a GGUF stay as they are"),
        (right, {"choices": {"both": ("tox", "bias")}}, ExportError, "expected one or several different patches"),
        (right, {"default": "bias"}, ExportError, "`default='bias'`"),
        (tmp_path / "missing.gguf", {}, ExportError, "cannot be read as GGUF"),
    ):
        with pytest.raises(error, match=message):
            write_patched_gguf(model, tokenizer, out, source=source, probe=False, **more)
        assert not out.exists()
    out.mkdir()
    (out / "mine").write_text("x")
    with pytest.raises(ExportError, match="holds files"):
        write_patched_gguf(model, tokenizer, out, source=right, probe=False)


def test_a_base_that_was_changed_in_memory_is_not_its_checkpoint(tmp_path):
    base, tokenizer = gguf_base("llama")
    folder = saved(base, tokenizer, tmp_path / "base")
    with torch.no_grad():
        base.model.layers[0].mlp.up_proj.weight.mul_(1.1)
    with pytest.raises(BaseMismatchError, match=r"`blk.0.ffn_up.weight` differs"):
        write_patched_gguf(patched(base, tokenizer, tox=3), tokenizer, tmp_path / "out", source=folder, probe=False)


def test_vectors_before_bos_are_refused(tmp_path):
    base, tokenizer = gguf_base("llama")
    model = patched(base, tokenizer, tox=3)
    source = gguf_file(tmp_path / "base.gguf", base, tokenizer)
    model.patch_config["tox"].placement = "before_bos"
    with pytest.raises(ExportError, match=r"go before the BOS token.*after_bos"):
        write_patched_gguf(model, tokenizer, tmp_path / "out", source=source, probe=False)
    model.add_patch("bias", model.patch_config["tox"], tokenizer=tokenizer)
    model.patch_config["tox"].placement = "after_bos"
    with pytest.raises(ConfigError, match="A stack needs one `placement`"):
        write_patched_gguf(model, tokenizer, tmp_path / "out", source=source, probe=False)


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    base, tokenizer = gguf_base("llama")
    source = gguf_file(tmp_path / "base.gguf", base, tokenizer)
    model, before = patched(base, tokenizer, tox=3), sorted(tmp_path.iterdir())

    def full(*arguments, **more):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", full)
    with pytest.raises(ExportError, match="No space left on device"):
        write_patched_gguf(model, tokenizer, tmp_path / "out", source=source, probe=False)
    assert sorted(tmp_path.iterdir()) == before


def test_no_patch_and_two_of_a_name_are_refused(tmp_path):
    with pytest.raises(PatchNameError, match="No patch is given"):
        export_gguf([], tmp_path / "out")
    with pytest.raises(PatchNameError, match="have the name `tox`"):
        export_gguf([f"tox={lab_patch_folder(risk)}" for risk in ("toxicity", "gender_bias")], tmp_path / "out")


def test_a_stack_that_breaks_a_rule_is_refused_and_its_patches_apart_are_not(tmp_path):
    config, vectors = read_patch_folder(lab_patch_folder("toxicity"))
    write_patch_folder(tmp_path / "tox", replace(config, conflicts=["risk:gender_bias"]), vectors)
    given = [f"tox={tmp_path / 'tox'}", f"bias={lab_patch_folder('gender_bias')}"]
    options = {"probe": False, "on_conflict": "refuse"}
    with pytest.raises(PatchConflictError, match=r"The stack bias \+ tox is refused"):
        export_gguf(given, tmp_path / "out", stacks="bias+tox", **options)
    assert not (tmp_path / "out").exists()
    export_gguf(given, tmp_path / "out", **options)
