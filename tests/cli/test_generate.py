"""Tests of `policy-patch generate`: patched and plain side by side, stacks, and prompts as they are."""

import json

import pytest

from policy_patch.cli import main

FAST = ["--max_new_tokens", "5"]


def generated(words, capsys):
    assert main(["generate", *words, *FAST, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_base_is_the_one_that_the_patch_names(patch_folder, capsys):
    rows = generated([str(patch_folder), "--prompt", "Anna is", "--compare"], capsys)
    assert [list(row) for row in rows] == [["prompt", "base", "patched"]]
    assert rows[0]["base"] != rows[0]["patched"]
    assert rows == generated([str(patch_folder), "--base", "lab:base", "--prompt", "Anna is", "--compare"], capsys)


def test_prompts_are_taken_as_they_are_from_words_and_files(patch_folder, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("from a file\n")
    words = ["--prompt", "a, b: [c] {d}", "3", "null", "--prompts", str(tmp_path / "prompts.txt"), "--num_samples", "2"]
    rows = generated([str(patch_folder), *words], capsys)
    assert [row["prompt"] for row in rows[::2]] == ["a, b: [c] {d}", "3", "null", "from a file"]


def test_several_patches_are_a_stack(patch_folder, capsys):
    one = generated([str(patch_folder), "--prompt", "Anna is"], capsys)
    two = generated([str(patch_folder), str(patch_folder), "--prompt", "Anna is"], capsys)
    assert one != two


def test_a_seed_gives_the_same_text_again_and_another_seed_another_one(patch_folder, capsys):
    first = generated([str(patch_folder), "--prompt", "Anna is"], capsys)
    assert first == generated([str(patch_folder), "--prompt", "Anna is", "--seed", "0"], capsys)
    assert first != generated([str(patch_folder), "--prompt", "Anna is", "--seed", "1"], capsys)


def test_for_people_it_is_a_table_and_messages_are_apart(patch_folder, capsys):
    assert main(["generate", str(patch_folder), "--prompt", "Anna is", *FAST]) == 0
    out, err = capsys.readouterr()
    assert "Anna is" in out
    assert "Loading lab:base" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "There is no prompt"),
        (["--prompt", "x", "--base", "lab:bse"], "There is no model `lab:bse`; the lab has lab:base and lab:teacher"),
        (["--prompt", "x", "--base", "no/such-model"], "Cannot load the model `no/such-model`"),
        (["--prompts", "nowhere.txt"], "Cannot read `nowhere.txt`"),
        (["--prompt", "x", "--num_samples", "0"], "`num_samples=0`: expected at least 1"),
    ],
)
def test_bad_input_is_told_in_one_line(patch_folder, words, message, capsys):
    assert main(["generate", str(patch_folder), *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
