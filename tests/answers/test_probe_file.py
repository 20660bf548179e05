"""The file of a probe goes round through JSON, and a damaged, newer or missing one is refused."""

import json

import pytest

from policy_patch.answers.probe_file import PROBE_NAME, NextTokens, ProbeRow, ServedProbe, read_probe
from policy_patch.errors import ConfigError, PatchNotFoundError, PatchSaveError

PROBE = ServedProbe(
    stacks={"tox": [{"name": "tox", "patch_version": "1.0.0", "risk": "toxicity", "sha256": "0" * 64}]},
    base_model="org/model",
    base_fingerprint_sha256=None,
    dtype="float32",
    rows={
        "completions": [
            ProbeRow(
                "You are",
                {
                    "base": NextTokens((5, 6), (" a", "é"), (-0.5, -2.0), (6,)),
                    "tox": NextTokens((6,), ("é",), (-0.25,)),
                },
            )
        ]
    },
    noise={"completions": {16: 0.01, 8: 0.02, 4: 0.3}},
)


def test_what_is_written_is_read(tmp_path):
    path = PROBE.save(tmp_path / "new" / "folder")
    assert read_probe(path) == read_probe(path.parent) == PROBE
    assert path.name == PROBE_NAME


def test_it_says_what_is_missing(tmp_path):
    with pytest.raises(PatchNotFoundError, match=r"There is no .*policy_patch_probe\.json.*--format probe"):
        read_probe(tmp_path)


def test_an_unwritable_folder_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PatchSaveError, match="Cannot write"):
        PROBE.save(tmp_path / "file" / "folder")


def changed(*path, value=None):
    values = json.loads(PROBE.to_json())
    place = values
    for step in path[:-1]:
        place = place[step]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return values


ROW = ("rows", "completions", 0)
DAMAGED = [
    [], "text", changed("format_version"), changed("format_version", value=True), changed("stacks"), changed("rows"),
    changed("stacks", value={}), changed("stacks", "tox", value=[]), changed("stacks", "base", value=[{}]),
    changed("rows", value={}), changed("rows", "completions", value=[]), changed("rows", "speech", value=[]),
    changed(*ROW, "systems", "base"), changed(*ROW, "systems", "base", "ids", value=[]),
    changed(*ROW, "systems", "base", "ids", value=[5]), changed(*ROW, "systems", "base", "ids", value=[5, "6"]),
    changed(*ROW, "systems", "base", "texts", value=[1, 2]), changed(*ROW, "prompt", value=3), changed("noise"),
    changed(*ROW, "systems", "base", "log_probs", value=[1, True]), changed("noise", "completions", "8"),
    changed("noise", "completions", "8", value=-1), changed("base_model", value=7), changed("stacks", "tox", 0, "name"),
    changed("stacks", "tox", 0, "name", value="\x1b[2J"), changed("base_model", value="a\nb"),
]  # fmt: skip


@pytest.mark.parametrize("values", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_file_is_refused(tmp_path, values):
    (tmp_path / PROBE_NAME).write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=r"is damaged|is no probe"):
        read_probe(tmp_path)


@pytest.mark.parametrize("text", ["{", '{"format_version": NaN}', '{"a": 1, "a": 2}', "[" * 50])
def test_what_is_no_json_is_refused(tmp_path, text):
    (tmp_path / PROBE_NAME).write_text(text)
    with pytest.raises(ConfigError, match=PROBE_NAME):
        read_probe(tmp_path)


def test_a_newer_format_names_the_cure(tmp_path):
    (tmp_path / PROBE_NAME).write_text(json.dumps(changed("format_version", value=2)))
    with pytest.raises(ConfigError, match=r"reads up to 1\. Upgrade policy-patch"):
        read_probe(tmp_path)
