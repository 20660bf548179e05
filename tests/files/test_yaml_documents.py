"""Tests of `files.yaml_documents`: what YAML takes without a word is refused with its line, at once."""

import time

import pytest
import yaml

from policy_patch.files.documents import Fault
from policy_patch.files.yaml_documents import YamlFault, check_yaml, parse_yaml

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 9)
)
MERGED = "a0: &a0 {a: 1, b: 2}\n" + "".join(
    f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 10)}]}}\n" for level in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (LAUGHS, 4, "more than 10,000 values"),
        (MERGED, 5, "more than 10,000 values"),
        ("a: &a [*a]", 1, r"`\*a` within the value of that name, which has no end"),
        ("a: &a {b: {<<: *a}}", 1, r"`\*a` within the value of that name"),
        ("a: &a 1\nb: &a [*a]", 2, r"`\*a` within the value of that name"),
        ("a: &a " + "x" * 10**6 + "\nb: [*a, *a, *a, *a, *a]", 2, "more than 4,194,304 characters"),
        ("[" * 10**5, 1, "more than 32 values within each other"),
        ("a: 1\n" + "".join(" " * level + "k:\n" for level in range(40)), 34, "more than 32 values"),
        ("? " * 40, 1, "more than 32 values within each other"),
        ("a: 1\nb: {c: 1, c: 2}", 2, "the key `b.c` twice"),
        ("a: [" + "9" * 5_000 + "]", 1, "an integer beyond 64 bits in `a`: 9999"),
        ("a: -0x" + "f" * 5_000, 1, "an integer beyond 64 bits in `a`: -0xff"),
        ("a: 0" + "7" * 22, 1, "an integer beyond 64 bits"),
        ("a: " + ":".join("1" * 10**5), 1, "a number of 199,999 characters"),
        ("a: !!float '" + ":".join("1" * 10**5) + ".'", 1, "a number of 200,000 characters"),
        ("a: [1", 1, "what is no YAML: "),
    ],
)
def test_what_must_not_pass_is_refused_at_once_with_its_line(text, line, reason):
    start = time.monotonic()
    with pytest.raises(YamlFault, match=reason) as fault:
        parse_yaml(text)
    assert fault.value.line == line or "no YAML" in reason
    assert fault.value.at("`it`").startswith(f"`it`, line {fault.value.line} has ")
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("text", ["a: 2025-13-01", "a: 0x_", "a: !!int '1.5'", "? [a]\n: 1"])
def test_what_its_reader_stumbles_over_is_a_fault(text):
    with pytest.raises(Fault):
        parse_yaml(text)


def test_what_is_clear_is_read_as_pyyaml_reads_it():
    text = f"a: &a [1, {2**63 - 1}, -0b11, 0777777777777777777777, 1:30, 1e3, '{'9' * 99}', 2025-01-02]\nb: {{c: *a}}\n"
    assert parse_yaml(text) == yaml.safe_load(text)
    assert parse_yaml("") is None
    assert parse_yaml("a: 1\na: 2", unique_keys=False) == {"a": 2}
    check_yaml("a: [1")  # what is no YAML is left to its reader


def test_both_readers_of_yaml_are_asked(monkeypatch):
    asked = []
    parse = yaml.parse
    monkeypatch.setattr(yaml, "parse", lambda text, Loader: asked.append(Loader) or parse(text, Loader))
    check_yaml("a: 1")
    assert asked == [yaml.SafeLoader, getattr(yaml, "CSafeLoader", yaml.SafeLoader)]
