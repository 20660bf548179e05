"""Tests of the refusal of scorers that filtered the training pairs."""

from types import SimpleNamespace

import pytest

from policy_patch.errors import EvaluationError
from policy_patch.evaluation.independence import check_independence


def test_a_scorer_that_filtered_is_refused_with_what_to_do_in_python_and_in_a_shell():
    scorers = [SimpleNamespace(name="other"), SimpleNamespace(name="lexical")]
    with pytest.raises(
        EvaluationError, match=r"`lexical`.*`allow_filtering_scorers=True`.*`--allow_filtering_scorers`"
    ):
        check_independence(scorers, ["lexical"], allowed=False)
    check_independence(scorers, ["lexical"], allowed=True)
    check_independence(scorers, ["another"], allowed=False)
