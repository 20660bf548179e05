"""The table of export formats: ours, those registered in this process, and those of installed packages.

What a format writes is in a file of its own in this room. A format is added by that file and one line in `FORMATS`.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

from policy_patch.errors import ExportError
from policy_patch.near_names import did_you_mean
from policy_patch.registry import Registry

ENTRY_POINTS = "policy_patch.export_formats"
_COMMON = ("patches", "output_dir", "base", "hub")  # every writer takes these; the rest are its own options


@dataclass(frozen=True)
class Exported:
    """What an export has written.

    Args:
        folder (`Path`):
            The folder that was given as `output_dir`.
        files (`tuple[str, ...]`):
            Names of the files in it.
        facts (`Mapping[str, Any]`, *optional*):
            What else a person or a program should know, as plain values: sizes, bounds, versions of the patches.
        then (`str`, *optional*, defaults to `""`):
            One line for people: the command that uses the files.
    """

    folder: Path
    files: tuple[str, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    then: str = ""


@dataclass(frozen=True)
class ExportFormat:
    """A form in which patches are written for an engine.

    Args:
        help (`str`):
            One line: which engine takes it, and what is written.
        write (`str` or `Callable[..., Exported]`):
            The function that writes it, or `"module:function"`, which is imported when the format is used. It is
            called as `write(patches, output_dir, *, base=None, hub=None, **options)`: `patches` is a list of folders
            or Hub ids, each maybe with a name and `=` before it (see `load_named_patch`); `base` the name or folder
            of the base, None for the one that the first patch names; `hub` a [`HubOptions`] or None. Its further
            keyword arguments are the format's options: str, int, float or bool, or `... | None`, with a default.
    """

    help: str
    write: str | Callable[..., Exported]

    @property
    def writer(self) -> Callable[..., Exported]:
        """The function that writes the format. Imports its module."""
        if not isinstance(self.write, str):
            return self.write
        module, _, function = self.write.partition(":")
        return getattr(import_module(module), function)

    def options(self) -> dict[str, inspect.Parameter]:
        """Return the options that only this format takes, by name. Imports its module."""
        parameters = inspect.signature(self.writer).parameters
        return {
            name: each
            for name, each in parameters.items()
            if each.kind is inspect.Parameter.KEYWORD_ONLY and name not in _COMMON
        }


def _made(name: str, thing: Any) -> ExportFormat:
    """Return the format that others register or offer: an [`ExportFormat`], or a function that writes one."""
    if isinstance(thing, ExportFormat):
        return thing
    if not callable(thing):
        raise ExportError(
            f"The export format {name!r} is a {type(thing).__name__}; expected a function "
            "`write(patches, output_dir, *, base, hub)` or a `policy_patch.export.ExportFormat`."
        )
    missing = [word for word in _COMMON if word not in inspect.signature(thing).parameters]
    if missing:
        raise ExportError(
            f"The function of the export format {name!r} does not take `{'`, `'.join(missing)}`; expected "
            "`write(patches, output_dir, *, base, hub)`."
        )
    return ExportFormat((inspect.getdoc(thing) or name).splitlines()[0], thing)


FORMATS: Registry[ExportFormat] = Registry(
    "export format",
    group=ENTRY_POINTS,
    own={
        "peft": ExportFormat(
            "PEFT: a prompt-tuning adapter of each patch. Only for patches before BOS, or bases without BOS.",
            "policy_patch.export.peft_adapter:export_peft",
        ),
        "probe": ExportFormat(
            "Any server: only the predictions that `policy-patch probe` compares its answers with.",
            "policy_patch.export.probe_alone:export_probe",
        ),
        "gguf": ExportFormat(
            "llama.cpp: a GGUF of the base, made or edited, with the patches as tokens that chat puts first.",
            "policy_patch.export.gguf_export:export_gguf",
        ),
        "prompt-embeds": ExportFormat(
            "vLLM with the unmodified base: a chat template, the messages that carry the patches, and a probe.",
            "policy_patch.export.prompt_embeds:export_prompt_embeds",
        ),
    },
    error=ExportError,
    made=_made,
)


def register_export_format(name: str, thing: ExportFormat | Callable[..., Exported], *, replace: bool = False) -> None:
    """Make an export format of your own known in this process.

    An installed package makes one known in every process by an entry point of the group `policy_patch.export_formats`.

    Args:
        name (`str`):
            What `policy-patch export --format` calls it.
        thing ([`ExportFormat`] or `Callable`):
            The format, or the function that writes it; the first line of its docstring is then the help.
        replace (`bool`, *optional*, defaults to `False`):
            Take the place of what was registered under this name before in this process.

    Raises:
        ExportError: a name that is taken, or no format.
    """
    FORMATS.register(name, thing, replace=replace)


def export_as(
    name: str,
    patches: Sequence[str | PathLike],
    output_dir: str | PathLike,
    *,
    base: str | PathLike | None = None,
    hub: Any = None,
    options: Mapping[str, str] | None = None,
) -> Exported:
    """Write patches in a format by its name.

    Args:
        name (`str`):
            A name in `FORMATS`.
        patches, output_dir, base, hub:
            As [`ExportFormat`] says.
        options (`Mapping[str, str]`, *optional*):
            The format's own options as texts, as a command line gives them.

    Returns:
        [`Exported`]: what was written.

    Raises:
        ExportError: an unknown format or option, a value of the wrong type, or what the format itself refuses.
    """
    if name not in FORMATS:
        hint = did_you_mean(name, FORMATS, shown=repr, then=f"Available: {', '.join(FORMATS)}.")
        raise ExportError(f"`format={name!r}` is unknown. {hint}")
    known = FORMATS[name].options()
    values = {}
    for option, text in (options or {}).items():
        if option not in known:
            hint = did_you_mean(option, known, then=f"Its options: {', '.join(known) or 'none'}.")
            raise ExportError(f"The format {name!r} has no option `{option}`. {hint}")
        values[option] = _value(option, text, known[option].annotation)
    return FORMATS[name].writer(list(patches), output_dir, base=base, hub=hub, **values)


def _value(name: str, text: str, annotation: Any) -> Any:
    """Return an option's text as the type that the writer names for it."""
    words = [word.strip() for word in getattr(annotation, "__name__", str(annotation)).split("|")]
    if "bool" in words:
        if text.lower() not in ("true", "false"):
            raise ExportError(f"`{name}={text}`: expected true or false.")
        return text.lower() == "true"
    for word, make, kind in (("int", int, "a whole number"), ("float", float, "a number")):
        if word in words and "str" not in words:
            try:
                return make(text)
            except ValueError as error:
                raise ExportError(f"`{name}={text}`: expected {kind}.") from error
    return text
