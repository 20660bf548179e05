"""Tests of `ui.page`: what the page opens with, and what is closed however it is launched."""

import functools

import pytest

pytest.importorskip("gradio")

import gradio as gr

from policy_patch.lab import lab_patch_folder
from policy_patch.ui.door import Door
from tests.ui.buttons import Buttons

LAB = ["toxicity", "gender_bias", "harmfulness"]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in ("POLICY_PATCH_BASE", "POLICY_PATCH_PATCHES"):
        monkeypatch.delenv(name, raising=False)


def shown(page):
    return " ".join(str(block.value) for block in page.blocks.values() if isinstance(block, gr.Markdown))


def test_nothing_is_loaded_before_the_page_is_shown():
    page = Buttons(base=None)
    assert not page.served.is_loaded
    compared, measured, inspected, about = page.press("on_offer")
    assert page.served.is_loaded and "value" not in about
    assert compared["choices"] == measured["choices"] == inspected["choices"] == LAB
    assert compared["value"] == measured["value"] == ["toxicity"] and inspected["value"] == "toxicity"
    assert [one["choices"] for one in page.press("on_more")] == [LAB, LAB]


@pytest.mark.parametrize(
    ("arguments", "environment", "base", "patches"),
    [
        ((None, None), {}, "lab:base", [f"lab:{risk}" for risk in LAB]),
        ((None, None), {"POLICY_PATCH_BASE": "org/model"}, "org/model", []),
        ((None, None), {"POLICY_PATCH_PATCHES": " a/b  c/d@v1 "}, "lab:base", ["a/b", "c/d@v1"]),
        (
            ("org/other", ["e/f"]),
            {"POLICY_PATCH_BASE": "org/model", "POLICY_PATCH_PATCHES": "a/b"},
            "org/other",
            ["e/f"],
        ),
        (("lab:base", []), {"POLICY_PATCH_PATCHES": "a/b"}, "lab:base", []),
    ],
)
def test_what_is_served_is_given_or_in_the_environment(monkeypatch, arguments, environment, base, patches):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    page = Buttons(*arguments)
    assert page.served._given == (base, patches) and page.served.base == base
    assert f"Base: `{base}`" in shown(page.page)


def test_a_base_that_cannot_be_loaded_is_told_without_its_place(tmp_path):
    place = tmp_path / "no such model"
    page = Buttons(str(place), [])
    *offers, about = page.press("on_offer")
    assert [one["choices"] for one in offers] == [[], [], []] and offers[2]["value"] is None
    assert "did not work" in about and str(tmp_path) not in about + shown(page.page)
    assert all(one == gr.update() for one in page.press("on_more"))


def test_a_page_whose_base_is_fixed_has_no_form_for_another():
    page = Buttons(base=None)
    assert "change" not in page.names() and {"write", "measure", "look", "train", "push", "more"} <= page.names()


def test_a_page_of_ones_own_takes_another_base_or_says_why_not():
    page = Buttons("lab:base", [str(lab_patch_folder("toxicity"))], base_may_change=True)
    about, said = page.press("change", "/etc/passwd", "")
    assert about == "Base: `lab:base`" and said.startswith("**That did not work.**") and not page.served.is_loaded
    assert page.press("change", "lab:teacher", None) == ["Base: `lab:teacher`", "Loaded. Reload the page."]
    about, said = page.press("change", "lab:base", "lab:toxicity lab:harmfulness")
    assert (about, said) == ["Base: `lab:base`", "Loaded. Reload the page."] or said.startswith("Loaded")
    assert page.press("on_offer")[0]["choices"] == ["toxicity", "harmfulness"]
    assert "did not work" in page.press("change", "lab:base", "nonsense")[1]
    assert page.press("on_offer")[0]["choices"] == ["toxicity", "harmfulness"], "the one before stays"


def test_what_shows_more_of_the_server_than_the_page_is_off_whatever_is_asked(buttons, monkeypatch):
    given = {}
    launch = functools.wraps(gr.Blocks.launch)(lambda self, **options: given.update(options))
    monkeypatch.setattr(gr.Blocks, "launch", launch)
    wanted = {"show_error": True, "run_history": True, "ssr_mode": True, "mcp_server": True, "enable_monitoring": True}
    buttons.page.launch(
        server_name="0.0.0.0", max_file_size=10**9, app_kwargs={"middleware": ["mine"], "x": 1}, **wanted
    )
    assert {name: given[name] for name in wanted} == dict.fromkeys(wanted, False)
    assert given["max_file_size"] == 1 and given["server_name"] == "0.0.0.0" and given["app_kwargs"]["x"] == 1
    first, *own = given["app_kwargs"]["middleware"]
    assert first == "mine" and own[-1].cls is Door


def test_only_what_others_may_call_is_named_in_the_api(buttons):
    public = {one.api_name for one in buttons.page.fns.values() if one.api_visibility == "public"}
    assert public == {"write", "more", "measure", "look"}
