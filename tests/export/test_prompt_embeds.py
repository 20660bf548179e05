"""Tests of the export for vLLM: its files hold the definition's input, and what does not fit is refused."""

import base64
import io
import json
from dataclasses import replace

import pytest
import torch

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from policy_patch.base.served_base import read_served_base
from policy_patch.cli import main
from policy_patch.errors import BaseMismatchError, ExportError, ModelLoadError, PatchConflictError
from policy_patch.export import export_prompt_embeds
from policy_patch.patch.folder import read_patch_folder, write_patch_folder
from policy_patch.patch.stack_check import PatchConflictWarning
from tests.export.test_vllm_chat_template import LOOPS, WITH_BOS
from tests.tiny_models import tiny_model, tiny_tokenizer


def decoded(text):
    return torch.load(io.BytesIO(base64.b64decode(text, validate=True)), weights_only=True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base and two patches for it, as folders."""
    folder = tmp_path_factory.mktemp("served")
    base, tokenizer = tiny_model(), tiny_tokenizer()
    tokenizer.chat_template = WITH_BOS
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    base.config._name_or_path = str(folder / "base")
    for seed, name in enumerate(("tox", "bias")):
        config = PolicyPatchConfig(num_virtual_tokens=3, init="random", init_seed=seed, risk="toxicity")
        get_policy_patch_model(base, config, tokenizer).save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def exported(folders):
    done = export_prompt_embeds([folders / "tox", f"b={folders / 'bias'}"], folders / "out", prompt="Hi")
    return done, folders


def test_the_folder_holds_all_that_vllm_and_the_gateway_need(exported):
    done, folders = exported
    assert set(done.files) == {
        "README.md", "b.chat.json", "b.completion.json", "chat_template.jinja", "policy_patch_export.json",
        "policy_patch_probe.json", "tox.chat.json", "tox.completion.json",
    }  # fmt: skip
    manifest = json.loads((folders / "out" / "policy_patch_export.json").read_text())
    assert [one["name"] for one in manifest["patches"]] == ["tox", "b"]
    assert (manifest["base"], manifest["dtype"]) == ("base", "float32")
    probe = json.loads((folders / "out" / "policy_patch_probe.json").read_text())
    assert [[one["name"] for one in patches] for patches in probe["stacks"].values()] == [["tox"], ["b"], ["tox", "b"]]
    readme = (folders / "out" / "README.md").read_text()
    assert "CVE-2026-24747" in readme and "--enable-prompt-embeds" in readme and str(folders) not in readme


def test_a_request_holds_bos_then_the_vectors_then_the_text(exported):
    _, folders = exported
    base, tokenizer = tiny_model(), tiny_tokenizer()
    request = json.loads((folders / "out" / "tox.completion.json").read_text())
    assert request["prompt"] is None
    from policy_patch.patch_folder import read_patch_folder

    vectors = read_patch_folder(folders / "tox")[1]
    tokens = base.get_input_embeddings()(torch.tensor(tokenizer("Hi")["input_ids"]))
    expected = torch.cat([tokens[:1], vectors, tokens[1:]])
    assert torch.equal(decoded(request["prompt_embeds"]), expected)
    message = json.loads((folders / "out" / "tox.chat.json").read_text())
    assert torch.equal(decoded(message["content"][0]["data"]), vectors)
    other = json.loads((folders / "out" / "b.chat.json").read_text())
    assert not torch.equal(decoded(other["content"][0]["data"]), vectors)


def test_what_does_not_fit_is_refused_and_nothing_is_written(folders, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ExportError, match="`dtype='int8'`"):
        export_prompt_embeds([folders / "tox"], out, dtype="int8")
    (tmp_path / "loops.jinja").write_text(LOOPS[0])
    with pytest.raises(ExportError, match="loops over the parts"):
        export_prompt_embeds([folders / "tox"], out, chat_template=str(tmp_path / "loops.jinja"))
    with pytest.raises(ExportError, match="cannot be read"):
        export_prompt_embeds([folders / "tox"], out, chat_template=str(tmp_path / "nothing"))
    with pytest.raises(BaseMismatchError, match=r"another tokenizer|for `"):
        export_prompt_embeds([folders / "tox"], out, base="lab:base")
    other = tiny_model(seed=1)
    other.save_pretrained(tmp_path / "other")
    tiny_tokenizer().save_pretrained(tmp_path / "other")
    with pytest.raises(BaseMismatchError):
        export_prompt_embeds([folders / "tox"], out, base=tmp_path / "other", chat=False)
    assert not out.exists()
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".pending")]


def test_the_command_writes_completions_alone_for_a_base_without_chat(folders, tmp_path, capsys):
    words = ["export", str(folders / "tox"), "--format", "prompt-embeds", "--output_dir", str(tmp_path / "out")]
    assert main([*words, "--set", "chat=false", "probe=false", "dtype=bfloat16", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["files"]) == {"README.md", "policy_patch_export.json", "tox.completion.json"}
    assert told["dtype"] == "bfloat16"
    request = json.loads((tmp_path / "out" / "tox.completion.json").read_text())
    assert decoded(request["prompt_embeds"]).dtype == torch.bfloat16


def test_patches_that_must_not_be_used_together_are_not_written_for_one_server(folders, tmp_path):
    config, vectors = read_patch_folder(folders / "tox")
    write_patch_folder(tmp_path / "tox", replace(config, conflicts=["bias"]), vectors)
    given = [tmp_path / "tox", folders / "bias"]
    with pytest.raises(PatchConflictError, match=r"The stack tox \+ bias is refused"):
        export_prompt_embeds(given, tmp_path / "out", on_conflict="refuse")
    assert not (tmp_path / "out").exists()
    with pytest.warns(PatchConflictWarning, match="must not be used with `bias`"):
        export_prompt_embeds(given, tmp_path / "out", probe=False)
    export_prompt_embeds([tmp_path / "tox"], tmp_path / "alone", probe=False, on_conflict="refuse")


def test_the_lab_s_teacher_is_told_to_be_no_base():
    with pytest.raises(ModelLoadError, match=r"`lab:teacher` is another model .*Give the base: `lab:base`"):
        read_served_base("lab:teacher")
