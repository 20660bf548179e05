"""How `--help` looks: descriptions keep their lines, so that examples can be copied, and options show defaults.

The texts are each command's own, and those of the options the recipes' own.
"""

from jsonargparse import DefaultHelpFormatter


class Formatter(DefaultHelpFormatter):
    """jsonargparse's formatter that leaves the lines of a description as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(indent + line + "\n" for line in text.splitlines())
