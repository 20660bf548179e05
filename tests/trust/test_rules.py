"""Tests of `policy_patch.trust.rules`: organisations, signatures and reports, as policies ask for them."""

from dataclasses import replace

import pytest

from policy_patch.config import SIGNATURE_NAME
from policy_patch.errors import EvaluationError, SignatureError
from policy_patch.trust.policy_file import PatchPolicy
from policy_patch.trust.rules import rules_for
from policy_patch.trust.signed_files import hashed_folder
from tests.evaluation.synthetic import synthetic_report

ORGANISATIONS = '[trust]\norganisations = ["acme", "Other-Org"]\n'


def of(text: str):
    return rules_for(policy=PatchPolicy.from_toml(text, source="`p.toml`"))


@pytest.mark.parametrize("repo_id", ["acme/tox", "Other-Org/tox"])
def test_allowed_organisations_pass(repo_id):
    of(ORGANISATIONS).check_origin(repo_id, "x")


@pytest.mark.parametrize(
    ("repo_id", "said"),
    [
        ("evil/tox", "of the organisation `evil`; `p.toml` allows `acme`, `Other-Org` only"),
        ("Acme/tox", "Capital letters count: write `acme`"),
        ("other-org/tox", "Capital letters count: write `Other-Org`"),
        ("acme-/tox", "of the organisation `acme-`"),
        ("acm\u0435/tox", "of the organisation"),  # a Cyrillic letter
        ("tox", "in no organisation"),
        (None, "in no organisation of the Hub"),
    ],
)
def test_other_organisations_and_folders_are_refused(repo_id, said):
    with pytest.raises(SignatureError) as raised:
        of(ORGANISATIONS).check_origin(repo_id, "`x`")
    assert said in str(raised.value)


def test_a_signed_folder_needs_no_organisation(keys):
    text = f'{ORGANISATIONS}keys = ["{keys / "ours.pub"}"]\n'
    rules = of(text)
    rules.check_origin(None, "x")
    assert rules.asks_for_signature and not rules.ask_nothing
    with pytest.raises(SignatureError):
        rules.check_origin("evil/tox", "x")


def test_every_asker_has_to_be_satisfied_and_the_error_says_who_asked(signed, keys):
    content, files = (signed / SIGNATURE_NAME).read_bytes(), hashed_folder(signed)
    ours, theirs = keys / "ours.pub", keys / "theirs.pub"
    policy = PatchPolicy.from_toml(f'[trust]\nkeys = ["{theirs}"]\n', source="`p.toml`")
    assert rules_for(ours).check_signatures(content, files, "x")
    with pytest.raises(SignatureError, match=r"Asked for by `p.toml`"):
        rules_for(ours, policy).check_signatures(content, files, "x")
    with pytest.raises(SignatureError, match="Asked for by `trusted_keys`"):
        rules_for(theirs).check_signatures(content, files, "x")


def test_an_empty_list_of_keys_trusts_nobody(signed):
    with pytest.raises(SignatureError, match="No signer is trusted"):
        rules_for([]).check_signatures((signed / SIGNATURE_NAME).read_bytes(), hashed_folder(signed), "x")
    assert rules_for(None).ask_nothing


def test_reports_show_what_is_asked():
    report = synthetic_report()
    content, prompts = report.to_json().encode(), report.settings.num_prompts
    assert of("").check_report(None, "x") is None
    for text in ("required = true", f"minimum_prompts = {prompts}", "better_than_base = true"):
        of(f"[evaluation]\n{text}\n").check_report(content, "x")
        with pytest.raises(EvaluationError, match=r"no evaluation.json.*\[evaluation\] of `p.toml`"):
            of(f"[evaluation]\n{text}\n").check_report(None, "x")
    with pytest.raises(EvaluationError, match=rf"is on {prompts} prompts.*at least {prompts + 1}"):
        of(f"[evaluation]\nminimum_prompts = {prompts + 1}\n").check_report(content, "x")
    with pytest.raises(EvaluationError):
        of("[evaluation]\nrequired = true\n").check_report(b"{}", "x")


def test_a_report_without_a_difference_beyond_its_interval_is_not_better():
    report = synthetic_report()
    metric = report.headline.name
    worse = [
        replace(one, difference=replace(one.difference, high=0.01)) if one.metric == metric else one
        for one in report.comparisons
    ]
    for comparisons, said in ((worse, "does not show that the patch is better"), ([], "does not compare")):
        content = replace(report, comparisons=comparisons).to_json().encode()
        with pytest.raises(EvaluationError, match=said):
            of("[evaluation]\nbetter_than_base = true\n").check_report(content, "x")
