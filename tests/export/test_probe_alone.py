"""`--format probe` writes the predictions for one patch, or for several and their stack."""

import json

import pytest

from policy_patch.answers.probe_file import read_probe
from policy_patch.errors import ExportError, PatchNameError
from policy_patch.export.formats import export_as
from policy_patch.export.probe_alone import export_probe
from policy_patch.lab import lab_patch_folder

TOX, BIAS = (f"{name}={lab_patch_folder(risk)}" for name, risk in (("tox.v1", "toxicity"), ("bias", "gender_bias")))


def test_each_patch_and_their_stack_are_recorded_under_their_names(tmp_path):
    (tmp_path / "chat.jinja").write_text("{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}")
    done = export_as("probe", [TOX, BIAS], tmp_path / "out", options={"chat_template": str(tmp_path / "chat.jinja")})
    probe = read_probe(tmp_path / "out")
    assert list(probe.stacks) == ["tox.v1", "bias", "tox.v1+bias"] and set(probe.rows) == {"completions", "chat"}
    assert [patch["name"] for patch in probe.stacks["tox.v1+bias"]] == ["tox.v1", "bias"]
    assert done.files == ("policy_patch_probe.json",) and "policy-patch probe URL" in done.then
    assert done.facts["asks"] == ["completions", "chat"] and json.dumps(done.facts)
    assert not [problem for problem in done.facts["cannot_tell"] if "16" in problem]


def test_impossible_options_are_refused(tmp_path):
    with pytest.raises(ExportError, match="`dtype='int8'`"):
        export_as("probe", [TOX], tmp_path / "out", options={"dtype": "int8"})
    with pytest.raises(ExportError, match="cannot be read"):
        export_as("probe", [TOX], tmp_path / "out", options={"chat_template": str(tmp_path / "no.jinja")})
    with pytest.raises(PatchNameError):
        export_probe([], tmp_path / "out")
    assert not (tmp_path / "out").exists()
