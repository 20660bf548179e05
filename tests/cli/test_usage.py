"""Tests of `cli.usage`: a usage error is told in three lines; the last says what is wrong and what to do."""

import re

import pytest

from policy_patch.cli import COMMANDS, main
from policy_patch.cli import _parser_of as parser_of
from policy_patch.cli.usage import in_our_words, one_line_usage

TRAIN = ["train", "--base", "a", "--output_dir", "b"]


def told(words, capsys):
    """Return the three lines of an error."""
    with pytest.raises(SystemExit) as exit_:
        main(words)
    out, err = capsys.readouterr()
    assert (exit_.value.code, out) == (2, "")
    usage, help_, error = err.splitlines()
    assert usage.startswith("usage: policy-patch ") and help_.startswith("help:  policy-patch ")
    return usage, help_, error


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "There is no command. `policy-patch --help` lists the commands."),
        (["trian"], "`trian` is no command. Did you mean `train`?"),
        (["version"], "`version` is no command. Did you mean `--version`?"),
        (["help"], "`help` is no command. Did you mean `--help`?"),
        (["xyz"], "`xyz` is no command. `policy-patch --help` lists the commands."),
        (["--vresion"], "`--vresion` is no option. Did you mean `--version`?"),
        (["info"], "`PATCH` is missing."),
        (["push", "folder"], "`REPO_ID` is missing."),
        (["compose"], "`PATCHES ...` and `--output` are missing."),
        (["train"], "`--base` and `--output_dir` are missing. Give a recipe, or these options."),
        (["info", "x", "y"], "`y` is one argument too many. An option begins with `--`."),
        (["info", "x", "--jsn"], "`--jsn` is unknown. Did you mean `--json`?"),
        (["info", "x", "--js"], "`--js` is unknown. Did you mean `--json`?"),
        (["info", "x", "--JSON"], "`--JSON` is unknown. Did you mean `--json`?"),
        (["info", "x", "--zzz"], "`--zzz` is unknown. It is no option of this command."),
        (["info", "x", "--json=1"], "`--json` is a switch and takes no value."),
        (["info", "x", "--revision"], "`--revision` needs a value."),
        ([*TRAIN, "--output-dir", "c"], "`--output-dir` is unknown. Did you mean `--output_dir`?"),
        ([*TRAIN, "--dat.promts", "c"], "`--dat.promts` is unknown. Did you mean `--data.prompts`?"),
        ([*TRAIN, "--min_margin", "1"], "`--min_margin` is unknown. Did you mean `--data.min_margin`?"),
        ([*TRAIN, "--seed", "zero"], "`--seed zero`: expected a whole number."),
        ([*TRAIN, "--data.num_prompts=few"], "`--data.num_prompts few`: expected a whole number."),
        ([*TRAIN, "--patch.init", "rand"], "`--patch.init rand`: expected one of text, vocab, random."),
        ([*TRAIN, "--dpo", "x"], "`--dpo x`: expected a mapping."),
        (["evaluate", "x", "--promts", "y"], "`--promts` is unknown. Did you mean `--prompts`?"),
    ],
)
def test_the_last_line_says_what_is_wrong_and_what_to_do(words, error, capsys):
    assert told(words, capsys)[2] == f"error: {error}"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_usage_is_that_of_the_command_in_one_line_of_80_columns(command, capsys):
    usage, help_, _ = told([command, "--no_such_option"], capsys)
    assert re.match(rf"usage: policy-patch {command} .*\[options\]$", usage) and len(usage) <= 80
    assert help_ == f"help:  policy-patch {command} --help"


def test_the_usage_names_what_is_needed():
    assert one_line_usage(parser_of("compose")) == ("policy-patch compose --output OUTPUT PATCHES ... [options]")
    assert one_line_usage(parser_of("train")) == "policy-patch train [RECIPE.yaml] [options]"


def test_values_of_unknown_options_are_not_quoted(capsys):
    assert "secret" not in " ".join(told(["push", "a", "org/b", "--tokn", "my-secret"], capsys))


def test_an_error_in_words_that_are_not_known_here_is_one_line():
    assert in_our_words(parser_of("info"), "Something\n  - new\n") == "Something - new"
