"""Tests of `ui.notes`: one note is visible, below the field that caused the error, and a token is in none."""

import asyncio

import pytest

pytest.importorskip("gradio")

import gradio as gr

from policy_patch.errors import DataError
from policy_patch.ui.notes import FieldError, Notes, field
from policy_patch.ui.visitors import BusyError, StoppedError


@pytest.fixture
def notes():
    """The notes of a tab with a field in a fold, one outside, and a place for what no field caused."""

    async def draw() -> Notes:
        with gr.Blocks():
            notes = Notes("go")
            notes.below("prompt")
            with gr.Accordion("More") as fold:
                notes.below("seed", fold=fold)
            notes.below("go")
        return notes

    return asyncio.run(draw())  # outside a loop, Gradio 6 makes one that nobody closes


def shown(updates):
    return [(at, one["value"]) for at, one in enumerate(updates) if one.get("visible")]


def error_in(name, error):
    with pytest.raises(FieldError if isinstance(error, DataError) else type(error)) as raised, field(name):
        raise error
    return raised.value


def test_the_note_of_the_field_is_shown_and_the_others_are_hidden(notes):
    updates = notes.about(error_in("seed", DataError("no <b> seed")))
    assert len(updates) == len(notes.outputs) == 4
    [(at, words)] = shown(updates)
    assert at == 1 and "no &lt;b&gt; seed" in words and 'role="alert"' in words
    assert updates[3]["open"] is True, "a closed fold would hide the note"
    updates = notes.about(error_in("prompt", DataError("no prompt")))
    assert [at for at, _ in shown(updates)] == [0] and "open" not in updates[3]
    assert shown(notes.none()) == [] and len(notes.none()) == 4


@pytest.mark.parametrize("error", [BusyError("busy"), StoppedError("Stopped."), RuntimeError("unknown")])
def test_what_no_field_caused_is_told_at_the_button(notes, error):
    assert [at for at, _ in shown(notes.about(error_in("prompt", error)))] == [2]


def test_a_field_without_a_note_is_told_at_the_button(notes):
    assert [at for at, _ in shown(notes.about(FieldError("colour", "no")))] == [2]


def test_the_innermost_field_caused_it(notes):
    assert error_in("prompt", error_in("seed", DataError("no"))).field == "seed"


def test_a_token_is_in_no_note(notes):
    secret = "hf_<secret>"
    words = shown(notes.about(DataError(f"`{secret}` is refused"), secret=secret))[0][1]
    assert "secret" not in words and "..." in words
    assert "secret" in shown(notes.about(DataError(f"`{secret}` is refused")))[0][1], "the control"
    assert "nothing" in shown(notes.about(DataError("nothing"), secret=""))[0][1], "an empty token removes nothing"
