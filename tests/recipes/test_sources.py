"""Tests of `recipes.sources`: one source, a list of one risk, a mapping of several, the patch's risk."""

import json

import pytest

from policy_patch.cli import parse
from policy_patch.errors import DataError
from policy_patch.recipes.sources import counts_of, init_text_of, load_pairs, risk_of

SHORT = ["train", "--base", "org/model", "--output_dir", "out"]


@pytest.fixture
def files(tmp_path):
    """Two files of pairs, of three and of two rows."""
    paths = {}
    for name, count in (("rude", 3), ("gendered", 2)):
        rows = [{"prompt": f"{name} {index}", "chosen": "a", "rejected": "b"} for index in range(count)]
        paths[name] = str(tmp_path / f"{name}.jsonl")
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paths


@pytest.mark.parametrize(
    ("words", "pairs"),
    [
        (["--data.pairs", "rude.jsonl"], "rude.jsonl"),
        (["--data.pairs", "org/pairs@v1"], "org/pairs@v1"),
        (["--data.pairs", "[rude.jsonl, org/pairs]"], ["rude.jsonl", "org/pairs"]),
        (["--data.pairs", "{toxicity: a, bias: org/b}"], {"toxicity": "a", "bias": "org/b"}),
        (["--data.pairs.toxicity", "a", "--data.pairs.bias", "b"], {"toxicity": "a", "bias": "b"}),
        (["--data.pairs", "null"], None),
        ([], None),
    ],
)
def test_sources_are_given_as_words_of_each_shape(words, pairs):
    assert parse([*SHORT, *words])[1].data.pairs == pairs


def test_one_source_is_taken_as_it_is(files):
    assert load_pairs(files["rude"])["prompt"][:] == ["rude 0", "rude 1", "rude 2"]


def test_a_list_is_of_one_risk(files):
    pairs = load_pairs([files["rude"], files["gendered"], files["rude"]])
    assert pairs.column_names == ["prompt", "chosen", "rejected"]
    assert sorted(pairs["prompt"])[:2] == ["gendered 0", "gendered 1"] and len(pairs) == 8


def test_a_mapping_is_of_several_risks(files):
    sources = {"toxicity": files["rude"], "gender_bias": files["gendered"]}
    pairs = load_pairs(sources, split="train", seed=3)
    assert counts_of(pairs) == "gender_bias: 2 pairs, toxicity: 3 pairs"
    assert load_pairs(sources, seed=3).to_list() == pairs.to_list()
    weighted = load_pairs(sources, weights={"toxicity": 1, "gender_bias": 20}, seed=1)
    assert weighted["risk"][:].count("gender_bias") > 10 * weighted["risk"][:].count("toxicity")


def test_weights_need_risks(files):
    with pytest.raises(DataError, match=r"`data\.weights` are shares of risks, but `data\.pairs` names no risks: \['"):
        load_pairs([files["rude"]], weights={"toxicity": 1})


@pytest.mark.parametrize(
    ("sources", "risk"),
    [
        ({"toxicity": "a", "bias": "b"}, "toxicity+bias"),
        ({"bias": "b"}, "bias"),
        (["a", "b"], "toxicity"),
        (None, "toxicity"),
    ],
)
def test_the_risk_of_a_patch_is_that_of_its_pairs(sources, risk):
    assert risk_of(sources) == risk


def test_the_instruction_to_start_from_is_that_of_all_risks():
    both = init_text_of("toxicity+gender_bias")
    assert both == f"{init_text_of('toxicity')} {init_text_of('gender_bias')}"
    assert init_text_of("toxicity+my_own") is None
