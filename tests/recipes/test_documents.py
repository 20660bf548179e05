"""Tests of `recipes.documents`: YAML as the command line reads it, JSON strictly, and back.

What YAML must not hold is tested with the command, in `tests/cli/test_recipe_file.py`, and in `tests/files`.
"""

import math

import pytest
from jsonargparse import ArgumentParser

from policy_patch.errors import ConfigError
from policy_patch.recipes.documents import check_recipe, read_json_recipe, read_yaml_recipe, yaml_text

VALUES = ["1e-2", "1E5", "-.5", "1.", "1_000", "12:30", "2025-01-01", "yes", "on", "~", "null", "'1e-2'", "0x10", "010",
          ".inf", "-.INF", "+1.5e+3", "1e", "e1", "text", "[1e-3, a]", "{a: 1e-3}", "!!float 3"]  # fmt: skip


def test_a_value_is_what_the_command_line_takes_it_for(tmp_path):
    parser = ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_argument("--sft", type=dict, default={})
    for text in VALUES:
        (tmp_path / "recipe.yaml").write_text(f"sft: {{key: {text}}}\n")
        ours = read_yaml_recipe(tmp_path / "recipe.yaml")["sft"]
        theirs = parser.parse_args(["--config", str(tmp_path / "recipe.yaml")]).sft
        assert (ours, [type(one) for one in ours.values()]) == (theirs, [type(one) for one in theirs.values()]), text


def test_what_is_written_is_read_back(tmp_path):
    texts = ["1e-2", "2025-01-01", "yes", "null", "12:30", "", " a", "a: b", "é", "1", "1.5", "two\nlines", "x" * 300]
    values = {
        "texts": texts,
        "numbers": [1, 1e-5, 1e20, -0.5, math.inf],
        "nothing": None,
        "on": True,
        "inner": {"a": {}},
    }
    (tmp_path / "recipe.yaml").write_text(yaml_text(values), encoding="utf-8")
    assert read_yaml_recipe(tmp_path / "recipe.yaml") == values


def test_json_is_read_strictly(tmp_path):
    (tmp_path / "recipe.json").write_text('{"base": "a", "base": "b"}')
    with pytest.raises(ConfigError, match=r"`.*recipe\.json` has .*base"):
        read_json_recipe(tmp_path / "recipe.json")
    (tmp_path / "recipe.json").write_text('{"base": ')
    with pytest.raises(ConfigError, match=r"`.*recipe\.json` is not valid JSON"):
        read_json_recipe(tmp_path / "recipe.json")


def test_what_is_no_yaml_is_told_with_its_line(tmp_path):
    (tmp_path / "recipe.yaml").write_text("base: a\ndpo: {a: [\n")
    with pytest.raises(ConfigError, match=r"`.*recipe\.yaml`, line 3 has what is no YAML"):
        read_yaml_recipe(tmp_path / "recipe.yaml")


def test_another_encoding_and_a_file_that_is_not_there_are_told(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"base: a\noutput_dir: \xfc\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml`, line 2 has the byte 0xfc, which is not UTF-8"):
        check_recipe(tmp_path / "latin.yaml")
    with pytest.raises(ConfigError, match=r"Cannot read the recipe `.*nothing\.yaml`"):
        check_recipe(tmp_path / "nothing.yaml")
