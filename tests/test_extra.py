"""Tests of `policy_patch.extra`: a missing package is named with the extra that installs it."""

import math
import sys

import pytest

from policy_patch.errors import MissingExtraError
from policy_patch.evaluation.scorers import FittedScorer, LexicalScorer
from policy_patch.extra import import_extra


def test_a_package_that_is_there_is_imported():
    assert import_extra("math", "math", "eval", "Arithmetic") is math


def test_a_missing_package_is_named_with_the_extra(monkeypatch):
    for module in ("profanity_check", "sklearn.feature_extraction.text"):
        monkeypatch.setitem(sys.modules, module, None)  # makes its import fail
    with pytest.raises(
        MissingExtraError, match=r'`LexicalScorer` needs the package `alt-profanity-check`. .*-patch\[eval\]"'
    ):
        LexicalScorer()
    with pytest.raises(ImportError, match="`FittedScorer` needs the package `scikit-learn`"):
        FittedScorer.fit(["a", "b"], [0, 1], name="x")
