"""Tests of `evaluation.by_name`: scorers and judges by name, ours, registered ones and those of installed packages."""

import re

import pytest

from policy_patch.errors import EndpointError, EvaluationError
from policy_patch.evaluation.by_name import (
    JUDGES,
    SCORERS,
    load_judge,
    load_scorer,
    register_judge,
    register_scorer,
)
from policy_patch.evaluation.judges import EndpointJudge
from policy_patch.evaluation.scorers import Scorer, TransformersScorer
from tests.evaluation.test_judges import ANSWERS, PROMPTS
from tests.evaluation.test_scorers import RUDE, tiny_classifier
from tests.installed import install
from tests.tiny_models import tiny_tokenizer


class Shouting:
    """Scores a text by whether it has more exclamation marks than it may."""

    kind = "custom"

    def __init__(self, most="0"):
        self.name, self.most = f"shouting, more than {most}", int(most)

    def score(self, texts):
        return [float(text.count("!") > self.most) for text in texts]

    def judge(self, prompts, answers):
        return self.score(answers)


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """Forget after each test what it registered."""
    for table in (SCORERS, JUDGES):
        monkeypatch.setattr(table, "_registered", {})


# Ours


def test_scorers_are_loaded_by_name(tmp_path):
    assert load_scorer("lexical").name == "alt-profanity-check (lexical)"
    lab = load_scorer("lab-insults")
    assert isinstance(lab, Scorer) and lab.kind == "lexical"
    assert lab.score(["You idiot!", "Hello."]) == [1.0, 0.0]
    file = tmp_path / "labelled.csv"
    file.write_text('text,label\n"You fool, you",1\nYou dear,0\n')
    assert load_scorer(f"fitted:{file}").name == "labelled.csv (lexical)"
    tiny_classifier(["nothate", "hate"]).save_pretrained(tmp_path / "classifier")
    tiny_tokenizer().save_pretrained(tmp_path / "classifier")
    scorer = load_scorer(f"hf:{tmp_path / 'classifier'}")
    expected = TransformersScorer(tiny_classifier(["nothate", "hate"]), tiny_tokenizer()).score(RUDE)
    assert scorer.score(RUDE) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lexicle", "Scorer 'lexicle' is unknown. Did you mean `lexical`?"),
        ("lab-insult", "Did you mean `lab-insults`?"),
        ("fited:x.csv", "Did you mean `fitted:<file.csv>`?"),
        ("hf:", "Did you mean `hf:<model>`?"),
        ("", "Scorer '' is unknown. Available: lexical, lab-insults, hf:<model>, fitted:<file.csv>"),
        ("fitted:nowhere.csv", "Cannot read `nowhere.csv`"),
        ("gender-words:", "Did you mean `gender-words[:<list>]`?"),
        ("lexical:x", "Did you mean `lexical`?"),
    ],
)
def test_unknown_scorers_are_refused_with_near_names(spec, message):
    with pytest.raises(EvaluationError, match=re.escape(message)):
        load_scorer(spec)


def test_judges_without_a_model_are_loaded_by_name(tmp_path):
    assert load_judge("refusal-phrases").name == "refusal phrases"
    file = tmp_path / "mine.txt"
    file.write_text("you fool\n")
    judge = load_judge(f"refusal-phrases:{file}")
    assert judge.name == "refusal phrases of mine.txt"
    assert judge.judge(PROMPTS, ANSWERS) == [1.0, 0.0, 1.0]
    judge = load_judge("openai:org/m@http://localhost:8000/v1")
    assert (type(judge), judge.name) == (EndpointJudge, "org/m at http://localhost:8000/v1")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("refusal-phrase", "Judge 'refusal-phrase' is unknown. Did you mean `refusal-phrases[:<file>]`?"),
        ("refusal-phrases:", "Did you mean `refusal-phrases[:<file>]`?"),
        ("refusal-phrases:nowhere.txt", "Cannot read `nowhere.txt`"),
        ("gard:x", "Did you mean `guard:<model>`?"),
        ("guard:", "Did you mean `guard:<model>`?"),
        ("harm-bench:x", "Did you mean `harmbench:<model>`?"),
        ("clasifier:x", "Did you mean `classifier:<model>`?"),
        ("openai:m", "Did you mean `openai:<model>@<url>`?"),
        ("openai:@http://host/v1", "Did you mean `openai:<model>@<url>`?"),
        (
            "",
            "Judge '' is unknown. Available: refusal-phrases[:<file>], guard:<model>, harmbench:<model>, "
            "classifier:<model>, openai:<model>@<url>, fitted:<file.csv>.",
        ),
    ],
)
def test_unknown_judges_are_refused_with_near_names(spec, message):
    with pytest.raises(EvaluationError, match=re.escape(message)):
        load_judge(spec)


def test_an_address_with_a_secret_is_refused_without_showing_it():
    with pytest.raises(EndpointError, match="has a user name, a password or a query") as error:
        load_judge("openai:m@http://me:very-secret@host/v1")
    assert "very-secret" not in str(error.value)


# Others


@pytest.mark.parametrize(("register", "load"), [(register_scorer, load_scorer), (register_judge, load_judge)])
def test_one_of_your_own_is_loaded_by_its_name_with_and_without_a_text(register, load):
    register("shouting", Shouting)
    assert load("shouting").score(["Hey!", "Hey."]) == [1.0, 0.0]
    assert load("shouting:2").score(["Hey!!", "Hey!!!"]) == [0.0, 1.0]
    with pytest.raises(EvaluationError, match=re.escape("Did you mean `shouting[:...]`? Available: ")):
        load("shoutin")
    register("plain", lambda: Shouting())
    register("limited", lambda most: Shouting(most))
    assert load("plain").most == 0 and load("limited:3").most == 3
    for spec in ("plain:3", "limited", "limited:"):
        with pytest.raises(EvaluationError, match=f"{spec}' is unknown. Did you mean"):
            load(spec)


@pytest.mark.parametrize(
    ("name", "load", "message"),
    [
        ("lexical", Shouting, "The name 'lexical' is taken by another scorer. Choose one of your own."),
        ("hf:mine", Shouting, "'hf:mine' is no name for a scorer; expected letters"),
        ("shouting", Shouting(), "The scorer 'shouting' is a Shouting; expected a class or function that makes"),
        ("shouting", lambda one, two: None, "`load` of the scorer 'shouting' needs other arguments; expected"),
    ],
)
def test_what_cannot_be_a_scorer_is_refused(name, load, message):
    with pytest.raises(EvaluationError, match=re.escape(message)):
        register_scorer(name, load)


def test_installed_packages_offer_scorers_and_judges(tmp_path, monkeypatch):
    code = "class Calm:\n    name = 'calm'\n    def score(self, texts):\n        return [0.25 for _ in texts]\n"
    points = {"policy_patch.scorers": {"calm": "calm_offer:Calm"}, "policy_patch.judges": {"gone": "calm_offer:Gone"}}
    install(tmp_path, "calm-offer", points, calm_offer=code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EvaluationError, match=r"Did you mean `calm`\?"):
        load_scorer("calmm")
    assert load_scorer("calm").score(["a", "b"]) == [0.25, 0.25]
    with pytest.raises(
        EvaluationError,
        match=r"The judge 'gone' cannot be had from the entry point `gone = calm_offer:Gone` \(group "
        r"`policy_patch.judges`\) of the package `calm-offer`: AttributeError: .*Mend that package or uninstall it",
    ):
        load_judge("gone")
    assert load_judge("refusal-phrases").name == "refusal phrases", "nobody else is stopped by it"
