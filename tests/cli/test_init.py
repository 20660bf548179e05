"""Tests of the command itself: help that teaches, exit codes, what goes to stdout, and what is not imported."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from policy_patch import __version__, cli
from policy_patch.cli import COMMANDS, main
from tests.core_install import run_without
from tests.evaluation.synthetic import synthetic_report


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_that_the_parser_accepts(command, capsys, tmp_path, monkeypatch):
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text("base: org/model\noutput_dir: tox-patch\n")
    text = capsys.readouterr().out.replace("\\\n", "")
    examples = re.findall(rf"^  policy-patch ({command} .*)$", text, re.MULTILINE)
    assert examples
    for example in examples:
        assert cli.parse(shlex.split(example))[0] == command


def test_help_lists_the_commands_and_says_where_to_start(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert "Start with `policy-patch demo`" in text
    assert all(re.search(rf"^    {command} ", text, re.MULTILINE) for command in COMMANDS)


HEAVY = {"torch", "transformers", "datasets", "trl", "accelerate", "gradio", "scipy", "sklearn", "matplotlib"}
RUN = """
from policy_patch.cli import COMMANDS, main
def run(*words):
    try:
        return main(words)
    except SystemExit as end:
        return end.code
"""


def without(blocked, code, *words):
    """Run code, with `run` for commands, in a process that cannot find some packages; return what it prints."""
    done = run_without(blocked, RUN + code, *words)
    assert done.returncode == 0, done.stderr
    return done


def test_help_and_version_and_usage_errors_need_no_heavy_package():
    code = "sys.exit(sum((run(), run('--help'), run('--version'), *(run(name, '--help') for name in COMMANDS))) - 2)"
    done = without(HEAVY, code)
    assert all(f"usage: policy-patch {name} " in done.stdout for name in COMMANDS)
    assert "There is no command" in done.stderr


def test_info_needs_no_heavy_package_and_the_control_does(patch_folder, tmp_path):
    shutil.copytree(patch_folder, tmp_path / "patch")
    synthetic_report().save(tmp_path / "patch")
    info = "sys.exit(run('info', sys.argv[1]))"
    done = without(HEAVY - {"scipy"}, info, str(tmp_path / "patch"))
    assert "norm of a vector" in done.stdout and "average maximum toxicity" in done.stdout
    done = without(HEAVY, info, str(tmp_path / "patch"))
    assert "norm of a vector" in done.stdout and "average maximum toxicity" not in done.stdout
    assert "evaluation.json, and cannot be shown. An interval needs the package `scipy`" in done.stderr
    with pytest.raises(AssertionError, match="No module named 'torch'"):
        without(HEAVY, "run('generate', sys.argv[1], '--prompt', 'x')", str(patch_folder))


def test_the_version_is_the_package_s(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"policy-patch {__version__}\n"


@pytest.mark.parametrize(
    "words",
    [[], ["trian"], ["info"], ["info", "x", "--jsn"], ["generate", "x", "--seed", "zero"], ["train", "--sfft", "1"]],
)
def test_bad_usage_exits_with_2_and_says_so_on_stderr(words, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "error:" in err


def test_an_error_of_ours_exits_with_2_and_one_line_on_stderr(tmp_path, capsys):
    assert main(["info", str(tmp_path / "nothing")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"policy-patch: `.*nothing` does not exist\. .*\n", err)


def test_ctrl_c_exits_with_130(monkeypatch, capsys):
    def interrupted(args):
        raise KeyboardInterrupt("Stopped at step 3 of 9.")

    monkeypatch.setattr("policy_patch.cli.info.run", interrupted)
    assert main(["info", "x"]) == 130
    assert capsys.readouterr().err == "policy-patch: Stopped at step 3 of 9.\n"


def test_without_jsonargparse_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "jsonargparse", None)  # makes its import fail
    for module in ("usage", "help"):
        monkeypatch.delitem(sys.modules, f"policy_patch.cli.{module}", raising=False)
    assert main(["--version"]) == 0  # needs none
    assert main(["info", "x"]) == 2
    assert "policy-patch[cli]" in capsys.readouterr().err


def test_train_takes_its_recipe_without_the_word_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text("base: a\noutput_dir: b\n")
    short, long = (
        cli.parse(["train", *words, "--seed", "1"]) for words in (["recipe.yaml"], ["--config", "recipe.yaml"])
    )
    assert short == long and (short[0], short[1].base, short[1].seed) == ("train", "a", 1)


def test_the_module_runs_as_the_command_does():
    done = subprocess.run(
        [sys.executable, "-m", "policy_patch.cli", "info", "nothing"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "`nothing` does not exist" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--sft.hub_token", "hf_Abc123", "--seed", "hf_Abc123"],
        ["push", "folder", "org/p", "--no_such_option", "hf_Abc123"],
    ],
)
def test_what_is_wrong_with_the_words_is_said_without_secrets(words, capsys):
    with pytest.raises(SystemExit):
        main(words)
    out, err = capsys.readouterr()
    assert err and "hf_Abc123" not in out + err


def test_an_error_that_is_none_of_ours_is_shown_without_secrets(monkeypatch):
    import traceback

    from policy_patch.cli import info

    token = "hf_" + "Abc123"  # a traceback shows the lines of this file

    def fail(arguments):
        raise RuntimeError(f"told {token}") from ValueError(f"Bearer {token}")

    monkeypatch.setattr(info, "run", fail)
    with pytest.raises(RuntimeError) as caught:
        main(["info", "x"])
    said = "".join(traceback.format_exception(caught.value))
    assert "RuntimeError: told ***" in said and "ValueError: Bearer ***" in said and token not in said
