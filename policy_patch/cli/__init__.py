"""The command `policy-patch`: one file per command; the only place of the package that prints.

Data goes to stdout, messages and progress to stderr. Exit codes: 0 good; 1 a check was made and failed, see
`FAILED_CHECKS`; 2 bad usage or bad input, so that nothing could be checked; 130 stopped by Ctrl-C.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from policy_patch._version import __version__
from policy_patch.errors import (
    AdvisedAgainstError,
    BaseMismatchError,
    DamagedDownloadError,
    HostilePatchError,
    LockMismatchError,
    MissingExtraError,
    PatchConflictError,
    PatchFileError,
    PolicyPatchError,
    PolicyRefusalError,
    SignatureError,
    SigningKeyError,
)
from policy_patch.privacy.redaction import blank_error, without_secrets

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

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
    try:
        parser = _parser()
        arguments = parser.parse_args(_with_config(list(sys.argv[1:] if argv is None else argv)))
        command = arguments.command
        module = import_module(f"policy_patch.cli.{command}")
        with _policy_in_force(arguments[command].pop("policy")):
            return module.run(arguments[command])
    except PolicyPatchError as error:
        print(f"policy-patch: {without_secrets(str(error))}", file=sys.stderr)
        return 1 if isinstance(error, FAILED_CHECKS) and not isinstance(error, SigningKeyError) else 2
    except KeyboardInterrupt as error:
        print(f"policy-patch: {error or 'Stopped.'}", file=sys.stderr)
        return 130
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


def _with_config(words: list[str]) -> list[str]:
    """Let `train recipe.yaml` mean `train --config recipe.yaml`."""
    if words[:1] == ["train"] and words[1:2] and not words[1].startswith("-"):
        return ["train", "--config", *words[1:]]
    return words


def _parser() -> "ArgumentParser":
    try:
        from jsonargparse import ArgumentParser
    except ModuleNotFoundError as error:
        raise MissingExtraError('The command line needs the extra `cli`: `pip install "policy-patch[cli]"`.') from error
    from policy_patch.cli.help import Formatter

    class Parser(ArgumentParser):
        """Quotes the user's arguments in its errors, without tokens and keys."""

        def error(self, message: str, *more: Any, **options: Any) -> Any:
            return super().error(without_secrets(message), *more, **options)

    parser = Parser(prog="policy-patch", description=_DESCRIPTION, version=__version__, formatter_class=Formatter)
    commands = parser.add_subcommands(required=True, dest="command", title="commands", metavar="COMMAND")
    for name in COMMANDS:
        module = import_module(f"policy_patch.cli.{name}")
        command = Parser(description=module.DESCRIPTION, formatter_class=Formatter)
        module.add_arguments(command)
        command.add_argument("--policy", type=str | None, help=POLICY_HELP)
        commands.add_subcommand(name, command, help=module.HELP)
    return parser
