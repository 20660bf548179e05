"""Tests of `evaluation.classifiers`: texts are cut to what the classifier takes."""

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    RobertaConfig,
    XLNetConfig,
)

from policy_patch.errors import EvaluationError
from policy_patch.evaluation.classifiers import LabelProbabilities, kind_of_output
from policy_patch.evaluation.judge_models import ClassifierJudge
from policy_patch.evaluation.scorers import TransformersScorer
from tests.tiny_models import VOCAB_SIZE, tiny_tokenizer

SHAPE = {
    "vocab_size": VOCAB_SIZE, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 16, "max_position_embeddings": 40, "initializer_range": 0.5,
    "id2label": {0: "nothate", 1: "hate"}, "label2id": {"nothate": 0, "hate": 1},
}  # fmt: skip
TEXTS = ["Anna is kind.", "Anna is kind and polite. " * 50, "x" * 37, "x" * 38, "x" * 39, "x" * 40, ""]


def classifier(config):
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config).eval()


def unlimited():
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = int(1e30)
    return tokenizer


def expected_of(model, text, limit):
    inputs = tiny_tokenizer()(text, return_tensors="pt", truncation=True, max_length=limit)
    with torch.no_grad():
        return model(**inputs).logits.softmax(-1)[0, 1].item()


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (RobertaConfig(**SHAPE, pad_token_id=5), 34),  # positions begin behind the id of padding
        (RobertaConfig(**SHAPE, pad_token_id=0), 39),
        (BertConfig(**SHAPE), 40),
        (DebertaV2Config(**SHAPE, relative_attention=True, position_biased_input=False, pos_att_type=["p2c"]), 40),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 4])
def test_long_texts_are_cut_at_what_the_classifier_takes(config, limit, batch_size):
    model = classifier(config)
    probabilities = LabelProbabilities(model, unlimited(), "m", ["hate"], batch_size)
    assert probabilities.limit == limit
    expected = [expected_of(model, text, limit) for text in TEXTS]
    assert probabilities.of(TEXTS) == pytest.approx(expected, abs=1e-5)


def test_scorers_and_judges_cut_alike():
    model, tokenizer = classifier(RobertaConfig(**SHAPE, pad_token_id=5)), unlimited()
    expected = [expected_of(model, text, 34) for text in TEXTS]
    assert TransformersScorer(model, tokenizer).score(TEXTS) == pytest.approx(expected, abs=1e-5)
    assert ClassifierJudge(model, tokenizer).judge(TEXTS, TEXTS) == pytest.approx(expected, abs=1e-5)
    pairs = ClassifierJudge(model, tokenizer, sees="pair").judge(TEXTS, TEXTS)
    assert len(pairs) == len(TEXTS) and all(0 <= value <= 1 for value in pairs)


def test_a_tokenizer_that_says_less_is_believed_and_without_any_limit_ours_is_taken():
    short = unlimited()
    short.model_max_length = 12
    assert LabelProbabilities(classifier(BertConfig(**SHAPE)), short, "m", ["hate"], 1).limit == 12
    endless = XLNetConfig(vocab_size=VOCAB_SIZE, d_model=16, n_layer=1, n_head=2, d_inner=16)
    assert LabelProbabilities(classifier(endless), unlimited(), "m", ["hate"], 1).limit == 512


def test_a_limit_that_nothing_tells_ends_in_our_error():
    model = classifier(BertConfig(**SHAPE))
    table = model.bert.embeddings.position_embeddings
    probabilities = LabelProbabilities(model, unlimited(), "m", ["hate"], 1)
    assert probabilities.limit == 40
    table.weight.data = table.weight.data[:20]  # and nobody asks again
    with pytest.raises(EvaluationError, match=r"`m` fails on a text of 40 tokens: .* Give shorter texts"):
        probabilities.of(TEXTS[1:2])


def test_logits_that_are_not_numbers_are_refused():
    model = classifier(BertConfig(**SHAPE))
    model.classifier.weight.data[:] = float("nan")
    for ask in (
        TransformersScorer(model, unlimited()).score,
        LabelProbabilities(model, unlimited(), "m", ["hate"], 1).of,
    ):
        with pytest.raises(EvaluationError, match="are not numbers"):
            ask(["a"])


def test_a_regression_model_is_refused():
    assert kind_of_output(BertConfig(num_labels=1)) == kind_of_output(BertConfig(num_labels=1, problem_type=None))
    with pytest.raises(EvaluationError, match="regression model; its number is no probability"):
        kind_of_output(BertConfig(problem_type="regression"))
