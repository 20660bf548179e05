"""Makes the options of a command from the fields of a recipe, and a recipe's values from parsed options.

So each name, default and help text is written once, in the recipe. The recipe also checks the values.
"""

import inspect
from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import TYPE_CHECKING, Any, get_origin

from policy_patch.recipes.options import default_of, types_of

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

ON_CONFLICT_HELP = "If a stack breaks a rule of its patches: warn, refuse or ignore."


def add_options(
    parser: "ArgumentParser",
    recipe: type,
    names: Sequence[str] | None = None,
    *,
    prefix: str = "",
) -> None:
    """Add an option for each field of a recipe and of its sections.

    Args:
        parser (`jsonargparse.ArgumentParser`):
            The parser of the command.
        recipe (`type`):
            Class of the recipe.
        names (`Sequence[str]`, *optional*):
            Fields to add, in this order. Defaults to all fields, with those of the class itself before inherited ones.
        prefix (`str`, *optional*, defaults to `""`):
            Prefix of the options' names, such as `data.`.
    """
    types, by_name = types_of(recipe), {entry.name: entry for entry in fields(recipe)}
    own = inspect.get_annotations(recipe)
    for name in sorted(by_name, key=lambda name: name not in own) if names is None else names:
        entry, type_ = by_name[name], types[name]
        words = [f"--{prefix}{word}" for word in (name, entry.metadata["alias"]) if word]
        default, help_ = default_of(entry), entry.metadata["help"]
        if is_dataclass(type_):
            add_options(parser, type_, prefix=f"{name}.")
        elif entry.metadata["switch"]:
            parser.add_argument(*words, action="store_true", help=help_)
        elif default is MISSING:
            parser.add_argument(*words, type=type_, required=True, help=help_)
        elif get_origin(type_) is list:
            parser.add_argument(*words, type=str, nargs="+", default=default, help=help_)
        else:
            parser.add_argument(*words, type=type_, default=default, help=help_)


def given(args: "Namespace", recipe: type) -> dict[str, Any]:
    """Return the values of a recipe's fields from the parsed options."""
    values = args.as_dict()
    return {entry.name: values[entry.name] for entry in fields(recipe) if entry.name in values}
