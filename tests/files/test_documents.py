"""Tests of `files.documents`: limits hold before a reader pays for what is beyond them.

What is found where, value by value, is in `tests/files/test_texts.py`.
"""

import json
import math
import time

import pytest

from policy_patch.files.documents import Fault, check_nesting, parse_json, parse_toml, read_bytes, read_text


def test_a_text_is_read_up_to_its_limit_and_no_byte_further(tmp_path):
    path = tmp_path / "text"
    path.write_bytes("grün".encode())
    assert read_text(path, largest=5) == "grün"
    with pytest.raises(Fault, match="more than 4 bytes; it was not read"):
        read_text(path, largest=4)


def test_a_huge_file_costs_no_memory(tmp_path):
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(2**40)  # sparse: takes no room on the disk
    with pytest.raises(Fault, match="more than 1,000 bytes"):
        read_text(tmp_path / "huge", largest=1000)


def test_bytes_that_are_no_text_are_named(tmp_path):
    (tmp_path / "text").write_bytes(b"ab\xffc")
    with pytest.raises(Fault, match="the byte 0xff at 2, which is not UTF-8"):
        read_text(tmp_path / "text", largest=10)


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity"])
def test_constants_that_are_no_json_pass_where_they_may_alone(name):
    assert not math.isfinite(parse_json(f'{{"a": [{name}]}}')["a"][0])
    with pytest.raises(Fault) as caught:
        parse_json(f'{{"a": [{name}]}}', allow_nan=False)
    assert caught.value.at("x") == f"x has in `a[0]` `{name}`, which is no number of JSON"


@pytest.mark.parametrize(
    "text",
    [
        "[" * 17 + '"' + '\\"' * 500_000,  # a text without an end, in which every quote could begin one
        "[" * 17 + "\\" * 1_000_000,
        "{" + ",".join(f'"{number}": 0' for number in range(100_000)) + ', "99999": 1}',
    ],
    ids=["quotes", "backslashes", "keys"],
)
def test_no_text_takes_more_than_its_length_in_time(text):
    start = time.perf_counter()
    with pytest.raises((Fault, json.JSONDecodeError)):
        parse_json(text)
    assert time.perf_counter() - start < 5  # hours where it is quadratic


def test_brackets_in_a_text_are_no_nesting():
    check_nesting(json.dumps({"a": "[" * 100 + '"\\'}), 1)
    with pytest.raises(Fault, match="more than 1 brackets"):
        check_nesting(json.dumps({"a": ["[" * 100]}), 1)


def test_toml_has_the_same_limits():
    assert parse_toml("[a]\nb = [1, 2.5]\n") == {"a": {"b": [1, 2.5]}}
    for text, said in {
        "[a": "no valid TOML", "a = 1\na = 2": "no valid TOML", "a = " + "9" * 5000: "no valid TOML",
        "a = " + "9" * 20: "beyond 64 bits", "a = " + "[" * 17: "more than 16 brackets",
    }.items():  # fmt: skip
        with pytest.raises(Fault) as raised:
            parse_toml(text)
        assert said in str(raised.value)


def test_bytes_are_read_up_to_the_same_limit(tmp_path):
    (tmp_path / "x").write_bytes(b"\xff\xfe")
    assert read_bytes(tmp_path / "x", largest=2) == b"\xff\xfe"
    with pytest.raises(Fault, match="more than 1 bytes"):
        read_bytes(tmp_path / "x", largest=1)
