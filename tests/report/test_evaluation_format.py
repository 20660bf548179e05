"""Tests of docs/evaluation_format.md: it documents the keys, types and version that a report is written with."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from policy_patch.report.evaluation_json import FORMAT_VERSION
from policy_patch.report.records import MeasuredPatch
from tests.evaluation.synthetic import synthetic_report

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation_format.md").read_text(encoding="utf-8")
TYPES = {"str": str, "int": int, "number": (int, float), "bool": bool, "list": list, "object": dict, "null": type(None)}
MEASURED = MeasuredPatch(
    name="tox", risk="toxicity", patch_version="1.0.0", vectors_sha256="2" * 64, base_fingerprint_sha256=None,
    on_its_base=None,
)  # fmt: skip


def documented(page):
    """Section -> key -> its type in words."""
    found = {}
    for part in page.split("\n## ")[1:]:
        rows = re.findall(r"^\| (`.*?`) \| (.*?) \| .* \|$", part, re.MULTILINE)
        keys = {key: kind for names, kind in rows for key in re.findall(r"`(\w+)`", names)}
        found[part.splitlines()[0]] = keys
    return found


@pytest.fixture(scope="module")
def written():
    """Section -> the objects of that kind in a report, as they are in the file."""
    report = synthetic_report(categories=["insult", "other"] * 20)
    other = replace(report, risk="gender_bias", categories=None)
    values = json.loads(replace(report, patches=[MEASURED], other_risks=[other]).to_json())
    reports = [values, *values["other_risks"]]
    return {
        "The report": reports,
        "A metric": [one for each in reports for one in each["metrics"]],
        "The settings": [each["settings"] for each in reports],
        "A scorer": [one for each in reports for one in each["scorers"]],
        "A system": [one for each in reports for one in each["systems"].values()],
        "A sample": [one for each in reports for one in each["samples"]],
        "A comparison": [one for each in reports for one in each["comparisons"]],
        "A patch": values["patches"],
    }


def wrong(page, written):
    """The differences between the page and what is written, in words."""
    sections, found = documented(page), []
    if sections.keys() != written.keys():
        found.append(f"sections {sections.keys() ^ written.keys()}")
    for section, kinds in sections.items():
        for values in written.get(section, []):
            found += [f"{section}: {key}" for key in kinds.keys() ^ values.keys()]
            for key, kind in kinds.items():
                words = kind.removesuffix(f", {FORMAT_VERSION}").split(" or ")
                allowed = tuple(TYPES[word] for word in words)
                value = values.get(key)
                fits = isinstance(value, bool) if words[0] == "bool" and value is not None else True
                if not fits or not any(isinstance(value, one) for one in allowed):
                    found.append(f"{section}: {key} is {value!r}, not {kind}")
    return found


def test_the_page_documents_what_is_written(written):
    assert all(written.values())
    assert wrong(PAGE, written) == []


def test_the_page_names_the_version():
    assert f"The format has the version {FORMAT_VERSION} (" in PAGE and f"| {FORMAT_VERSION} |" in PAGE


@pytest.mark.parametrize(
    ("old", "new", "section"),
    [("`p_value`", "`p`", "A comparison: p"), ("`kind` | str", "`kind` | int", "A scorer: kind is 'lexical', not int"),
     ("## A patch", "## The patch", "sections"), ("| `risk` | str | the", "| `risks` | str | the", "The report: risk")],
)  # fmt: skip
def test_a_page_that_is_wrong_is_found(written, old, new, section):
    assert PAGE.count(old) == 1 and any(one.startswith(section) for one in wrong(PAGE.replace(old, new), written))
