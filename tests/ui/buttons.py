"""The functions behind the page's buttons, called as Gradio calls them and without a browser or a server."""

import asyncio
import html
import inspect
import re
from collections.abc import Iterator
from typing import Any

import gradio as gr
from gradio.helpers import special_args

from policy_patch.ui import build_demo
from policy_patch.ui.served import Served


class Buttons:
    """A page that is not launched.

    Args:
        base (`str`, *optional*, defaults to `"lab:base"`):
            As `build_demo` takes it, and all others.
    """

    def __init__(self, base: str = "lab:base", patches: list[str] | None = None, **options: Any) -> None:
        async def build() -> gr.Blocks:
            return build_demo(base, patches, **options)

        self.page = asyncio.run(build())  # outside a loop, Gradio 6 makes one that nobody closes
        self.served: Served = self.page.served

    def names(self) -> set[str]:
        """Return the names of the functions."""
        return {one.api_name for one in self.page.fns.values() if one.fn is not None}

    def steps(self, name: str, *inputs: Any, visitor: str = "ann") -> Iterator[list[Any]]:
        """Yield what the function shows, one value for each of its outputs, each time it shows something."""
        [function] = [one for one in self.page.fns.values() if one.api_name == name]
        assert len(inputs) == len(function.inputs), f"`{name}` takes {[one.label for one in function.inputs]}"
        given = special_args(function.fn, list(inputs), gr.Request(session_hash=visitor))[0]
        shown = function.fn(*given)
        for one in shown if inspect.isgenerator(shown) else [shown]:
            values = list(one) if isinstance(one, tuple | list) else [one]
            if function.outputs:
                assert len(values) == len(function.outputs)
            yield values

    def press(self, name: str, *inputs: Any, visitor: str = "ann") -> list[Any]:
        """Return what the function shows in the end."""
        *_, last = self.steps(name, *inputs, visitor=visitor)
        return last

    def noted(self, name: str, values: list[Any]) -> tuple[str, str] | None:
        """Return the field and the text of the one note that these values show; None if they show none."""
        [function] = [one for one in self.page.fns.values() if one.api_name == name]
        notes = [
            (output.elem_id.rpartition("-")[2], html.unescape(re.sub("<[^>]*>", "", value["value"])))
            for output, value in zip(function.outputs, values, strict=True)
            if "pp-note" in (output.elem_classes or []) and value.get("visible")
        ]
        assert len(notes) <= 1, notes
        return notes[0] if notes else None
