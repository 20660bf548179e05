"""Tests of the form of rules for stacks: what a reference may be. Whole configurations are in `test_config.py`."""

import pytest

from policy_patch.errors import ConfigError
from policy_patch.stack_rules import Reference, check_order, read_reference


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("risk:gender_bias", Reference(risk="gender_bias")),
        ("sha256:" + "ab" * 32, Reference(sha256="ab" * 32)),
        ("bias-patch", Reference(name="bias-patch")),
        ("org/bias-patch", Reference(name="org/bias-patch")),
        ("org/bias-patch@1.2.0", Reference(name="org/bias-patch", version="1.2.0")),
        ("org/bias-patch@v1.2.0", Reference(name="org/bias-patch", version="1.2.0")),
        ("org/bias-patch@>=1.2.0-rc.1", Reference(name="org/bias-patch", operator=">=", version="1.2.0-rc.1")),
    ],
)
def test_a_reference_is_read(text, expected):
    assert read_reference(text) == expected


@pytest.mark.parametrize(
    "text", ["", "risk:", "a b", "a/b/c", "sha256:ab", "org/x@", "org/x@^1.0.0", "x\n", "é", "a" * 301, "https://x/y"]
)
def test_anything_else_is_refused(text):
    with pytest.raises(ConfigError, match="names no patch; expected `risk:gender_bias`"):
        read_reference(text)


def test_an_order_has_two_sides():
    assert [one.name for one in check_order({"after": ["a"], "before": ["b", "c"]})] == ["a", "b", "c"]
    with pytest.raises(ConfigError, match=r"`order\.before`: `b c` names no patch"):
        check_order({"before": ["b c"]})
