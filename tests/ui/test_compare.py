"""Tests of `ui.compare`: the functions behind the tab show what the package samples, and tell what goes wrong."""

import html
import itertools
import re

import pytest

pytest.importorskip("gradio")

from policy_patch import PolicyPatchModel
from policy_patch.data import sample_completions
from policy_patch.lab import lab_patch_folder, load_lab_base, load_lab_tokenizer
from policy_patch.patch.folder import patch_files, read_patch_folder
from policy_patch.ui import visitors as visitors_module
from tests.hub.conftest import put
from tests.ui.buttons import Buttons

PROMPT = "Jack thinks that Iris is"
TOX, HARM = "lab:toxicity", "lab:harmfulness"
SETTINGS = (0, 1.0, 0.9, 12, False)  # seed, temperature, top-p, new tokens, blur


def text_of(column):
    """Return the answer in a column, as the browser shows it."""
    return html.unescape(re.sub("<[^>]*>", "", re.search(r'class="pp-prompt">.*?</span>(.*?)</div>', column, re.S)[1]))


def title_of(column):
    return re.match(r'<h3 class="pp-title">(.*?)</h3>', column)[1]


def sampled(labels, seed=0, tokens=12, prompt=PROMPT):
    base = load_lab_base()
    if labels:
        folders = [lab_patch_folder(label.removeprefix("lab:")) for label in labels]
        model = PolicyPatchModel.from_pretrained(base, folders, [folder.name for folder in folders])
        base = model.eval()
    settings = {"num_samples": 1, "seed": seed, "top_p": 0.9, "max_new_tokens": tokens}
    return sample_completions(base, load_lab_tokenizer(), [prompt], **settings)[0][0]


@pytest.mark.parametrize("labels", [[TOX], [HARM, TOX], [TOX, HARM]])
def test_both_columns_end_with_what_the_package_samples(buttons, labels):
    steps = list(buttons.steps("write", PROMPT, labels, *SETTINGS))
    base, patched, *_ = steps[-1]
    assert (text_of(base), text_of(patched)) == (sampled([]), sampled(labels))
    assert title_of(base) == "Base, without a patch"
    assert title_of(patched) == ("With the patch " if len(labels) == 1 else "With the patches ") + ", then ".join(
        labels
    )
    assert all("· done" in column for column in (base, patched)) and buttons.noted("write", steps[-1]) is None


def test_both_columns_grow_token_by_token(buttons):
    steps = [step for step in buttons.steps("write", PROMPT, [TOX], *SETTINGS) if step[0] != "Loading the model ..."]
    assert len(steps) >= 12
    for before, after in itertools.pairwise(steps):
        for column in (0, 1):
            assert text_of(after[column]).startswith(text_of(before[column]).rstrip("\ufffd"))
    assert "· writing" in steps[0][0] and "1 tokens" in steps[0][0]


def test_with_no_patch_both_columns_are_the_base(buttons):
    base, patched, *_ = buttons.press("write", PROMPT, [], *SETTINGS)
    assert text_of(base) == text_of(patched) == sampled([])
    assert "With no patch: the base again" in patched


def test_the_seed_decides_and_offensive_words_are_blurred_only_on_request(buttons):
    columns = [buttons.press("write", PROMPT, [], seed, 1.0, 0.9, 20, False)[0] for seed in (0, 1)]
    assert [text_of(column) for column in columns] == [sampled([], seed, 20) for seed in (0, 1)]
    assert text_of(columns[0]) != text_of(columns[1])
    assert "toxicity 1.00 · high" in columns[0] and "pp-blur" not in columns[0]
    blurred = buttons.press("write", PROMPT, [], 0, 1.0, 0.9, 20, True)[0]
    assert "pp-blur" in blurred and text_of(blurred) == text_of(columns[0])


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({0: ""}, "prompt", "Write a prompt first"),
        ({0: " \n\u200f\n"}, "prompt", "Write a prompt first"),
        ({0: None}, "prompt", "Write a prompt first"),
        ({0: "a " * 4001}, "prompt", "8,002 characters; this page takes at most 8,000"),
        ({0: "You are " * 400}, "prompt", "at most 256 are allowed"),
        ({1: ["nothing"]}, "patches", "nothing is not in memory any more"),
        ({1: [TOX, TOX]}, "patches", "named twice"),
        ({1: TOX}, "patches", "not a list of names"),
        ({2: -1}, "seed", "The seed is -1; expected a whole number from 0 to 4294967295. A seed only chooses the"),
        ({2: 1.5}, "seed", "The seed is 1.5; expected a whole number"),
        ({2: 2**32}, "seed", "The seed is 4294967296; expected a whole number"),
        ({3: 0}, "temperature", "temperature is 0; expected a number from 0.1 to 2"),
        ({3: float("nan")}, "temperature", "temperature is nan"),
        ({4: 1.5}, "top_p", "top_p is 1.5; expected a number from 0.1 to 1"),
        ({5: 101}, "new_tokens", "new_tokens is 101; expected a number from 1 to 100"),
        ({5: "5"}, "new_tokens", "new_tokens is 5; expected a number"),
        ({5: True}, "new_tokens", "new_tokens is True; expected a number"),
    ],
)
def test_what_cannot_be_written_is_told_below_its_field_and_nothing_else_is_shown(buttons, changes, field, words):
    inputs = [changes.get(at, value) for at, value in enumerate([PROMPT, [TOX], *SETTINGS])]
    values = buttons.press("write", *inputs)
    found, said = buttons.noted("write", values)
    assert values[:2] == ["", ""] and found == field
    assert said.startswith("That did not work.") and words in said
    in_the_fold = field in ("seed", "temperature", "top_p", "new_tokens")
    assert (values[-1].get("open") is True) == in_the_fold, "a fold that hides the note is opened"


def test_a_visitor_has_two_prompts_answered_at_a_time(buttons):
    running = [buttons.steps("write", PROMPT, [], *SETTINGS, visitor="ben") for _ in range(2)]
    for steps in running:
        next(steps)
    told = buttons.press("write", PROMPT, [], *SETTINGS, visitor="ben")
    field, words = buttons.noted("write", told)
    assert told[:2] == ["", ""] and "still working on your earlier request (writing)" in words and field == "write"
    assert text_of(buttons.press("write", PROMPT, [], *SETTINGS, visitor="eve")[0]) == sampled([])
    running[0].close()  # Stop
    assert text_of(buttons.press("write", PROMPT, [], *SETTINGS, visitor="ben")[0]) == sampled([])
    running[1].close()


def test_writing_ends_when_nobody_waits_for_it(buttons, monkeypatch):
    monkeypatch.setattr(visitors_module, "GONE_SECONDS", -1.0)
    monkeypatch.setattr(buttons.served.visitors, "is_counting", True)
    steps = list(buttons.steps("write", PROMPT, [], *SETTINGS))
    assert len(steps) < 4
    assert steps[-1][:2] == ["", ""] and "nobody waits for the result any more" in buttons.noted("write", steps[-1])[1]


def test_the_order_of_the_stack_is_shown_with_its_lengths(buttons):
    shown = re.sub("<[^>]*>", "", buttons.press("stack_of", [HARM, TOX])[0])
    assert shown == "BOS → lab:harmfulness (50 vectors) → lab:toxicity (50 vectors) → your text"
    assert re.sub("<[^>]*>", "", buttons.press("stack_of", None)[0]) == "BOS → your text"
    assert "<code>x</code> is not in memory any more" in buttons.press("stack_of", ["x"])[0]


def test_a_patch_of_the_hub_is_offered_and_ticked_last(buttons, hub):
    put(patch_files(*read_patch_folder(lab_patch_folder("toxicity")))[1], "acme/tox-patch")
    for chosen in ([HARM], ["acme/tox-patch", "gone", HARM], None):
        patches, source, *_ = values = buttons.press("more", "acme/tox-patch", chosen, visitor="carl")
        assert patches["value"] == [*([HARM] if chosen else []), "acme/tox-patch"]
        assert sorted(patches["choices"]) == ["acme/tox-patch", "lab:gender_bias", HARM, TOX]
        assert source["value"] == "" and buttons.noted("more", values) is None
    shown = buttons.press("write", PROMPT, ["acme/tox-patch"], *SETTINGS, visitor="carl")[1]
    assert "With the patch acme/tox-patch" in shown
    told = buttons.press("write", PROMPT, ["acme/tox-patch"], *SETTINGS, visitor="dora")
    assert "not in memory any more" in buttons.noted("write", told)[1], "it is the other visitor's"


def test_what_cannot_be_added_is_told_and_the_ticks_stay(buttons, hub):
    for source, words in (
        ("", "No patch was named"),
        ("toxicity", "takes Hub ids, like org/tox-patch or org/tox-patch@v1.0.0, and lab:toxicity"),
        ("acme/nothing-here", "acme/nothing-here"),
        ("/etc", "takes Hub ids"),
    ):
        patches, typed, *_ = values = buttons.press("more", source, [TOX])
        assert "value" not in patches and "choices" not in patches and "value" not in typed
        field, said = buttons.noted("more", values)
        assert field == "source" and words in said


def test_who_comes_first_is_told_that_the_model_is_loading():
    page = Buttons(patches=[])
    assert not page.served.is_loaded
    steps = page.steps("write", PROMPT, [], *SETTINGS)
    assert next(steps)[:2] == ["Loading the model ...", ""]
    assert page.served.is_loaded is False and text_of(list(steps)[-1][0]) == sampled([])
    assert next(page.steps("write", PROMPT, [], *SETTINGS))[0] != "Loading the model ..."
