"""Tests of signed pushes: what is published is what was signed, and no commit has a signature that does not hold."""

import pytest
from huggingface_hub import HfApi

from policy_patch.config import SIGNATURE_NAME
from policy_patch.errors import PublishConflictError, SignatureError
from policy_patch.hub.fetch import HubOptions
from policy_patch.hub.publishing import push_patch
from policy_patch.hub.push import PushOptions
from policy_patch.release import verify_policy_patch
from policy_patch.trust.signing import earlier_signature, sign_policy_patch, signed_files
from tests.evaluation.synthetic import synthetic_report
from tests.hub.conftest import REPO, files_of, new_patch
from tests.trust.conftest import write_key


@pytest.fixture
def keys(tmp_path):
    write_key(tmp_path / "ours.key")
    return tmp_path


def push(model, sign=None, **options):
    target = PushOptions(token="hf_alice", sign=sign)
    return push_patch(REPO, model.patch_config["default"], files_of(model), options=target, **options)


def names() -> set[str]:
    return set(HfApi().list_repo_files(REPO))


def verified(keys) -> set[str]:
    return set(verify_policy_patch(REPO, trusted_keys=keys / "ours.pub", hub=HubOptions(force_download=True)).files)


def signer(keys):
    return lambda files: signed_files(files, private_key=keys / "ours.key")


def test_a_signed_push_is_one_commit_that_verifies_with_its_report_and_results(hub, base, keys):
    push(new_patch(base), signer(keys), evaluation=synthetic_report(), dataset_id="acme/bench")
    found = verified(keys)
    assert "evaluation.json" in found and any(name.startswith(".eval_results/") for name in found)
    assert "README.md" in names() - found
    commits = [one.title for one in HfApi().list_repo_commits(REPO)]
    assert sum(title.startswith("Publish") for title in commits) == 1


def test_python_signs_what_it_publishes(hub, base, keys):
    new_patch(base).push_to_hub(REPO, token="hf_alice", private_key=keys / "ours.key")
    assert verified(keys)


def test_an_unsigned_version_after_a_signed_one_takes_the_signature_away(hub, base, keys):
    push(new_patch(base), signer(keys))
    assert SIGNATURE_NAME in names()
    push(new_patch(base, version="1.1.0", seed=1))
    assert SIGNATURE_NAME not in names()
    push(new_patch(base, version="1.2.0", seed=2), signer(keys))
    assert verified(keys)


def test_results_of_an_older_version_do_not_stay_beside_a_signed_one(hub, base, keys):
    push(new_patch(base), evaluation=synthetic_report(), dataset_id="acme/bench")
    assert any(name.startswith(".eval_results/") for name in names())
    push(new_patch(base, version="1.1.0", seed=1), signer(keys))
    assert not any(name.startswith((".eval_results/", "evaluation")) for name in names())
    assert verified(keys)


def test_a_signature_for_a_published_version_is_added_only_where_it_holds(hub, base, keys):
    model = new_patch(base)
    push(model)
    push(model, signer(keys))
    assert verified(keys), "the same files, signed later"
    other = new_patch(base, version="2.0.0", seed=1)
    push(other, evaluation=synthetic_report())
    with pytest.raises(PublishConflictError, match=r"keeps its evaluation.json.*`--evaluation`"):
        push(other, signer(keys))
    push(other, signer(keys), evaluation=synthetic_report())
    assert "evaluation.json" in verified(keys)


def test_the_signature_of_a_folder_is_published_if_it_covers_what_is(hub, base, keys, tmp_path):
    folder, model = tmp_path / "mine", new_patch(base)
    model.save_pretrained(folder)
    assert earlier_signature(folder) is None
    sign_policy_patch(folder, private_key=keys / "ours.key")
    with pytest.raises(SignatureError, match=r"`evaluation.json`.*`--sign key.pem`.*Nothing was published"):
        push(model, earlier_signature(folder), evaluation=synthetic_report())
    push(model, earlier_signature(folder))
    assert verified(keys)
