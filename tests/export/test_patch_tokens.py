"""Tests of the patch tokens: names, ids and choices, and which of them are refused."""

import pytest

from policy_patch.errors import ExportError
from policy_patch.export.patch_tokens import PatchTokens, choices_of, new_marker

MARKER = "0123456789abcdef" * 2


def tokens(**changes) -> PatchTokens:
    given = {
        "marker": MARKER,
        "ids": {"tox": (10, 11), "bias": (12,)},
        "choices": choices_of(["tox", "bias", ("bias", "tox")]),
        "default": "tox",
    }
    return PatchTokens(**{**given, **changes})


def test_a_choice_stands_for_the_ids_of_its_patches_in_order():
    assert tokens().ids_of() == tokens().ids_of("tox") == (10, 11)
    assert tokens().ids_of("bias+tox") == (12, 10, 11)
    assert tokens().ids_of("off") == tokens().ids_of("none") == ()
    assert tokens(default="off").ids_of() == ()


def test_every_name_holds_the_marker_and_no_two_are_equal():
    names = tokens().name_of
    assert list(names) == [10, 11, 12] and len(set(names.values())) == 3
    assert all(MARKER in name for name in names.values())
    assert tokens().names_of("bias") == (names[12],)


def test_markers_are_drawn_anew():
    assert len({new_marker() for _ in range(20)}) == 20
    assert len(new_marker()) == 32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"marker": "abc"}, "expected 32 hexadecimal digits"),
        ({"ids": {"tox": (10, 10), "bias": (12,)}}, "expected different ones"),
        ({"ids": {"tox": (), "bias": ()}}, "expected different ones"),
        ({"choices": {}}, "There is no patch to export"),
        ({"choices": {"off": ("tox",)}}, "means the base alone"),
        ({"choices": {"it's": ("tox",)}}, "expected letters, digits"),
        ({"choices": {"tox": ("nox",)}}, "different patches of"),
        ({"choices": {"tox": ("tox", "tox")}}, "different patches of"),
        ({"default": "nox"}, "expected one of tox, bias, bias\\+tox, none, off"),
    ],
)
def test_what_cannot_be_served_is_refused(changes, message):
    with pytest.raises(ExportError, match=message):
        tokens(**changes)


def test_an_unknown_choice_is_refused():
    with pytest.raises(ExportError, match="There is no choice `nox`"):
        tokens().ids_of("nox")


def test_a_patch_named_twice_is_refused():
    with pytest.raises(ExportError, match="twice"):
        choices_of(["tox", ("tox",)])
