"""Tests of `evaluation.lm_eval_cli`: what it says when it cannot begin.

A run from end to end is in `test_lm_eval_model.py`, where lm-eval is installed.
"""

import sys

import pytest

from policy_patch.evaluation.lm_eval_cli import main


def test_without_lm_eval_it_says_how_to_get_it(monkeypatch, capsys):
    for module in ("lm_eval", "lm_eval.models"):
        monkeypatch.setitem(sys.modules, module, None)  # makes its import fail
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("policy-patch: Measuring a patch with lm-evaluation-harness needs")


def test_an_error_of_ours_is_one_line(monkeypatch, capsys, tmp_path):
    pytest.importorskip("lm_eval.models.huggingface")
    words = ["lm-eval", "run", "--model", "policy-patch", "--model_args", f"pretrained=x,patch={tmp_path}"]
    monkeypatch.setattr(sys, "argv", [*words, "--tasks", "wikitext"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert f"policy-patch: `{tmp_path}`" in capsys.readouterr().err
