"""Formats `--help` in the width of the terminal. Examples keep their line breaks, so that they can be copied.

The texts themselves are in the files of the commands and of the recipes.
"""

import textwrap
from argparse import SUPPRESS, Action

from policy_patch.extra import needs_extra

with needs_extra("cli", "The command line"):
    from jsonargparse import DefaultHelpFormatter


class Formatter(DefaultHelpFormatter):
    """jsonargparse's formatter, changed to fill prose only, and to show a default only where there is one.

    In a description, prose is filled to the width of the terminal. Indented lines, such as examples, and a line that
    ends with a colon stay as they are.
    """

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines: list[str] = []
        prose: list[str] = []
        for line in [*text.splitlines(), ""]:
            if line and not line.startswith(" "):
                prose.append(line)
            if prose and (not line or line.startswith(" ") or line.endswith(":")):
                lines += textwrap.wrap(" ".join(prose), width, break_long_words=False, break_on_hyphens=False)
                prose = []
            if not line or line.startswith(" "):
                lines.append(line)
        return "".join(indent + line + "\n" for line in lines[:-1])

    def _get_default_metavar_for_positional(self, action: Action) -> str:
        return action.dest.upper()

    def _format_args(self, action: Action, default_metavar: str) -> str:
        name = self._metavar_formatter(action, default_metavar)(1)[0]
        return {"+": f"{name} ...", "*": f"[{name} ...]"}.get(str(action.nargs)) or super()._format_args(
            action, default_metavar
        )

    def _format_action_invocation(self, action: Action) -> str:
        if len(action.option_strings) < 2 or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"  # the value once, as in Python 3.13

    def _get_help_string(self, action: Action) -> str:
        text = action.help or ""
        if action.required and action.option_strings:
            return f"{text} (required)"
        nothing = action.default is None or action.default is False or action.default in (SUPPRESS, "", [], {})
        return text if nothing or not action.option_strings else f"{text} (default: %(default)s)"

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_long_words=False, break_on_hyphens=False)

    def _expand_help(self, action: Action) -> str:
        if not isinstance(action.default, list):
            return super()._expand_help(action)
        default, action.default = action.default, " ".join(map(str, action.default))  # as it is typed
        try:
            return super()._expand_help(action)
        finally:
            action.default = default
