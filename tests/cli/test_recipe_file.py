"""Tests of `cli.recipe_file`: a recipe says one clear thing, or is refused with line and key."""

import pytest

from policy_patch.cli import main, parse
from policy_patch.errors import ConfigError

HEAD = "base: a\noutput_dir: x\n"
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 9)
)


def parsed(tmp_path, text):
    (tmp_path / "recipe.yaml").write_text(HEAD + text)
    return parse(["train", str(tmp_path / "recipe.yaml")])[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: b\n", r"recipe\.yaml`, line 3 has the key `base` twice; expected each key once"),
        ("dpo: {beta: 1, beta: 2}\n", r"line 3 has the key `dpo\.beta` twice"),
        ('dpo:\n  beta: 1\n  "beta": 2\n', r"line 5 has the key `dpo\.beta` twice"),
        ("sft:\n  a:\n  - {b: 1}\n  - {b: 1, b: 2}\n", r"line 6 has the key `sft\.a\.b` twice"),
        ("dpo: {a: " + "[" * 3000 + "]" * 3000 + "}\n", "line 3 has more than 32 values within each other"),
        ("dpo:\n" + "".join(" " * level + " k:\n" for level in range(50)), "more than 32 values within each other"),
        ("dpo: &d {a: *d}\n", r"line 3 has `\*d` within the value of that name, which has no end"),
        ("dpo: {a: &d [[*d]]}\n", r"`\*d` within the value of that name"),
        (BOMB, "has more than 10,000 values, with those of"),
        (f"seed: {2**63}\n", "line 3 has an integer beyond 64 bits in `seed`: 9223372036854775808"),
        (f"sft: {{max_steps: -{2**64}}}\n", r"line 3 has an integer beyond 64 bits in `sft\.max_steps`: -1844674"),
        (f"seed: {'9' * 5000}\n", "line 3 has an integer beyond 64 bits in `seed`: 9999"),
        ("seed: 0x1_0000_0000_0000_0000\n", "an integer beyond 64 bits in `seed`: 0x1_"),
        (f"seed: 0{'7' * 5000}\n", "an integer beyond 64 bits in `seed`: 0777"),
        (f"seed: 0b{'1' * 5000}\n", "an integer beyond 64 bits in `seed`: 0b11"),
        (f"seed: {':'.join(['1'] * 100_000)}\n", "a number of 199,999 characters in `seed`: 1:1:1"),
        (f"seed: {':'.join(['1'] * 100_000)}.5\n", "a number of 200,001 characters in `seed`: 1:1:1"),
        (f"seed: !!int '{'9' * 5000}'\n", "an integer beyond 64 bits in `seed`: 9999"),
        ("seed: 0x_\n", r"recipe\.yaml` has a value that cannot be read: invalid literal"),
        ("seed: !!timestamp 2025-13-01\n", "has a value that cannot be read: month must be in"),
        (f"dpo: {{a: &a {'x' * 100_000}, b: [{', '.join(['*a'] * 50)}]}}\n", "more than 4,194,304 characters, with"),
        ("# " + "x" * 2**20 + "\n", r"recipe\.yaml` has more than 1,048,576 bytes; it was not read"),
    ],
)
def test_what_yaml_takes_without_a_word_is_refused(tmp_path, capsys, text, message):
    with pytest.raises(ConfigError, match=message):
        parsed(tmp_path, text)
    assert main(["train", str(tmp_path / "recipe.yaml")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("policy-patch: `") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [*a]", r"The text of `--config`, line 1 has `\*a` within the value of that name"),
        (BOMB, "The text of `--config`, line 4 has more than 10,000 values"),
        (f"seed: {'9' * 5000}", "The text of `--config`, line 1 has an integer beyond 64 bits in `seed`: 9999"),
        ("seed: 0x_", "The text of `--config` has a value that cannot be read"),
    ],
)
def test_a_text_in_place_of_a_file_is_looked_at_too(text, message):
    with pytest.raises(ConfigError, match=message) as error:
        parse(["train", "--config", text, "--base", "a", "--output_dir", "x"])
    assert len(str(error.value)) < 300


def test_what_is_clear_is_read_as_before(tmp_path):
    found = parsed(
        tmp_path,
        f"sft: &s {{a: 1e-2, b: {2**63 - 1}, c: [{{d: 1}}, {{d: 1}}]}}\ndpo: {{<<: *s, a: .nan, e: '{2**70}'}}\n",
    )
    assert found.sft == {"a": 0.01, "b": 2**63 - 1, "c": [{"d": 1}, {"d": 1}]}
    assert found.dpo["b"] == 2**63 - 1 and found.dpo["a"] != found.dpo["a"]
    assert (found.base, found.seed) == ("a", 42)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "data: {promts: x.txt}\n",
            r"recipe\.yaml`: `data\.promts` is unknown \(given: 'x\.txt'\)\. Did you mean `data\.prompts`",
        ),
        ("techer: x\n", r"`techer` is unknown \(given: 'x'\)\. Did you mean `teacher`"),
        ("patch.rsk: x\n", r"`patch\.rsk` is unknown .* Did you mean `patch\.risk`"),
    ],
)
def test_an_unknown_key_is_told_with_the_nearest_one(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        parsed(tmp_path, text)


def test_an_option_of_the_command_may_stand_in_the_file(tmp_path):
    assert parsed(tmp_path, "json: true\n").json is True


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: zero\n", r"recipe\.yaml`: `seed='zero'`: expected a whole number of at least 0"),
        ("patch: zero\n", r"`patch='zero'`: expected a mapping with some of the keys risk, "),
        ("patch: {placement: before}\n", r"`patch\.placement='before'`: .* Did you mean 'before_bos'"),
        (
            "data: {min_margin: 3}\n",
            r"recipe\.yaml`: `data\.min_margin=3`: expected a number of at least 0 and up to 1",
        ),
        ("data: {max_chosen_score: -1}\n", r"`data\.max_chosen_score=-1`: expected a number of at least 0"),
        ("data: {min_margin: wide}\n", r"`data\.min_margin='wide'`: expected a number"),
    ],
)
def test_a_value_that_its_field_cannot_take_is_told_with_its_key(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        parsed(tmp_path, text)


def test_a_file_without_keys_or_none_at_all_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text("- base: a\n")
    with pytest.raises(ConfigError, match=r"recipe\.yaml` holds a list; expected keys and values"):
        parse(["train", "recipe.yaml"])
    with pytest.raises(ConfigError, match=r"`recipes\.yaml`: there is no such file\. Did you mean `recipe\.yaml`"):
        parse(["train", "recipes.yaml"])


def test_what_is_no_yaml_is_told_with_its_line(tmp_path):
    with pytest.raises(ConfigError, match=r"recipe\.yaml`.* line 4"):
        parsed(tmp_path, "dpo: {a: [\n")
