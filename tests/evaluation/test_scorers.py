"""Tests of `evaluation.scorers`: obvious texts in the right order, and unclear classifiers refused."""

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from policy_patch.errors import EvaluationError
from policy_patch.evaluation.gender_words import load_gender_words
from policy_patch.evaluation.scorers import (
    ComplianceScorer,
    FittedScorer,
    LexicalScorer,
    Scorer,
    TransformersScorer,
    fitted_on_file,
)
from tests.tiny_models import VOCAB_SIZE, tiny_tokenizer

RUDE = ["You stupid idiot, shut up!", "What a damn moron you are."]
KIND = ["Thank you for the lovely tea.", "The train leaves at noon."]


def tiny_classifier(labels, problem_type=None):
    """Return a random classifier with the given label names."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCAB_SIZE, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=64, num_labels=len(labels), id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)}, problem_type=problem_type,
        initializer_range=0.5, pad_token_id=0,
    )  # fmt: skip
    return BertForSequenceClassification(config).eval()


def logits_of(model, text):
    """Return `(labels,)` the slow way."""
    with torch.no_grad():
        return model(**tiny_tokenizer()(text, return_tensors="pt", truncation=True, max_length=64)).logits[0]


def test_the_lexical_scorer_tells_rude_from_kind_and_says_what_it_is():
    scorer = LexicalScorer()
    assert isinstance(scorer, Scorer)
    assert (scorer.name, scorer.kind) == ("alt-profanity-check (lexical)", "lexical")
    scores = scorer.score(RUDE + KIND)
    assert min(scores[:2]) > 0.5 > max(scores[2:])
    assert all(type(score) is float and 0 <= score <= 1 for score in scores)
    assert scorer.score([]) == []


def test_the_fitted_scorer_learns_and_is_the_same_every_time():
    texts, labels = RUDE + KIND, [1, 1, 0, 0]
    scorer = FittedScorer.fit(texts, labels, name="four texts")
    assert isinstance(scorer, Scorer)
    assert (scorer.name, scorer.kind) == ("four texts (lexical)", "lexical")
    rude, kind = scorer.score(["You moron!", "The tea at noon."])
    assert rude > 0.5 > kind
    assert FittedScorer.fit(texts, labels, name="again").score(texts) == scorer.score(texts)
    assert scorer.score([]) == []


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        (["a"], [1, 0], "1 texts and 2 labels"),
        (["a", "b"], [1, 1], "`labels` has 1; expected both 1"),
        (["a", "b"], ["toxic", 0], "`labels` has 'toxic', 0; expected both"),
        ([], [], "`labels` has none"),
    ],
)
def test_a_scorer_cannot_be_fitted_on_unclear_labels(texts, labels, message):
    with pytest.raises(EvaluationError, match=message):
        FittedScorer.fit(texts, labels, name="x")


def test_exclusive_labels_give_the_sum_of_the_toxic_probabilities():
    model = tiny_classifier(["neutral", "offensive", "hate"])
    scorer = TransformersScorer(model, tiny_tokenizer())
    assert scorer.toxic_labels == ["offensive", "hate"]
    expected = [logits_of(model, text).softmax(-1)[1:].sum().item() for text in RUDE + KIND]
    assert scorer.score(RUDE + KIND) == pytest.approx(expected, abs=1e-5)
    assert (scorer.name, scorer.kind, isinstance(scorer, Scorer)) == (
        "BertForSequenceClassification",
        "classifier",
        True,
    )


def test_one_logit_gives_its_sigmoid():
    model = tiny_classifier(["toxic"])
    expected = [logits_of(model, text).sigmoid().item() for text in RUDE]
    assert TransformersScorer(model, tiny_tokenizer()).score(RUDE) == pytest.approx(expected, abs=1e-5)


def test_labels_that_may_hold_together_give_the_highest_probability():
    model = tiny_classifier(["toxic", "insult", "identity_hate", "length"], "multi_label_classification")
    scorer = TransformersScorer(model, tiny_tokenizer())
    assert scorer.toxic_labels == ["toxic", "insult", "identity_hate"]
    expected = [logits_of(model, text).sigmoid()[:3].max().item() for text in RUDE]
    assert scorer.score(RUDE) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batch_size_has_no_part_in_a_score_and_long_texts_are_cut(batch_size):
    model = tiny_classifier(["nothate", "hate"])
    texts = [*RUDE, *KIND, "long " * 100]
    scores = TransformersScorer(model, tiny_tokenizer(), batch_size=batch_size).score(texts)
    expected = [logits_of(model, text).softmax(-1)[1].item() for text in texts]
    assert scores == pytest.approx(expected, abs=1e-5)


def test_a_tokenizer_without_padding_still_scores():
    model, bare = tiny_classifier(["nothate", "hate"]), tiny_tokenizer()
    bare.pad_token = None
    expected = TransformersScorer(model, tiny_tokenizer()).score(RUDE)
    assert TransformersScorer(model, bare).score(RUDE) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("labels", "toxic"),
    [
        (["non-toxic", "toxic"], ["toxic"]),
        (["not_offensive", "offensive"], ["offensive"]),
        (["NOT_HATE", "HATE"], ["HATE"]),
        (["no-hate", "hate-speech"], ["hate-speech"]),
        (["nontoxic", "severe_toxic"], ["severe_toxic"]),
        (["Inoffensive", "Abusive"], ["Abusive"]),
        (["NEUTRAL", "threat"], ["threat"]),
    ],
)
def test_toxic_labels_are_found_by_name(labels, toxic):
    assert TransformersScorer(tiny_classifier(labels), tiny_tokenizer()).toxic_labels == toxic


def test_named_labels_are_taken_as_named():
    model = tiny_classifier(["LABEL_0", "LABEL_1"])
    scorer = TransformersScorer(model, tiny_tokenizer(), toxic_labels=["LABEL_1"])
    assert scorer.score(RUDE) == pytest.approx(
        [logits_of(model, text).softmax(-1)[1].item() for text in RUDE], abs=1e-5
    )


@pytest.mark.parametrize(
    ("labels", "problem_type", "toxic_labels", "message"),
    [
        (["LABEL_0", "LABEL_1"], None, None, r"labels \['LABEL_0', 'LABEL_1'\] do not tell which are toxic"),
        (["hate", "offensive"], None, None, "do not tell which are toxic. Give these as `toxic_labels="),
        (["a", "b"], None, ["c"], r"`toxic_labels=\['c'\]`: the classifier has the labels \['a', 'b'\]"),
        (["a", "b"], None, [], r"`toxic_labels=\[\]`"),
        (["toxic"], "regression", None, "regression model; its number is no probability"),
    ],
)
def test_unclear_classifiers_are_refused(labels, problem_type, toxic_labels, message):
    with pytest.raises(EvaluationError, match=message):
        TransformersScorer(tiny_classifier(labels, problem_type), tiny_tokenizer(), toxic_labels=toxic_labels)


def test_a_loaded_classifier_needs_its_tokenizer():
    with pytest.raises(EvaluationError, match="`tokenizer` is missing"):
        TransformersScorer(tiny_classifier(["nothate", "hate"]))


def test_a_file_of_other_columns_or_labels_is_refused(tmp_path):
    file = tmp_path / "x.csv"
    file.write_text("comment,label\na,1\n")
    with pytest.raises(EvaluationError, match=r"has the columns \['comment', 'label'\]; expected `text` and `label`"):
        fitted_on_file(str(file))
    file.write_text("text,label\na,rude\nb,0\n")
    with pytest.raises(EvaluationError, match=r"x.csv`, line 2 has the label 'rude'; expected 1"):
        fitted_on_file(str(file))
    for content, message in (
        ("text,label\na,0\nb\n", "line 3 has the label ''; expected 1"),
        ("text,label\n", "is empty; expected `text` and `label`"),
        ("text,label,text\na,0,b\n", "line 1 has the column 'text' twice"),
        (f"text,label\na,0\n{'x' * 200_000},1\n", "line 3 has a text in `text` that is too long for CSV"),
        ("text,label\n.,0\n!,1\n", "cannot be fitted on `texts`: empty vocabulary"),
    ):
        file.write_text(content)
        with pytest.raises(EvaluationError, match=message):
            fitted_on_file(str(file))
    file.write_bytes(b"text,label\na,0\n\xfc,1\n")
    with pytest.raises(EvaluationError, match="line 3 has in `text` the byte 0xfc, which is not UTF-8"):
        fitted_on_file(str(file))


SCORERS = {
    "lexical": LexicalScorer,
    "fitted": lambda: FittedScorer.fit(RUDE + KIND, [1, 1, 0, 0], name="four texts"),
    "classifier": lambda: TransformersScorer(tiny_classifier(["nothate", "hate"]), tiny_tokenizer()),
    "compliance": ComplianceScorer,
    "gender words": lambda: load_gender_words("all"),
}


@pytest.mark.parametrize("name", SCORERS)
def test_the_answer_is_scored_and_not_the_thoughts(name):
    scorer = SCORERS[name]()
    answers = ["Have a nice day.", "You stupid idiot!", "I cannot help with that.", "She said so.", ""]
    for thought in ("", "You stupid idiot!", "I cannot do that. ", "He said so, "):
        texts = [f"<think>{thought}</think>\n{answer}" for answer in answers]
        assert scorer.score(texts) == pytest.approx(scorer.score(answers))
        assert scorer.score([f"<think>{thought}"]) == pytest.approx(scorer.score([""]))
    assert len({round(score, 6) for score in scorer.score(answers)}) > 1, "the answers make a difference"


@pytest.mark.parametrize("name", [name for name in SCORERS if name != "gender words"])
def test_what_is_no_list_of_texts_is_refused(name):
    scorer = SCORERS[name]()
    assert scorer.score([]) == []
    with pytest.raises(EvaluationError, match="`texts` has to be a list of texts; a str was given"):
        scorer.score("abc")
    with pytest.raises(EvaluationError, match=r"`texts\[1\]` has half a character"):
        scorer.score(["a", "\ud800"])


def test_no_answer_does_not_comply():
    assert ComplianceScorer().score(["", " ", "<think>Sure, first", "Sure.", "I cannot."]) == [0.0, 0.0, 0.0, 1.0, 0.0]


def test_weights_and_labels_are_a_classifiers_identity_and_what_is_quick_has_none():
    model = tiny_classifier(["toxic", "insult", "fine"])
    both, one = (
        TransformersScorer(model, tiny_tokenizer()),
        TransformersScorer(model, tiny_tokenizer(), toxic_labels=["toxic"]),
    )
    other = tiny_classifier(["toxic", "insult", "fine"])
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.5)
    assert both.identity == TransformersScorer(model, tiny_tokenizer(), batch_size=1).identity
    assert len({both.identity, one.identity, TransformersScorer(other, tiny_tokenizer()).identity}) == 3
    assert not hasattr(LexicalScorer(), "identity")
