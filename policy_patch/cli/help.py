"""Formats `--help`: a description keeps its line breaks, so that examples can be copied; options show their defaults.

The texts themselves are in the files of the commands and of the recipes.
"""

from jsonargparse import DefaultHelpFormatter


class Formatter(DefaultHelpFormatter):
    """jsonargparse's formatter, changed to keep the line breaks of a description."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(indent + line + "\n" for line in text.splitlines())
