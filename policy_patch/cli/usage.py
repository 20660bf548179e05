"""The parser of one command, and its errors: one line of usage, where to read more, and the message last.

The options are in the files of the commands. Errors that a command itself raises are printed by `policy_patch.cli`.
"""

import re
import shutil
import sys
import textwrap
from argparse import SUPPRESS, Action
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from policy_patch.extra import needs_extra
from policy_patch.near_names import did_you_mean
from policy_patch.privacy.redaction import without_secrets
from policy_patch.recipes.options import in_words

with needs_extra("cli", "The command line"):
    from jsonargparse import ArgumentParser

    from policy_patch.cli.help import Formatter

_ANY_COMMAND = "policy-patch COMMAND [options]"
_WIDTH = 80
_RECIPE_FIRST = "policy-patch train"  # its required options may be in the recipe, which is an option for jsonargparse
_OF_A_VALUE = re.compile(r'Parser key "(?P<key>[^"]+)":')
_GIVEN_VALUE = re.compile(r"(?:Got value|Given value): (.*)\Z", re.DOTALL)


class Parser(ArgumentParser):
    """A parser that shortens jsonargparse's errors, and quotes the user's words without tokens and keys."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, formatter_class=Formatter, allow_abbrev=False, **options)

    def format_usage(self) -> str:
        """Return the usage in one line."""
        return f"usage: {one_line_usage(self)}\n"

    def format_help(self) -> str:
        """Return the help, which begins with the usage in one line."""
        self.usage = one_line_usage(self).replace("%", "%%")
        return super().format_help()

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the usage in one line, how to get help, and the message, to stderr, and exit with 2."""
        _stop(one_line_usage(self), self.prog, in_our_words(self, message))


def print_commands(description: str, help_of: Mapping[str, str]) -> None:
    """Print what `policy-patch --help` shows, to stdout, in the width of the terminal.

    Args:
        description (`str`):
            Its first part.
        help_of (`Mapping[str, str]`):
            The name of each command, and a sentence about it.
    """
    width = shutil.get_terminal_size().columns - 2
    lines = [f"usage: {_ANY_COMMAND}", ""]
    for paragraph in description.split("\n\n"):
        lines += [*textwrap.wrap(paragraph, width, break_long_words=False, break_on_hyphens=False), ""]
    options = {"--help": "Show this list, or the options of a command.", "--version": "Show the version."}
    for title, entries in (("commands", help_of), ("options", options)):
        lines.append(f"{title}:")
        for name, text in entries.items():
            lines += textwrap.wrap(f"    {name:<11} {text}", width, subsequent_indent=" " * 16, break_on_hyphens=False)
        lines.append("")
    print("\n".join(lines[:-1]))


def no_command(word: str, commands: Sequence[str]) -> NoReturn:
    """Print the error for a first word that is no command, to stderr, and exit with 2.

    Args:
        word (`str`):
            The word; empty if there is none.
        commands (`Sequence[str]`):
            The names of the commands.
    """
    otherwise = "`policy-patch --help` lists the commands."
    options = ("--help", "--version")
    known = options if word.startswith("-") else (*commands, *options)
    kind = "option" if word.startswith("-") else "command"
    hint = did_you_mean(word, known, otherwise=otherwise)
    _stop(
        _ANY_COMMAND, "policy-patch", f"`{word}` is no {kind}. {hint}" if word else f"There is no command. {otherwise}"
    )


def bad_usage(command: str, add_arguments: Callable[[Parser], None], message: str) -> NoReturn:
    """Print the error for options of which each is right by itself, as the parser prints its own, and exit with 2.

    Args:
        command (`str`):
            Name of the command.
        add_arguments (`Callable`):
            Adds its options to a parser.
        message (`str`):
            What is wrong.
    """
    parser = Parser(prog=f"policy-patch {command}")
    add_arguments(parser)
    _stop(one_line_usage(parser), parser.prog, message)


def _stop(usage: str, command: str, message: str) -> NoReturn:
    sys.stderr.write(f"usage: {usage}\nhelp:  {command} --help\nerror: {without_secrets(message)}\n")
    sys.exit(2)


def one_line_usage(parser: ArgumentParser) -> str:
    """Return the usage of a command in one line of 80 columns: its name, what it needs, and that it has options."""
    if parser.prog == _RECIPE_FIRST:
        return f"{parser.prog} [RECIPE.yaml] [options]"
    needed = [action for action in parser._actions if action.required and action.option_strings]
    words = [_values(action) for action in parser._actions if not action.option_strings]
    for shown in (_values, lambda action: "..."):
        options = [f"{action.option_strings[0]} {shown(action)}" for action in needed]
        line = " ".join([parser.prog, *options, *words, "[options]"])
        if len(f"usage: {line}") <= _WIDTH:
            break
    return line


def _values(action: Action) -> str:
    name = str(action.metavar or action.dest.rpartition(".")[2]).upper()
    return {"?": f"[{name}]", "*": f"[{name} ...]", "+": f"{name} ..."}.get(str(action.nargs), name)


def in_our_words(parser: ArgumentParser, message: str) -> str:
    """Return an error of jsonargparse in one line, in words that say what was given, what was expected, what to do."""
    kind, _, rest = message.partition(": ")
    if kind == "unrecognized arguments":
        return _about_unknown(parser, rest)
    if kind == "the following arguments are required":
        return _about_missing(parser, rest.split(", "))
    if kind.startswith("argument ") and rest.startswith("expected "):
        count = {"one argument": "a value", "at least one argument": "one or more values"}
        return f"`{kind.removeprefix('argument ')}` needs {count.get(rest.removeprefix('expected '), rest)}."
    if kind.startswith("argument ") and rest.startswith("ignored explicit argument"):
        return f"`{kind.removeprefix('argument ')}` is a switch and takes no value."
    if found := _OF_A_VALUE.match(message):
        return _about_value(parser, found["key"], message)
    return " ".join(message.split())


def _about_unknown(parser: ArgumentParser, words: str) -> str:
    """Say which options are unknown. The words after them would be their values, which may be secrets."""
    first, *others = words.split()
    options = [word.partition("=")[0] for word in (first, *others) if word.startswith("-")]
    if not options:
        return f"`{first}` is one argument too many. An option begins with `--`."
    known = [name for action in parser._actions if action.help != SUPPRESS for name in action.option_strings]
    return " ".join(
        f"`{name}` is unknown. {did_you_mean(name, known, otherwise='It is no option of this command.')}"
        for name in options
    )


def _about_missing(parser: ArgumentParser, keys: list[str]) -> str:
    actions = [action for action in parser._actions if action.dest in keys]
    names = [action.option_strings[0] if action.option_strings else _values(action) for action in actions]
    is_or_are = "is" if len(names) == 1 else "are"
    hint = " Give a recipe, or these options." if parser.prog == _RECIPE_FIRST else ""
    return f"{' and '.join(f'`{name}`' for name in names)} {is_or_are} missing.{hint}"


def _about_value(parser: ArgumentParser, key: str, message: str) -> str:
    """Say what an option expects, as recipes do."""
    action = next((one for one in parser._actions if one.dest == key), None)
    value = _GIVEN_VALUE.search(message)
    type_ = getattr(action, "_typehint", None)
    if type_ is None or value is None:
        return " ".join(message.split())
    given = " ".join(value[1].split())
    named = f"{action.option_strings[0]} {given}" if action.option_strings else given
    expected = in_words(type_, {}).removesuffix(" or null")
    return f"`{named}`: expected {expected}."
