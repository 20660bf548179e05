"""Tests of `policy_patch.semver`: the order of SemVer, and tags."""

import itertools

import pytest

from policy_patch.semver import precedence, version_of_tag, version_tag

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


@pytest.mark.parametrize("tag", ["main", "v1", "1.0.0", "vv1.0.0", "v1.0", "v01.0.0", "release-v1.0.0", ""])
def test_other_tags_are_no_versions(tag):
    assert version_of_tag(tag) is None
