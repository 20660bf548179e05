"""Tests of `policy_patch.recipes`: its names are loaded when they are used, and all are there."""

import policy_patch.recipes as recipes


def test_every_name_is_there_and_listed():
    assert dir(recipes) == sorted(recipes.__all__) == sorted(recipes._MODULE_OF)
    for name in recipes.__all__:
        assert getattr(recipes, name).__name__ == name
