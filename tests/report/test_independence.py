"""Tests of `report.independence`: whether a scorer helped to choose the training pairs."""

import pytest

from policy_patch.report.independence import filtered_pairs


@pytest.mark.parametrize(
    ("scorer", "filtered_by", "same"),
    [
        ("/home/anna/clf", "clf", True),
        ("clf", "/home/anna/clf", True),
        ("./clf (answer alone)", "/models/clf (answer alone)", True),
        ("/home/anna/clf", "lexical + clf", True),
        ("/home/anna/clf", "other", False),
        ("org/clf", "clf", False),
    ],
)
def test_a_scorer_is_known_wherever_it_lies(scorer, filtered_by, same):
    """What is published names it without its folder."""
    assert filtered_pairs(scorer, [filtered_by]) == same
