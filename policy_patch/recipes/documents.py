"""Reads and writes recipes as YAML and JSON: from a file to plain values and back.

`policy_patch.files.yaml_documents` refuses ambiguous or dangerous YAML. The recipes check the keys and values.
"""

import json
import os
import re
from collections.abc import Mapping
from typing import Any

import yaml

from policy_patch.errors import ConfigError
from policy_patch.files.documents import Fault, parse_json, read_text
from policy_patch.files.yaml_documents import YamlFault, check_yaml, parse_yaml

_LARGEST = 2**20  # bytes; chosen by us, recipes have a few thousand
_TIMESTAMP, _FLOAT = "tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:float"

# The number format of jsonargparse 4.53, so that `policy-patch train` and `from_yaml` read a recipe in the same way.
# `1e-2` is a number (YAML 1.1 reads it as text), and a date is text.
_FLOAT_FORMS = re.compile(
    r"""^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)
    |\.[0-9_]+(?:[eE][-+][0-9]+)?
    |[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*
    |[-+]?\.(?:inf|Inf|INF)
    |\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)
_RESOLVERS = {
    letter: [(tag, form) for tag, form in forms if tag not in (_TIMESTAMP, _FLOAT)]
    for letter, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {letter: list(forms) for letter, forms in _RESOLVERS.items()}


class _Dumper(yaml.SafeDumper):
    """Quotes a text that `_Loader` would read as a number."""

    yaml_implicit_resolvers = {letter: list(forms) for letter, forms in _RESOLVERS.items()}

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(_FLOAT, _FLOAT_FORMS, list("-+0123456789."))


def check_recipe(path: str | os.PathLike) -> str:
    """Return the text of a recipe; raise `ConfigError` for one that can be misread.

    Args:
        path (`str` or `os.PathLike`):
            A YAML file. A file that is not YAML passes; the code that parses it raises the error.

    Raises:
        ConfigError: the file cannot be read, is too large, is not UTF-8, or [`check_yaml`] refuses it.
    """
    named = f"`{os.fspath(path)}`"
    text = _text_of(path, named)
    check_recipe_text(text, named)
    return text


def check_recipe_text(text: str, named: str) -> None:
    """Raise `ConfigError` for a YAML text that can be misread. The error calls the text `named`."""
    try:
        check_yaml(text)
    except Fault as fault:
        raise ConfigError(f"{fault.at(named)}.") from fault


def read_yaml_recipe(path: str | os.PathLike) -> Any:
    """Return the value of a YAML file.

    Raises:
        ConfigError: the file is not YAML, or [`check_recipe`] refuses it.
    """
    named = f"`{os.fspath(path)}`"
    return yaml_value(_text_of(path, named), named)


def yaml_value(text: str, named: str) -> Any:
    """Return the value of a YAML text. An error calls the text `named`.

    Raises:
        ConfigError: the text is not YAML, has a value that cannot be read, or [`check_recipe_text`] refuses it.
    """
    try:
        return parse_yaml(text, loader=_Loader)
    except Fault as fault:
        raise ConfigError(f"{fault.at(named)}.") from fault


def read_json_recipe(path: str | os.PathLike) -> Any:
    """Return the value of a JSON file.

    Raises:
        ConfigError: the file cannot be read, is too large, is not JSON, or has a key twice.
    """
    named = f"`{os.fspath(path)}`"
    try:
        return parse_json(_text_of(path, named))
    except Fault as fault:
        raise ConfigError(f"{fault.at(named)}.") from fault
    except json.JSONDecodeError as error:
        raise ConfigError(f"{named} is not valid JSON: {error}.") from error


def yaml_text(values: Mapping[str, Any]) -> str:
    """Return plain values as YAML, in a form that [`read_yaml_recipe`] reads back unchanged."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _text_of(path: str | os.PathLike, named: str) -> str:
    try:
        return read_text(path, largest=_LARGEST).removeprefix("\ufeff")
    except OSError as error:
        raise ConfigError(f"Cannot read the recipe {named}: {error}.") from error
    except Fault as fault:
        if isinstance(error := fault.__cause__, UnicodeDecodeError):
            line = error.object[: error.start].count(b"\n") + 1
            byte = f"the byte 0x{error.object[error.start]:02x}"
            fault = YamlFault(line, f"{byte}, which is not UTF-8; save the file as UTF-8")
        raise ConfigError(f"{fault.at(named)}.") from fault
