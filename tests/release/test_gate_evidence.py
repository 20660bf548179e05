"""Tests of `release.gate_evidence`: the command that measures what is missing, and the risks of a patch."""

from dataclasses import replace

from tests.release.gate_reports import evidence, good_report


def test_the_command_names_the_patch_the_gate_and_the_base():
    one = evidence()
    assert one.to_measure == "Run `policy-patch evaluate tox --gate gate.yaml`."
    named = replace(one, patch="my patch", base="org/base")
    assert named.to_measure == "Run `policy-patch evaluate 'my patch' --gate gate.yaml --base org/base`."
    fetched = replace(one, is_folder=False).to_measure
    assert "--output_dir gate-evaluation`, then the gate again with `--report gate-evaluation`" in fetched
    default = replace(one, gate=replace(one.gate, source=None)).to_measure
    assert default == (  # one command would overwrite a gate file that is there
        "Run `policy-patch evaluate tox --gate gate.yaml`. If you have no gate file yet, make it first: `policy-patch "
        "gate --template > gate.yaml`."
    )


def test_a_composed_patch_has_several_risks_and_one_without_a_name_that_of_its_report():
    assert evidence(risk="toxicity+gender_bias").own_risks == ["toxicity", "gender_bias"]
    assert evidence(good_report(), risk=None).own_risks == ["toxicity"] and evidence(risk=None).own_risks == []
