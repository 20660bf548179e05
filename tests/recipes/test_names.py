"""Tests of `recipes.names`: what cannot be there is refused by its name, and what may be on the Hub passes."""

import pytest

from policy_patch.errors import ConfigError, DataError, EndpointError, EvaluationError, PatchNotFoundError
from policy_patch.evaluation.risks import risk_named
from policy_patch.recipes.names import (
    check_model,
    check_patch,
    check_prompts,
    check_risk,
    check_risks_asked,
    check_scorer,
    check_source,
)


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    """A folder with one file of prompts, to work in."""
    (tmp_path / "prompts.txt").write_text("one\n")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "spec",
    [None, "prompts.txt", "org/prompts", "org/prompts@v1", "lab:toxicity/test", "winobias/test", "occupations/train",
     "occupations:prompts.txt/test"],
)  # fmt: skip
def test_prompts_that_may_be_there_pass(spec):
    check_prompts("prompts", spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("promts.txt", "`prompts`: Cannot read `promts.txt`: there is no such file. Did you mean `prompts.txt`"),
        ("org/prompts.csv", "`prompts`: Cannot read `org/prompts.csv`"),
        ("a/b/c", "`prompts`: Cannot read `a/b/c`"),
        ("lab:toxcity/test", "`prompts`: .*the lab has prompts for"),
        ("occupations:no.txt/test", "`prompts`: Cannot read `no.txt`"),
    ],
)
def test_prompts_that_are_not_there_are_told(spec, message):
    with pytest.raises(DataError, match=message):
        check_prompts("prompts", spec)


def test_pairs_may_have_any_ending_if_the_file_is_there():
    check_source("data.pairs", "prompts.txt")
    check_source("data.pairs", "org/pairs@main")
    with pytest.raises(DataError, match=r"`data\.pairs`: Cannot read `nowhere\.xml`"):
        check_source("data.pairs", "nowhere.xml")


def test_a_patch_is_a_folder_or_may_be_on_the_hub(tmp_path):
    check_patch("also.x", str(tmp_path))
    check_patch("also.x", "org/patch@v1.0.0")
    with pytest.raises(PatchNotFoundError, match=r"`also\.x`: `nowhere` does not exist"):
        check_patch("also.x", "nowhere")


def test_an_endpoint_is_checked_by_its_address():
    check_model("teacher", "openai:m@http://localhost:8000/v1", may_be_endpoint=True)
    for spec in ("openai:m", "openai:m@http://me:secret@host/v1"):
        with pytest.raises(EndpointError) as error:
            check_model("teacher", spec, may_be_endpoint=True)
        assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("risk", "spec"),
    [("toxicity", "lexical"), ("toxicity", "hf:org/x"), ("gender_bias", "pronouns"), ("harmfulness", "guard:org/x")],
)
def test_a_scorer_of_a_known_name_passes_without_loading_a_model(risk, spec):
    check_scorer("scorers", spec, risk_named(risk).load_scorer)


@pytest.mark.parametrize(
    ("risk", "spec", "error", "message"),
    [
        ("toxicity", "lexcal", EvaluationError, "^`scorers`: Scorer 'lexcal' is unknown. Did you mean `lexical`"),
        ("toxicity", "hf", EvaluationError, "^`scorers`: Scorer 'hf' is unknown. Did you mean `hf:<model>`"),
        ("harmfulness", "gard:org/x", EvaluationError, "^`scorers`: Judge 'gard:org/x' is unknown. .*`guard:<model>`"),
        ("toxicity", "fitted:no.csv", DataError, "^`scorers`: Cannot read `no.csv`"),
        ("gender_bias", "no.json", EvaluationError, "^`scorers`: "),
    ],
)
def test_a_scorer_that_is_not_there_is_told(risk, spec, error, message):
    with pytest.raises(error, match=message):
        check_scorer("scorers", spec, risk_named(risk).load_scorer)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("toxcity", r"^`patch\.risk='toxcity'` is a risk that is not known\. Did you mean 'toxicity'\?"),
        ("Toxicity", "Did you mean 'toxicity'"),
        ("gender-bias", "Did you mean 'gender_bias'"),
        ("toxicity+gender_bais", r"`patch\.risk='gender_bais'` in `patch\.risk='toxicity\+gender_bais'`"),
    ],
)
def test_a_misspelt_risk_is_refused_with_the_known_one(name, message):
    with pytest.raises(ConfigError, match=message):
        check_risk("patch.risk", name)


@pytest.mark.parametrize("name", ["toxicity", "toxicity+gender_bias", "toxicity2", "toxicity_de", "rudeness", "toxic"])
def test_known_risks_and_ones_of_the_users_own_pass(name):
    check_risk("patch.risk", name)


def test_a_mapping_with_a_risk_that_is_not_measured_is_refused():
    check_risks_asked("scorers_of", ["toxicity"], ["toxicity", "harmfulness"])
    with pytest.raises(ConfigError, match=r"^`scorers_of\.toxicity` has no effect: .* `other_risks`"):
        check_risks_asked("scorers_of", ["toxicity"], ["harmfulness"])
    with pytest.raises(EvaluationError, match=r"^`scorers_of\.toxcity`: .*Did you mean 'toxicity'"):
        check_risks_asked("scorers_of", ["toxcity"], ["toxicity"])
