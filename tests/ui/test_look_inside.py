"""Tests of `ui.look_inside`: what the tab says of a patch, against plain loops and patches whose vectors are known."""

import base64
import html
import re
import shlex
import shutil
from dataclasses import replace

import pytest
import torch
from huggingface_hub import HfApi

pytest.importorskip("gradio")

from policy_patch.cli import main
from policy_patch.lab import lab_patch_folder, load_lab_base, load_lab_tokenizer
from policy_patch.patch.folder import patch_files, read_patch_folder, write_patch_folder
from tests.hub.conftest import put
from tests.ui.buttons import Buttons


def test_nothing_is_shown_where_nothing_is_chosen(buttons):
    for nothing in (None, ""):
        said, facts, near, heat, card, *_ = values = buttons.press("look", nothing)
        assert (said, facts, near, heat["visible"], card) == ("", "", "", False, "")
        assert buttons.noted("look", values)[1].endswith("No patch was chosen. Choose one first.")


def test_what_cannot_be_looked_into_is_told(buttons):
    said, facts, near, heat, card, *_ = values = buttons.press("look", "nothing")
    assert buttons.noted("look", values) == (
        "inspected",
        "That did not work. nothing is not in memory any more. Add it again.",
    )
    assert (said, facts, near, heat["visible"], card) == ("", "", "", False, "")


def test_a_patch_of_the_page_is_shown_with_its_configuration_norms_and_picture(buttons):
    config, vectors = read_patch_folder(lab_patch_folder("toxicity"))
    said, facts, near, heat, card, *_ = buttons.press("look", "lab:toxicity")
    assert said.startswith("**Fits `lab:base`**, checked by its fingerprint.")
    assert f"{vectors.numel():,} numbers, {vectors.numel() * 4 // 1024} KiB" in said
    shown = dict(lines_of(facts))
    assert shown["num virtual tokens"] == "50" and shown["risk"] == "toxicity"
    assert shown["filtered by"] == "alt-profanity-check (lexical)"
    assert shown["init text"] == config.init_text and "base fingerprint" not in shown and "None" not in shown.values()
    assert [row[:2] for row in lines_of(near)] == [
        [str(at), f"{vector.norm():.3g}"] for at, vector in enumerate(vectors)
    ]
    png = base64.b64decode(re.search(r"base64,([^\"]+)", heat["value"])[1])
    assert heat["visible"] and png.startswith(b"\x89PNG\r\n")
    assert (
        "# lab:toxicity: a safety patch for toxicity" in card and not card.startswith("---") and "license:" not in card
    )


def test_the_nearest_tokens_are_those_of_a_plain_loop(buttons):
    vectors = read_patch_folder(lab_patch_folder("harmfulness"))[1]
    table, tokenizer = load_lab_base().get_input_embeddings().weight.detach(), load_lab_tokenizer()
    near = lines_of(buttons.press("look", "lab:harmfulness")[2])
    for row in (0, 7, 49):
        cosines = [float(vectors[row] @ token / vectors[row].norm() / token.norm()) for token in table]
        best = sorted(range(len(cosines)), key=lambda token: -cosines[token])[:5]
        assert near[row][2] == "".join(f"{tokenizer.decode([token])!r} {cosines[token]:.2f}" for token in best)


def lines_of(page):
    """Return the cells of the lines of all tables, as a reader sees them."""
    lines = [line for line in re.findall("<tr>(.*?)</tr>", page) if "<td" in line]
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line) for line in lines]
    return [[html.unescape(re.sub("<[^>]*>", "", cell)) for cell in line] for line in cells]


@pytest.fixture
def folder(tmp_path):
    """A patch whose vectors are the embeddings of three tokens, twice as long, in a folder with an odd name."""
    tokenizer = load_lab_tokenizer()
    ids = tokenizer(" kind old friend", add_special_tokens=False)["input_ids"][:3]
    config, _ = read_patch_folder(lab_patch_folder("toxicity"))
    config = replace(config, num_virtual_tokens=3, init="vocab", init_text=None, sha256=None, filtered_by=None)
    place = tmp_path / "deep place" / "three tokens"
    write_patch_folder(place, config, 2 * load_lab_base().get_input_embeddings().weight.detach()[ids])
    return place, [repr(tokenizer.decode([token])) for token in ids]


def test_vectors_that_are_embeddings_of_tokens_are_nearest_to_these_tokens(folder):
    place, tokens = folder
    near = lines_of(Buttons(patches=[str(place)]).press("look", "three tokens")[2])
    assert [row[2].startswith(f"{token} 1.00") for token, row in zip(tokens, near, strict=True)] == [True] * 3


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("---\nlicense: mit\n---\n# My card\n", "# My card\n"),
        ("# No metadata\n---\nmore", "# No metadata\n---\nmore"),
        ("# Mine, in PLACE\n", "# Mine, in a file of this page\n"),
        ("x" * (2**18 + 1), None),
        (None, None),
    ],
)
def test_the_card_is_shown_without_metadata_and_places_and_made_where_there_is_none(folder, text, shown):
    place, _ = folder
    if text is not None:
        (place / "README.md").write_text(text.replace("PLACE", f"`{place}`"))
    card = Buttons(patches=[str(place)]).press("look", "three tokens")[4]
    if shown is None:
        assert "# three tokens: a safety patch for toxicity" in card and len(card) < 2**18
    else:
        assert card.replace("`", "") == shown
    assert str(place) not in card


def test_a_patch_without_a_fingerprint_is_said_to_fit_by_its_size_alone(folder):
    place, _ = folder
    config, vectors = read_patch_folder(place)
    shutil.rmtree(place)
    write_patch_folder(place, replace(config, base_fingerprint=None, sha256=None), vectors)
    said, facts, *_ = Buttons(patches=[str(place)]).press("look", "three tokens")
    assert "checked by its size alone" in said
    assert str(place) not in facts and ["num virtual tokens", "3"] in lines_of(facts)


def test_of_a_patch_of_the_hub_the_commit_is_shown_and_only_to_who_brought_it(buttons, hub):
    commit = put(patch_files(*read_patch_folder(lab_patch_folder("gender_bias")))[1], "acme/bias-patch")
    buttons.press("more", "acme/bias-patch", [], visitor="gina")
    said, facts, *_ = buttons.press("look", "acme/bias-patch", visitor="gina")
    assert said.startswith("**Fits") and lines_of(facts)[-2:] == [["repository", "acme/bias-patch"], ["commit", commit]]
    values = buttons.press("look", "acme/bias-patch", visitor="hugo")
    assert "not in memory any more" in buttons.noted("look", values)[1]


def code_of(card, language):
    """Return the blocks of code in a card."""
    return re.findall(rf"```{language}\n(.*?)```", card, re.DOTALL)


@pytest.mark.parametrize("risk", ["toxicity", "gender_bias", "harmfulness"])
def test_the_code_for_a_patch_of_the_lab_runs_as_it_is_printed(buttons, risk, capsys):
    card = buttons.press("look", f"lab:{risk}")[4]
    [code] = code_of(card, "python")
    exec(compile(code, "card", "exec"), names := {})
    model = names["model"]
    assert torch.equal(model.patches["default"].detach(), read_patch_folder(lab_patch_folder(risk))[1])
    assert capsys.readouterr().out.startswith("The weather today is") and "tags of this repository" not in card
    [_, command] = code_of(card, "sh")
    assert main(shlex.split(command)[1:]) == 0
    assert "The weather today is" in capsys.readouterr().out


def test_the_code_for_a_patch_of_the_hub_names_the_repository_and_the_commit_or_the_version(buttons, hub):
    commit = put(patch_files(*read_patch_folder(lab_patch_folder("gender_bias")))[1], "acme/of-two")
    HfApi(token="hf_alice").create_tag("acme/of-two", tag="v1.0.0")
    for source, revision in (("acme/of-two", commit), ("acme/of-two@1.0.0", "v1.0.0")):
        buttons.press("more", source, [], visitor="gil")
        code = code_of(buttons.press("look", source, visitor="gil")[4], "python")[0]
        assert f'from_pretrained(base, "acme/of-two", revision="{revision}")' in code
        exec(compile(code, "card", "exec"), names := {})
        assert names["model"].patch_config["default"].risk == "gender_bias"


def test_the_code_for_a_folder_of_the_page_names_no_place_of_this_machine(folder):
    place, _ = folder
    code = code_of(Buttons(patches=[str(place)]).press("look", "three tokens")[4], "python")[0]
    assert 'from_pretrained(base, "path/to/three tokens")' in code and str(place.parent) not in code
