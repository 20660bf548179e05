"""Tests of `policy-patch bom`: JSON to stdout or a file, and what is not recorded to stderr."""

import json

from policy_patch.cli import main


def test_it_prints_the_bill_and_what_is_not_recorded(patch_folder, tmp_path, capsys):
    assert main(["bom", str(patch_folder)]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["specVersion"] == "1.7" and "Not recorded" in err and "training data" in err
    target = tmp_path / "bom.cdx.json"
    assert main(["bom", str(patch_folder), "--output", str(target)]) == 0
    assert capsys.readouterr().out == "" and json.loads(target.read_text())["bomFormat"] == "CycloneDX"


def test_a_file_that_cannot_be_written_and_no_patch_are_bad_usage(patch_folder, tmp_path, capsys):
    assert main(["bom", str(patch_folder), "--output", str(tmp_path / "no" / "bom.json")]) == 2
    assert main(["bom", str(tmp_path / "nowhere")]) == 2
    assert "Cannot write" in capsys.readouterr().err
