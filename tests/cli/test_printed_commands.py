"""Tests that every command and every option that the package prints exists: in errors, messages and next steps.

All string literals are read, so that a message that no test provokes counts, too. What a step that is printed does is
tested in `tests/recipes/test_next_steps.py`, and people walk along the steps in `tests/journeys`.
"""

import ast
import contextlib
import functools
import io
import re
import shlex
from pathlib import Path

import pytest

import policy_patch
from policy_patch import cli

PACKAGE = Path(policy_patch.__file__).parent
FILLED = "ORG/FILLED"  # stands for what a message fills in; a name that every command takes
COMMAND = re.compile(r"`(policy-patch [a-z][^`]*)`|[:;] (policy-patch [a-z][^`\n;]*?)(?=[.]?$|\. |, or |; )")
OPTION = re.compile(r"(?<![\w-])(--[a-z](?:[\w.-]*\w)?)")
# Options of other programs that messages name, and of our programs that are no command.
OTHERS = {
    "--chat-template", "--chat-template-content-format", "--dynamo_backend", "--enable-prompt-embeds", "--local-dir",
    "--logits-processors", "--merge", "--multi_gpu", "--no-prefill-assistant", "--num_processes", "--repo-type",
    "--served-model-name",
}  # fmt: skip
STYLES = ("ui/looks.py", "ui/words.py")  # variables of CSS look like options


def printed():
    """`(place, text)` of each string of the package that is no docstring; what is filled in is `FILLED`."""
    for path in sorted(set(PACKAGE.rglob("*.py")) - {PACKAGE / "ui/looks.py"}):  # variables of CSS look like options
        tree = ast.parse(path.read_text(encoding="utf-8"))
        no_text = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            inner = {id(part) for part in ast.walk(node)} - {id(node)} if isinstance(node, ast.JoinedStr) else set()
            no_text |= inner  # its parts are not texts of their own
        for node in ast.walk(tree):
            if id(node) in no_text or not isinstance(node, ast.JoinedStr | ast.Constant):
                continue
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            text = "".join(
                part.value if isinstance(part, ast.Constant) else FILLED
                for part in parts
                if not isinstance(part, ast.Constant) or isinstance(part.value, str)
            )
            if text:
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", text


def commands_in(text):
    """The commands that a text names, in words."""
    found = [re.split(" > | && ", first or second)[0] for first, second in COMMAND.findall(text)]
    return [shlex.split(one.replace("...", FILLED)) for one in found]


COMMANDS = [(place, words) for place, text in printed() for words in commands_in(text)]


@functools.cache
def options_of(command):
    """The options of a command."""
    return set(cli._parser_of(command)._option_string_actions)


def faults_of(words):
    """Return what is wrong with a command: it or an option is unknown, or its values do not parse."""
    if words[1] not in cli.COMMANDS:
        return [f"there is no command {words[1]}"]
    given = [word.partition("=")[0] for word in words if word.startswith("--")]
    unknown = [word for word in given if word not in options_of(words[1]) and not re.match(r"--\w+\.", word)]
    if unknown or len(words) == 2 or words[2:] == given:  # a command by its name, or one of its options
        return unknown
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            cli.parse(words[1:])
        except SystemExit as stopped:
            return [said.getvalue()] if stopped.code else []
    return []


def test_there_are_commands_to_test():
    places = {place.split("/")[0].split(":")[0] for place, _ in COMMANDS}
    assert len(COMMANDS) > 60 and {"hub", "release", "cli", "serving", "recipes"} <= places


@pytest.mark.parametrize(("place", "words"), COMMANDS, ids=[f"{place}-{words[1]}" for place, words in COMMANDS])
def test_a_printed_command_is_one(place, words):
    assert faults_of(words) == [], f"{place}: {shlex.join(words)}"


@pytest.mark.parametrize("line", ["apply --lok x", "aply", "push only-one", "info a b", "lock a --base"])
def test_a_command_that_is_none_is_found(line):
    assert faults_of(["policy-patch", *line.split()])


def test_every_option_that_a_message_names_is_one_of_a_command():
    known = set().union(*map(options_of, cli.COMMANDS)) | OTHERS
    texts = [(place, text) for place, text in printed() if not place.startswith(STYLES)]
    named = {(place, option.partition(".ORG")[0]) for place, text in texts for option in OPTION.findall(text)}
    assert len(named) > 100
    unknown = [(place, option) for place, option in named if not {option, option.partition(".")[0]} & known]
    assert sorted(unknown) == []  # `--also.sft_only` is one of `--also`
    assert not OTHERS - {option for _, option in named}


# Every command can print what these say, so an option in it needs the name of a command that has it.
OF_ALL = ("hub/errors.py", "hub/fetch.py", "hub/opening.py", "base/loading.py", "extra.py")


def has_no(place, text):
    """The options in a text of one command that it lacks; in a text of all, those of no command that it names."""
    file = place.partition(":")[0]
    own = file.removeprefix("cli/").removesuffix(".py")
    if (own not in cli.COMMANDS and file not in OF_ALL) or OPTION.fullmatch(text):  # a word of a list by itself
        return set()
    named = {word for word in re.findall(r"policy-patch ([a-z]+)", text) if word in cli.COMMANDS}
    known = set().union(OTHERS, *map(options_of, named | ({own} & set(cli.COMMANDS))))
    options = {option.partition(".ORG")[0] for option in OPTION.findall(text)}
    return {option for option in options if not {option, option.partition(".")[0]} & known}


def test_an_option_that_a_message_names_is_one_of_the_command_that_prints_it():
    assert [(place, lacking) for place, text in printed() if (lacking := has_no(place, text))] == []


def test_an_option_of_another_command_is_found():
    told = "Leave out `--offline`."
    assert has_no("hub/errors.py:1", told) == has_no("cli/info.py:1", told) == {"--offline"}
    assert not has_no("cli/apply.py:1", told) and not has_no("hub/errors.py:1", f"{told} `policy-patch status`")
