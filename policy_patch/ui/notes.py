"""Messages about errors, each below the field of the page that caused it, and how an error says which field that is.

The texts are in `asking.py`; each tab draws its own notes.
"""

import html
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from policy_patch.errors import PolicyPatchError
from policy_patch.extra import needs_extra
from policy_patch.ui.asking import told_html
from policy_patch.ui.visitors import BusyError, StoppedError

with needs_extra("demo", "The page"):
    import gradio as gr


class FieldError(PolicyPatchError, ValueError):
    """Raised when the content of one field of the page caused an error.

    Args:
        field (`str`):
            The name of the field, as the tab's [`Notes`] know it.
        message (`str`):
            The message for the visitor.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@contextmanager
def field(name: str) -> Iterator[None]:
    """Turn our errors inside the context into errors of this field. Limits and stops are no field's fault.

    Raises:
        FieldError: an error of this package was raised inside.
    """
    try:
        yield
    except (FieldError, BusyError, StoppedError):
        raise
    except PolicyPatchError as error:
        raise FieldError(name, str(error)) from error


class Notes:
    """The notes of one tab. At most one is visible: the note of the field that caused the last error.

    Args:
        other (`str`):
            The note for errors that no single field caused.
    """

    def __init__(self, other: str) -> None:
        self._other = other
        self._notes: dict[str, gr.HTML] = {}
        self._folds: dict[str, gr.Accordion] = {}

    def below(self, *fields: str, fold: "gr.Accordion | None" = None) -> None:
        """Draw an invisible note here, for these fields. An error opens the `fold` in which the note is."""
        note = gr.HTML(visible=False, elem_id=f"pp-wrong-{self._other}-{fields[0]}", elem_classes="pp-note")
        self._notes |= dict.fromkeys(fields, note)
        if fold is not None:
            self._folds |= dict.fromkeys(fields, fold)

    @property
    def outputs(self) -> list[Any]:
        """Return the components that `none` and `about` update, in the same order."""
        return [*dict.fromkeys(self._notes.values()), *dict.fromkeys(self._folds.values())]

    def none(self) -> list[Any]:
        """Return the updates that hide all notes."""
        return self._updates(None, "")

    def about(self, error: Exception, *, secret: str | None = None) -> list[Any]:
        """Return the updates that show the message about an error below its field, and hide the other notes.

        Args:
            error (`Exception`):
                Any error.
            secret (`str`, *optional*):
                A visitor's token, maybe empty. It is removed from the message, and the error is not logged.
        """
        name = error.field if isinstance(error, FieldError) else self._other
        caused = error.__cause__ if isinstance(error, FieldError) and isinstance(error.__cause__, Exception) else error
        shown = told_html(caused, is_secret=secret is not None)
        if secret:
            shown = shown.replace(html.escape(secret, quote=False), "...")
        return self._updates(name if name in self._notes else self._other, shown)

    def _updates(self, name: str | None, shown: str) -> list[Any]:
        note, fold = self._notes.get(name or ""), self._folds.get(name or "")
        return [
            gr.update(value=shown if one is note else "", visible=one is note)
            if isinstance(one, gr.HTML)
            else gr.update(open=True)
            if one is fold
            else gr.update()
            for one in self.outputs
        ]
