"""Tests of `policy-patch bake`: one patch, several by name, stacks, and what is told about it."""

import json
from dataclasses import replace

import pytest

from policy_patch.cli import main
from policy_patch.cli.bake import shown
from policy_patch.export import read_patch_tokens
from policy_patch.patch.folder import read_patch_folder, write_patch_folder

FAST = ["--probe", "false"]


def test_a_patch_is_baked_into_the_base_that_it_names(patch_folder, tmp_path, capsys):
    assert main(["bake", str(patch_folder), "--output_dir", str(tmp_path / "out"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["choices"] == {"tox-patch": ["tox-patch"]} and facts["vectors"] == 4
    assert facts["rows"] == {"slack": 0, "reserved": 0, "added": 4} and facts["unties"]
    assert facts["difference"] <= 0.1 and facts["bound"] == 4 / 1540
    assert read_patch_tokens(tmp_path / "out").default == "tox-patch"
    assert (tmp_path / "out" / "policy_patch_probe.json").is_file()
    assert json.loads((tmp_path / "out" / "policy_patch_bake.json").read_text())["base"] == "lab:base"


def test_several_patches_are_choices_and_a_stack_is_one_too(patch_folder, tmp_path, capsys):
    words = [f"a={patch_folder}", f"b={patch_folder}", "--stack", "b+a", "--default", "b", "--dtype", "float32", *FAST]
    assert main(["bake", *words, "--output_dir", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert "a, b, b+a, none; default b" in out and "the mean of all rows" in out
    assert "Loading lab:base" in err and "suppression/README.md" in err
    tokens = read_patch_tokens(tmp_path / "out")
    assert tokens.ids_of("b+a") == tokens.ids_of("b") + tokens.ids_of("a")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--base", "lab:bse"], "There is no model `lab:bse`"),
    ],
)
def test_bad_input_is_told_in_one_line(patch_folder, words, message, tmp_path, capsys):
    assert main(["bake", f"a={patch_folder}", *words, "--output_dir", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("patch", "words", "message"),
    [
        ("a", ["--stack", "a+nox"], "`a+nox` stands for ['a', 'nox']; expected one or several different patches"),
        ("a", ["--default", "nox"], "`default='nox'`; expected one of a"),
        ("none", [], "A patch is called `none`, which means the base alone"),
        ("a", ["--chat_template", "no.jinja"], "cannot be read"),
        ("a", ["--output_dir", "full"], "`full` holds files; nothing there is overwritten"),
    ],
)
def test_what_the_words_alone_show_is_told_before_the_base_is_loaded(
    patch_folder, patch, words, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    monkeypatch.setattr("policy_patch.recipes.models.load_model", lambda *_, **__: pytest.fail("the base was loaded"))
    assert main(["bake", f"{patch}={patch_folder}", "--output_dir", "out", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_base_without_chat_template_can_be_given_one(patch_folder, tmp_path, capsys):
    (tmp_path / "chat.jinja").write_text("{{ bos_token }}{{ messages[0].content }}")
    words = ["bake", f"a={patch_folder}", "--output_dir", str(tmp_path / "out"), "--json", *FAST]
    assert main([*words, "--chat_template", str(tmp_path / "chat.jinja")]) == 0
    assert json.loads(capsys.readouterr().out)["has_chat_template"]
    assert (tmp_path / "out" / "chat_template.jinja").is_file()
    assert main([*words, "--chat_template", str(tmp_path / "no.jinja")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_two_patches_of_one_name_are_refused(patch_folder, tmp_path, capsys):
    assert main(["bake", str(patch_folder), str(patch_folder), "--output_dir", str(tmp_path / "out")]) == 2
    assert "Two patches have one name" in capsys.readouterr().err


@pytest.mark.parametrize("head", ["unchanged", "bias", "layer norm", "centroid"])
def test_people_are_told_about_every_kind_of_head(head):
    facts = {
        "choices": {"tox": ["tox"]}, "default": "tox", "vectors": 3, "rows": {"slack": 1, "reserved": 2, "added": 0},
        "head": head, "extra_bytes": 1234, "unties": False, "compared": 3, "difference": 0.0, "bound": 0.0,
        "largest_mass": 0.0, "has_chat_template": False,
    }  # fmt: skip
    lines = dict(shown(facts))
    assert lines["vectors"] == "3: 3 unused rows of the base (2 reserved tokens), 0 added rows"
    assert lines["size"] == "+1,234 bytes" and "no choice" in lines["chat"]


def test_a_stack_that_breaks_a_rule_is_refused_and_its_patches_apart_are_not(patch_folder, tmp_path, capsys):
    config, vectors = read_patch_folder(patch_folder)
    write_patch_folder(tmp_path / "tox", replace(config, conflicts=["bias"]), vectors)
    words = ["bake", f"tox={tmp_path / 'tox'}", f"bias={patch_folder}", "--on_conflict", "refuse", *FAST]
    assert main([*words, "--stack", "tox+bias", "--output_dir", str(tmp_path / "out")]) == 1
    assert "The stack tox + bias is refused" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert main([*words, "--output_dir", str(tmp_path / "out")]) == 0
