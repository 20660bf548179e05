"""The command `policy-patch`: one file per command; the only place of the package that prints.

Data goes to stdout, messages and progress to stderr. Exit codes: 0 good; 1 a check was made and failed, see
`FAILED_CHECKS`; 2 bad usage or bad input, so that nothing could be checked; 130 stopped by Ctrl-C, 143 by SIGTERM.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

from policy_patch._version import __version__
from policy_patch.cli.quiet import quiet_libraries
from policy_patch.cli.stopping import STOPS, terminable
from policy_patch.errors import (
    AdvisedAgainstError,
    BaseMismatchError,
    DamagedDownloadError,
    HostilePatchError,
    LockMismatchError,
    PatchConflictError,
    PatchFileError,
    PolicyPatchError,
    PolicyRefusalError,
    SignatureError,
    SigningKeyError,
)
from policy_patch.privacy.redaction import blank_error, without_secrets

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from policy_patch.cli.usage import Parser

COMMANDS = (
    "demo", "pairs", "train", "evaluate", "generate", "info", "push", "pull", "compose", "bake", "export", "gateway",
    "probe", "gate", "sign", "verify", "scan", "bom", "audit", "lock", "apply", "status", "upgrade", "rollback",
    "rebase", "drift",
)  # fmt: skip
FAILED_CHECKS = (  # of a patch, a stack, a base or a lock: each has the exit code 1 in every command
    AdvisedAgainstError, BaseMismatchError, DamagedDownloadError, HostilePatchError, LockMismatchError,
    PatchConflictError, PatchFileError, PolicyRefusalError, SignatureError,
)  # fmt: skip
POLICY_VARIABLE = "POLICY_PATCH_POLICY"
POLICY_HELP = f"Policy file that every loaded patch has to satisfy, beside the one that {POLICY_VARIABLE} names."
_DESCRIPTION = """Safety patches for language models: a few learned vectors before a frozen base.

Start with `policy-patch demo`: it trains a patch on two miniature models that come with the package, offline, and shows
the difference."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv (`Sequence[str]`, *optional*):
            The command and its options, without `policy-patch` itself. Defaults to the arguments of the process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words[:1] == ["--version"]:
            print(f"policy-patch {__version__}")
            return 0
        with terminable(), quiet_libraries():
            command, options = parse(words)
            module = import_module(f"policy_patch.cli.{command}")
            with _policy_in_force(options.pop("policy")):
                return module.run(options)
    except PolicyPatchError as error:
        print(f"policy-patch: {without_secrets(str(error))}", file=sys.stderr)
        return 1 if isinstance(error, FAILED_CHECKS) and not isinstance(error, SigningKeyError) else 2
    except tuple(STOPS) as stopped:
        print(f"policy-patch: {str(stopped) or 'Stopped.'}", file=sys.stderr)
        return STOPS[type(stopped)]
    except BrokenPipeError:  # `policy-patch ... | head`
        sys.stderr.close()
        return 0
    except Exception as error:  # a bug: the traceback is shown, without secrets
        blank_error(error)
        raise


@contextmanager
def _policy_in_force(path: str | None) -> Iterator[None]:
    """Let a policy hold for this command, and for the processes that it starts, which find it in the same variable."""
    if path is None:
        yield
        return
    from policy_patch.trust.policy_file import PatchPolicy

    PatchPolicy.load(path)  # a wrong one is bad usage, before anything starts
    before = os.environ.get(POLICY_VARIABLE)
    os.environ[POLICY_VARIABLE] = os.pathsep.join(filter(None, [before, os.path.abspath(path)]))  # both hold
    try:
        yield
    finally:
        if before is None:
            del os.environ[POLICY_VARIABLE]
        else:
            os.environ[POLICY_VARIABLE] = before


def parse(words: Sequence[str]) -> "tuple[str, Namespace]":
    """Return the command in the words of a command line, and its options. Only this command's file is imported.

    `train recipe.yaml` means `train --config recipe.yaml`.

    Raises:
        SystemExit: the words ask for help, with 0; or they are wrong, with 2 after a message on stderr.
        ConfigError: a recipe cannot be read.
        MissingExtraError: the extra `cli` is not installed.
    """
    command, *rest = words or [""]
    if command not in COMMANDS:
        _without_command(command)
    if command == "train" and rest[:1] and not rest[0].startswith("-"):
        rest = ["--config", *rest]
    return command, _parser_of(command).parse_args(rest)


def _without_command(word: str) -> NoReturn:
    """Print the list of commands if the first word asks for it, or else what is wrong with the word; and exit."""
    from policy_patch.cli.usage import no_command, print_commands

    if word in ("-h", "--help"):
        print_commands(_DESCRIPTION, {name: import_module(f"policy_patch.cli.{name}").HELP for name in COMMANDS})
        raise SystemExit(0)
    no_command(word, COMMANDS)


def _parser_of(command: str) -> "Parser":
    from policy_patch.cli.usage import Parser

    module = import_module(f"policy_patch.cli.{command}")
    parser = Parser(prog=f"policy-patch {command}", description=module.DESCRIPTION)
    module.add_arguments(parser)
    parser.add_argument("--policy", type=str | None, help=POLICY_HELP)
    return parser
