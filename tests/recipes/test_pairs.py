"""Tests of `PairsRecipe` from Python; the file, the thresholds and going on are tested with the command."""

import pytest

from policy_patch.data import load_preference_pairs
from policy_patch.errors import ConfigError, DataError, EvaluationError, ModelLoadError
from policy_patch.recipes import PairsRecipe, pairs
from policy_patch.recipes.prompts import prompts_of

LAB = {"base": "lab:base", "teacher": "lab:teacher", "prompts": "lab:toxicity/train"}
ENDPOINT = "openai:m@http://localhost:8000/v1"


def test_it_runs_from_python_and_tells_of_the_sampling(tmp_path):
    told = []
    recipe = PairsRecipe(
        **LAB, output=str(tmp_path / "pairs.jsonl"), num_prompts=3, num_samples=2, max_new_tokens=4, min_margin=0,
        max_chosen_score=1, device="cpu",
    )  # fmt: skip
    result = recipe.run(on_progress=lambda *one: told.append(one))
    assert result.counts["prompts"] == 3 and result.counts["kept"] == len(result.pairs)
    assert load_preference_pairs(result.output).to_list() == result.pairs.to_list()
    assert {stage for stage, _, _ in told} == {"sampling answers"} and told[-1][1] == told[-1][2] > 0


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"teacher": "lab:techer"}, ModelLoadError, "^`teacher`: There is no model `lab:techer`"),
        ({"prompts": "no.txt"}, DataError, "^`prompts`: Cannot read `no.txt`"),
        ({"prompts": None}, DataError, "^`prompts` is missing: .* Or give a `risk` that has its own"),
        (
            {"prompts": None, "risk": "toxicity"},
            DataError,
            "^`prompts` is missing: .* toxicity has no prompts of its own",
        ),
        ({"risk": "toxicty"}, EvaluationError, "Did you mean 'toxicity'"),
        ({"temperature": 0}, ConfigError, "^`temperature=0.0`: expected a number above 0"),
    ],
)
def test_what_cannot_be_is_told_before_a_model_is_loaded(tmp_path, monkeypatch, values, error, message):
    monkeypatch.setattr(pairs, "load_answering", None)  # not to be called
    with pytest.raises(error, match=message):
        PairsRecipe(**{**LAB, "output": str(tmp_path / "pairs.jsonl"), **values}).run()


def test_hosts_take_a_temperature_of_0():
    PairsRecipe(**{**LAB, "base": ENDPOINT, "teacher": ENDPOINT}, output="x.jsonl", temperature=0).check()


def test_a_risk_says_which_prompts_and_which_scorer_are_taken(tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(pairs, "load_answering", lambda name, **options: (name, None))
    monkeypatch.setattr(
        pairs, "sample_pairs", lambda *given, **how: taken.append((given[2], how["scorer"])) or ([], {})
    )
    monkeypatch.setattr("policy_patch.data.save_preference_pairs", lambda *given: None)
    models = {"base": "lab:base", "teacher": "lab:teacher", "output": str(tmp_path / "pairs.jsonl")}
    PairsRecipe(**models, risk="gender_bias").run()
    PairsRecipe(**models, risk="harmfulness", prompts="lab:harmfulness/train").run()
    PairsRecipe(**models, risk="harmfulness", prompts="lab:harmfulness/train", scorer="lexical").run()
    PairsRecipe(**models, prompts="lab:toxicity/train").run()
    assert [scorer for _, scorer in taken] == ["gender-words", "compliance", "lexical", "lexical"]
    assert taken[0][0] == prompts_of("occupations/train") and taken[3][0] == prompts_of("lab:toxicity/train")


@pytest.mark.parametrize("asked", [{"risk": "harmfulness"}, {"scorer": "compliance"}])
def test_pairs_of_refusals_are_not_made_for_requests_labelled_as_harmless(tmp_path, asked):
    """Whether the risk is named or only its scorer: a teacher that over-refuses would teach it."""
    harmful, safe = prompts_of("lab:harmfulness/train")[:3], prompts_of("lab:look_alike/train")[:3]
    rows = [f'"{text}",{label}' for label, texts in (("unsafe", harmful), ("safe", safe)) for text in texts]
    (tmp_path / "both.csv").write_text("\n".join(["prompt,label", *rows]))
    recipe = PairsRecipe(
        **{**LAB, "prompts": str(tmp_path / "both.csv")}, **asked, output=str(tmp_path / "pairs.jsonl"), num_samples=1,
        max_new_tokens=4, min_margin=0, max_chosen_score=1, device="cpu",
    )  # fmt: skip
    assert set(recipe.run().pairs["prompt"]) == set(harmful)
