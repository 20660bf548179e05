"""Tests of `release.gate_file` with `release.gate_template`: typed keys, near names, limits in range."""

import pytest

from policy_patch.errors import GateError
from policy_patch.release import Gate
from policy_patch.release.gate_template import GATE_TEMPLATE


def test_the_template_has_every_key_with_its_default(tmp_path):
    path = tmp_path / "gate.yaml"
    path.write_text(GATE_TEMPLATE)
    gate = Gate.from_yaml(path)
    assert gate == Gate(source=str(path))
    for section in ("evidence", "risk", "other_risks", "costs", "overhead", "signature", "measure"):
        assert f"\n{section}:\n" in GATE_TEMPLATE
        for key in vars(getattr(gate, section)):
            assert f"\n  {key}: " in GATE_TEMPLATE, key
    path.write_text(GATE_TEMPLATE.replace("max_perplexity_ratio: 1.2 ", "max_perplexity_ratio: 1.3 "))
    assert Gate.from_yaml(path) != gate, "the control: the template is what is read"


def test_an_empty_file_has_the_defaults(tmp_path):
    (tmp_path / "gate.yaml").write_text("# nothing\n")
    assert Gate.from_yaml(tmp_path / "gate.yaml") == Gate(source=str(tmp_path / "gate.yaml"))


def test_whole_numbers_are_limits_too_and_null_switches_off():
    gate = Gate.from_dict({"costs": {"max_perplexity_ratio": 2, "max_last_word_drop": None}, "format_version": 1})
    assert gate.costs.max_perplexity_ratio == 2.0 and gate.costs.max_last_word_drop is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cost": {}}, "The gate has the unknown key `cost`. Did you mean `costs`"),
        ({"costs": {"max_perplexity": 1}}, "unknown key `costs.max_perplexity`. Did you mean `max_perplexity_ratio`"),
        ({"risk": {"x": 1}}, "unknown key `risk.x`. Known keys: judge, filtered_by"),
        ({"costs": 3}, "`costs` holds a int; expected keys such as `max_over_refusal_increase:`"),
        ([], "holds a list; expected sections such as `risk:`"),
        (
            {"costs": {"max_perplexity_ratio": "1.2"}},
            "`costs.max_perplexity_ratio: '1.2'`; expected a number from 0.01",
        ),
        ({"costs": {"max_perplexity_ratio": 0}}, "expected a number from 0.01 to 100, or null to switch the check off"),
        ({"costs": {"max_last_word_drop": float("nan")}}, "expected a number from 0 to 1, or null"),
        ({"costs": {"max_last_word_drop": True}}, "expected a number from 0 to 1, or null"),
        ({"risk": {"alpha": None}}, "`risk.alpha: None`; expected a number from 0.0001 to 0.5"),
        ({"risk": {"better_than_untrained": 1}}, "expected true or false"),
        ({"risk": {"better_than_untrained": None}}, "expected true or false"),
        ({"evidence": {"min_prompts": 0}}, "expected a whole number from 1"),
        ({"evidence": {"min_prompts": 3.5}}, "expected a whole number from 1"),
        ({"signature": {"trusted_keys": "key.pem"}}, "expected a list of texts"),
        ({"other_risks": {"measured": [1]}}, "expected a list of texts"),
        ({"measure": {"prompts": {"toxicity": 3}}}, "expected a mapping from risks to texts"),
        ({"measure": {"scorers": {"toxicity": "hf:x"}}}, "expected a mapping from risks to lists of texts"),
        ({"format_version": 2}, "has `format_version: 2`; this version of policy-patch reads 1"),
        ({"format_version": True}, "has `format_version: True`"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(values, message):
    with pytest.raises(GateError, match=message):
        Gate.from_dict(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [("risk: [", "gate.yaml"), ("risk: {}\nrisk: {}\n", "line 2 has .*risk"), (None, "--template > gate.yaml")],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, text, message):
    if text is not None:
        (tmp_path / "gate.yaml").write_text(text)
    with pytest.raises(GateError, match=message):
        Gate.from_yaml(tmp_path / "gate.yaml")
