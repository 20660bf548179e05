"""Tests of `policy_patch.semver`: the order of SemVer, ranges, and tags."""

import itertools

import pytest

from policy_patch.errors import VersionRangeError
from policy_patch.semver import parse_range, precedence, version_of_tag, version_tag

# https://semver.org, item 11, and numbers that words would order otherwise.
ORDERED = (
    "0.1.0", "0.9.0", "0.10.0", "1.0.0-1", "1.0.0-2", "1.0.0-10", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta",
    "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.0.1", "2.0.0",
)  # fmt: skip


def test_versions_are_ordered_as_semver_says():
    for one, other in itertools.combinations(ORDERED, 2):
        assert precedence(one) < precedence(other), (one, other)


def test_build_metadata_does_not_count():
    assert precedence("1.0.0+a") == precedence("1.0.0+b.2") == precedence("1.0.0")


@pytest.mark.parametrize("version", ORDERED)
def test_each_version_has_a_tag(version):
    assert version_of_tag(version_tag(version)) == version


@pytest.mark.parametrize(
    "tag", ["main", "v1", "1.0.0", "vv1.0.0", "v1.0", "v01.0.0", "release-v1.0.0", "", f"v1.0.{10**300}"]
)
def test_other_tags_are_no_versions(tag):
    assert version_of_tag(tag) is None


# Range -> versions that are in it, and versions that are not. Those of `^` and `~` are the tables of npm and Cargo.
RANGES = {
    "^1.2.3": (["1.2.3", "1.3.0", "1.99.0"], ["1.2.2", "2.0.0", "1.3.0-rc.1", "2.0.0-rc.1"]),
    "^1.0": (["1.0.0", "1.9.9"], ["0.9.9", "2.0.0"]),
    "^1": (["1.0.0", "1.9.9"], ["0.9.9", "2.0.0"]),
    "^0.2.3": (["0.2.3", "0.2.9"], ["0.2.2", "0.3.0", "1.0.0"]),
    "^0.2": (["0.2.0", "0.2.9"], ["0.3.0"]),
    "^0.0.3": (["0.0.3"], ["0.0.4", "0.0.2"]),
    "^0.0": (["0.0.0", "0.0.9"], ["0.1.0"]),
    "^0": (["0.0.0", "0.9.0"], ["1.0.0"]),
    "~1.2.3": (["1.2.3", "1.2.9"], ["1.2.2", "1.3.0"]),
    "~1.2": (["1.2.0", "1.2.9"], ["1.3.0", "1.1.9"]),
    "~1": (["1.0.0", "1.9.0"], ["2.0.0"]),
    ">=1.1,<2": (["1.1.0", "1.99.0"], ["1.0.9", "2.0.0", "2.0.0-rc.1"]),
    "1.2.0": (["1.2.0", "1.2.0+build"], ["1.2.1", "1.2.0-rc.1"]),
    "v1.2.0": (["1.2.0"], ["1.2.1"]),
    "=1.2": (["1.2.0", "1.2.9"], ["1.3.0"]),
    ">1.2": (["1.3.0"], ["1.2.9"]),
    "<=1.2": (["1.2.9", "0.1.0"], ["1.3.0"]),
    ">1.2.0": (["1.2.1"], ["1.2.0"]),
    "^1.0,!=1.1.0": (["1.0.0", "1.1.1"], ["1.1.0"]),
    "*": (["0.0.1", "99.0.0"], ["1.0.0-rc.1"]),
    ">=1.2.0-rc.1": (["1.2.0-rc.1", "1.2.0-rc.2", "1.2.0", "1.3.0"], ["1.2.0-beta", "1.3.0-rc.1"]),
}


@pytest.mark.parametrize("text", RANGES)
def test_a_range_allows_what_it_says(text):
    allowed, refused = RANGES[text]
    assert [version for version in (*allowed, *refused) if parse_range(text).allows(version)] == allowed


def test_a_pre_release_is_taken_only_when_asked_for():
    versions = ["1.0.0", "1.1.0-rc.2", "1.1.0-rc.10", "2.0.0-rc.1"]
    assert parse_range("^1.0").newest(versions) == "1.0.0"
    assert parse_range("^1.0").newest(versions, pre_releases=True) == "1.1.0-rc.10"
    assert parse_range("<2.0.0").newest(versions, pre_releases=True) == "1.1.0-rc.10"
    assert parse_range("*").newest(versions, pre_releases=True) == "2.0.0-rc.1"
    assert parse_range("^3").newest(versions) is None


@pytest.mark.parametrize(
    "text",
    ["", "main", "^", "^^1", "1.2.3.4", "=>1", "1.x", "^1.0 || ^2.0", "^1,", "^*", "!=1.2", "^1-rc.1", "1" * 10**5,
     "^\u0661", "../1.0.0", "01.0.0", "1.0.0-rc..1"],
)  # fmt: skip
def test_other_texts_are_no_ranges(text):
    with pytest.raises(VersionRangeError, match=r"range|pre-release"):
        parse_range(text)
