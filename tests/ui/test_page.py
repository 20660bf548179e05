"""Tests of `ui.page`: what the page opens with, and what is closed however it is launched."""

import functools

import pytest

pytest.importorskip("gradio")

import gradio as gr

from policy_patch.lab import LAB_MODELS_PATH, lab_patch_folder, lab_prompts
from policy_patch.ui import page as page_module
from policy_patch.ui.door import Door
from tests.hub.conftest import put
from tests.ui.buttons import Buttons

LAB = ["lab:toxicity", "lab:gender_bias", "lab:harmfulness"]


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
    assert compared["value"] == measured["value"] == LAB[:1] and inspected["value"] == LAB[0]
    for ticked, chosen, expected in ((LAB[:2], LAB[1], [LAB[:2], LAB[1]]), (["gone"], "gone", [[], LAB[0]])):
        updates = page.press("on_more", ticked, chosen)
        assert [one["choices"] for one in updates] == [LAB, LAB]
        assert [one["value"] for one in updates] == expected, "what is chosen stays"


@pytest.mark.parametrize(
    ("arguments", "environment", "base", "patches"),
    [
        ((None, None), {}, "lab:base", LAB),
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
    assert all(one == gr.update() for one in page.press("on_more", [], None))


def test_a_page_whose_base_is_fixed_has_no_form_for_another():
    page = Buttons(base=None)
    assert "change" not in page.names() and {"write", "measure", "look", "train", "push", "more"} <= page.names()


def test_a_page_of_ones_own_takes_another_base_or_says_why_not():
    page = Buttons("lab:base", [str(lab_patch_folder("toxicity"))], base_may_change=True)
    for base, patches, field, words in (
        ("/etc/passwd", "", "base", "is not the name of a base"),
        (" ", "", "base", "No base was named"),
        ("lab:base", "nonsense", "patches", "nonsense is not the name of a patch"),
    ):
        values = page.press("change", base, patches, "toxicity")
        found, said = page.noted("change", values)
        assert found == field and words in said and not page.served.is_loaded
    values = page.press("change", "lab:base", "lab:toxicity lab:harmfulness", "toxicity")
    assert values[0] == "Base: `lab:base`" and page.noted("change", values) is None
    assert values[1]["choices"] == values[2]["choices"] == ["lab:toxicity", "lab:harmfulness"]
    assert values[1]["value"] == ["lab:toxicity"] and values[3]["value"] == "lab:toxicity"
    page.press("change", "lab:base", "nonsense", "toxicity")
    assert page.press("on_offer")[0]["choices"] == ["lab:toxicity", "lab:harmfulness"], "the one before stays"


def test_another_base_clears_the_patches_the_prompts_and_the_answers_of_the_one_before(hub):
    put({file.name: file.read_bytes() for file in (LAB_MODELS_PATH / "base").iterdir()}, "acme/tiny-base")
    page = Buttons("lab:base", LAB, base_may_change=True)
    values = page.press("change", "acme/tiny-base", None, "harmfulness")
    about, compared, measured, inspected, prompt, examples, texts, *shown = values
    assert about == "Base: `acme/tiny-base`" and compared["choices"] == measured["choices"] == []
    assert compared["value"] == [] and inspected["value"] is None
    own = [*page_module._LAB_PROMPTS, *lab_prompts("harmfulness", "test"), *lab_prompts("toxicity", "test")]
    assert prompt not in own and not [one for [one] in examples["samples"] if one in own]
    assert texts and not [line for line in texts.splitlines() if line in own]
    assert all(one == "" or one.get("visible") is False or one == gr.update() for one in shown), shown
    back = page.press("change", "lab:base", "lab:toxicity", "harmfulness")
    assert back[4] in own and back[6].splitlines()[0].replace(r"\n", "\n") in own, "the control"


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
