"""Tests of `data.extra`: the package, or the extra that brings it."""

import sys

import datasets
import pytest

from policy_patch.data.extra import import_datasets
from policy_patch.errors import MissingExtraError


def test_it_is_the_package_itself():
    assert import_datasets() is datasets


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)  # makes its import fail
    with pytest.raises(MissingExtraError, match=r"needs the package `datasets`.*policy-patch\[train\]"):
        import_datasets()
