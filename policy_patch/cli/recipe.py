"""The recipe of `policy-patch train`, looked at before it is parsed; see `yaml_documents` for what must not pass.

What the keys mean is settled in `train.py`.
"""

import os
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile

from policy_patch.errors import ConfigError
from policy_patch.files.documents import Fault, read_text
from policy_patch.files.yaml_documents import YamlFault, check_yaml

_LARGEST = 2**20  # bytes; chosen by us, recipes have a few thousand


class RecipeFile(ActionConfigFile):
    """The option `--config`: a file or the text of one, checked as [`check_recipe`] says, then read by jsonargparse."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Check the file and read it."""
        is_file = isinstance(values, str | os.PathLike) and os.path.isfile(values)
        named = f"`{values}`" if is_file else "The text of `--config`"
        if is_file:
            check_recipe(Path(values))
        elif isinstance(values, str):
            _check_text(values, named)
        try:
            super().__call__(parser, cfg, values, option_string)
        except (ValueError, TypeError, OverflowError) as error:  # a number without digits, the month 13
            raise ConfigError(f"{named} has a value that YAML cannot read: {error}.") from error


def check_recipe(path: Path) -> None:
    """Raise `ConfigError` for a recipe that does not say one clear thing.

    Args:
        path (`Path`):
            A YAML file. What is no YAML at all is left to its reader, which says why.

    Raises:
        ConfigError: it cannot be read, is too large or not UTF-8, or as [`check_yaml`].
    """
    try:
        text = read_text(path, largest=_LARGEST)
    except OSError as error:
        raise ConfigError(f"Cannot read the recipe `{path}`: {error}.") from error
    except Fault as fault:
        if isinstance(error := fault.__cause__, UnicodeDecodeError):
            line = error.object[: error.start].count(b"\n") + 1
            byte = f"the byte 0x{error.object[error.start]:02x}"
            fault = YamlFault(line, f"{byte}, which is not UTF-8; save the file as UTF-8")
        raise ConfigError(f"{fault.at(f'`{path}`')}.") from fault
    _check_text(text.removeprefix("\ufeff"), f"`{path}`")


def _check_text(text: str, named: str) -> None:
    try:
        check_yaml(text)
    except Fault as fault:
        raise ConfigError(f"{fault.at(named)}.") from fault
