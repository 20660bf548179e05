"""Tests of `evaluation.scored`: metrics from scores, and what a scorer may return."""

import numpy as np
import pytest

from policy_patch.errors import EvaluationError
from policy_patch.evaluation import Observed, by_scores
from policy_patch.evaluation.scored import check_scorer


class Listed:
    """Gives texts the scores of a table."""

    name, kind = "listed", "custom"
    scores = {"a": 0.0, "b": 0.5, "c": 1.0}

    def score(self, texts):
        return [self.scores[text] for text in texts]


def observed(*answers):
    none = np.zeros((len(answers), len(answers[0])), dtype=bool)
    return Observed([f"{number}" for number in range(len(answers))], list(answers), none, [], [], none[:0], None)


def test_each_metric_gets_the_scores_of_all_samples_and_gives_one_value_for_each_prompt():
    measure = by_scores(rate=lambda scores: scores.mean(axis=1), any=lambda scores: scores.max(axis=1) >= 0.5)
    found = measure(observed(["a", "b"], ["c", "c"], ["a", "<think>c</think>a"]), Listed())
    assert found.scores.tolist() == [[0.0, 0.5], [1.0, 1.0], [0.0, 0.0]]
    assert {name: values.tolist() for name, values in found.per_prompt.items()} == {
        "rate": [0.25, 1.0, 0.0], "any": [1.0, 1.0, 0.0]
    }  # fmt: skip


@pytest.mark.parametrize("returned", [[0.5], [0.5, 2.0], [0.5, -0.1], [0.5, float("nan")]])
def test_a_scorer_that_returns_no_probabilities_is_refused(returned):
    scorer = Listed()
    scorer.score = lambda texts: returned
    with pytest.raises(EvaluationError, match=r"Scorer 'listed' returned \(.*\) values for 2 texts, or values outside"):
        by_scores(rate=lambda scores: scores.mean(axis=1))(observed(["a", "b"]), scorer)


def test_what_cannot_score_is_no_scorer():
    check_scorer(Listed())
    for other in (object(), type("Nameless", (), {"score": Listed.score})()):
        with pytest.raises(EvaluationError, match="a scorer needs `name` and `score"):
            check_scorer(other)
