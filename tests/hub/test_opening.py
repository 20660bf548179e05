"""Tests of `policy_patch.hub.opening`: the one door through which patches are loaded, and who has to go through it."""

import ast
import os
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi

from policy_patch import AutoPolicyPatchModel, PolicyPatchModel
from policy_patch.config import CONFIG_NAME, SIGNATURE_NAME
from policy_patch.errors import ConfigError, EvaluationError, SignatureError
from policy_patch.hub import opening
from policy_patch.hub.fetch import HubOptions, PatchLocation
from policy_patch.hub.opening import open_patch
from policy_patch.hub.pulled_folder import pull_into
from policy_patch.patch.folder import TENSORS_NAME
from policy_patch.trust.policy_file import POLICY_VARIABLE
from policy_patch.trust.signing import sign_policy_patch, signed_files
from tests.evaluation.synthetic import synthetic_report
from tests.hub.conftest import REPO, files_of, new_patch, put, requests
from tests.test_layers import FILES, name_of
from tests.trust.conftest import key_pairs

# Files that read a patch without going through the door, and why they may: nothing of what they read is loaded from
# others, or it acts nowhere.
PAST_THE_DOOR = {
    "cli/info.py": "shows a patch",
    "cli/push.py": "publishes the user's own folder",
    "hub/opening.py": "is the door",
    "hub/pulled_folder.py": "copies what the door gave, and looks at a folder that a pull replaces",
    "hub/versions.py": "compares a push with what is published",
    "patch/folder.py": "defines them",
    "patch_folder.py": "names them for users, who read without loading",
    "recipes/next_steps.py": "names the scorers of what was just trained",
    "recipes/rebase.py": "copies what it trained itself",
    "release/advisory_template.py": "writes an advisory about a patch",
    "release/audited.py": "says whether a patch is affected by an advisory",
    "release/bill_of_materials.py": "lists what a patch is made of",
    "release/gate.py": "judges the user's own patch before it is released",
    "training/checkpoints.py": "continues this user's own training",
    "training/two_stage.py": "continues this user's own training",
    "trust/signing.py": "signs the user's own folder",
    "ui/train.py": "publishes what the page trained",
    "ui/training_run.py": "hands out what the page trained",
}


@pytest.fixture
def keys(tmp_path):
    return key_pairs(tmp_path)


@pytest.fixture
def trusted(keys):
    return HubOptions(trusted_keys=[keys / "ours.pub"])


def signed(base, keys, *, key: str = "ours", seed: int = 0, beside=None, **config) -> dict[str, bytes]:
    """Return the files of a signed patch."""
    files = files_of(new_patch(base, seed=seed, **config)) | (beside or {})
    return files | {SIGNATURE_NAME: signed_files(files, private_key=keys / f"{key}.key")}


CARD = b"---\nlicense: apache-2.0\n---\n# A card\n"
RESULTS = {"evaluation.json": b"{}\n", ".eval_results/tox.yaml": b"- value: 1\n"}


def test_nobody_reads_a_patch_past_the_door_but_who_may():
    readers = {"read_patch_folder", "read_patch_files", "copy_patch_folder", "vectors_from_bytes", "array_from_bytes"}
    found = set()
    for path in FILES:
        text = path.read_text()
        if any(name in text for name in readers):
            nodes = list(ast.walk(ast.parse(text)))
            used = {node.id for node in nodes if isinstance(node, ast.Name)}
            used |= {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
            found |= {name_of(path)} if readers & used else set()
    allowed = {"patch/vectors.py", "patch/tensor_file.py", *PAST_THE_DOOR}
    assert found <= allowed, "call `open_patch`, or say here why not"
    assert {"hub/opening.py", "patch/folder.py"} <= found, "the control"


def test_a_patch_of_the_hub_signed_by_a_trusted_key_loads_everywhere(hub, base, ids, keys):
    put(signed(base, keys, beside=RESULTS) | {"README.md": CARD})
    plain = PolicyPatchModel.from_pretrained(base, REPO)(ids).logits
    options = {"trusted_keys": [keys / "ours.pub"]}
    model = PolicyPatchModel.from_pretrained(base, REPO, **options)
    assert torch.equal(model(ids).logits, plain)
    model.load_patch(REPO, "again", trusted_keys=(keys / "ours.pub").read_text())
    with pytest.raises(SignatureError, match="not trusted"):
        model.load_patch(REPO, "other", trusted_keys=[keys / "theirs.pub"])
    assert set(model.patch_config) == {"default", "again"}
    for call in (
        PolicyPatchModel.from_pretrained,
        lambda base, *args, **kw: AutoPolicyPatchModel.from_pretrained(*args, **kw),
    ):
        with pytest.raises(SignatureError, match="not trusted"):
            call(base, REPO, trusted_keys=[keys / "theirs.pub"])


def test_all_signed_files_come_with_it_from_one_commit_and_then_offline(hub, base, keys, trusted):
    put(signed(base, keys, beside=RESULTS))
    opened = open_patch(REPO, trusted)
    assert set(opened.files) == {CONFIG_NAME, TENSORS_NAME, SIGNATURE_NAME, *RESULTS}
    assert opened.signed[0].signer.startswith("key ")
    since = len(hub.log)
    open_patch(f"{REPO}@{opened.location.commit}", HubOptions(trusted_keys=keys / "ours.pub", local_files_only=True))
    assert requests(hub, since) == []


@pytest.mark.parametrize("name", [CONFIG_NAME, TENSORS_NAME, *RESULTS])
def test_a_file_of_the_repository_that_is_changed_or_gone_is_refused(hub, base, keys, trusted, name):
    good = signed(base, keys, beside=RESULTS)
    other = files_of(new_patch(base, seed=1)) | {"evaluation.json": b"{ }\n", ".eval_results/tox.yaml": b"- value: 2\n"}
    pair = {CONFIG_NAME, TENSORS_NAME}
    put(good | ({each: other[each] for each in pair} if name in pair else {name: other[name]}))
    with pytest.raises(SignatureError, match="is not what was signed"):
        open_patch(REPO, trusted)
    if name not in pair:
        HfApi(token="hf_alice").delete_file(name, REPO)
        with pytest.raises(SignatureError, match=rf"lacks `{name}`"):
            open_patch(REPO, trusted)


def test_an_unsigned_patch_a_card_that_changed_and_a_file_beside_it(hub, base, keys, trusted):
    put(files_of(new_patch(base)))
    with pytest.raises(SignatureError, match=r"`acme/tox-patch` is not signed"):
        open_patch(REPO, trusted)
    put(signed(base, keys) | {"README.md": CARD + b"edited", "pytorch_model.bin": b"code"})
    opened = open_patch(REPO, trusted)
    assert "pytorch_model.bin" not in opened.files, "it is neither fetched nor loaded"
    from policy_patch.release import verify_policy_patch

    with pytest.raises(SignatureError, match=r"holds `pytorch_model.bin`, which its signature does not cover"):
        verify_policy_patch(REPO, trusted_keys=keys / "ours.pub")


def test_a_report_that_the_signature_does_not_cover_is_refused_where_it_is_used(hub, base, keys, tmp_path):
    put(signed(base, keys) | {"evaluation.json": synthetic_report().to_json().encode()})
    policy = tmp_path / "policy-patch.toml"
    policy.write_text(f'[trust]\nkeys = ["{keys / "ours.pub"}"]\n')
    assert open_patch(REPO, HubOptions(policy=policy)), "the control: it is not fetched"
    policy.write_text(policy.read_text() + "[evaluation]\nrequired = true\n")
    with pytest.raises(SignatureError, match=r"does not cover `evaluation.json`"):
        open_patch(REPO, HubOptions(policy=policy))


def test_what_is_loaded_is_what_was_checked_though_the_folder_changes_in_between(
    base, keys, trusted, tmp_path, monkeypatch
):
    """The check runs on the bytes that were read: a change right after reading is neither checked nor loaded."""
    folder = tmp_path / "tox"
    new_patch(base).save_pretrained(folder)
    sign_policy_patch(folder, private_key=keys / "ours.key")
    good = open_patch(folder, trusted).vectors
    read = opening.read_patch_files

    def changed_right_after(place):
        found = read(place)
        new_patch(base, seed=1).save_pretrained(tmp_path / "evil")
        for name in (CONFIG_NAME, TENSORS_NAME):
            os.replace(tmp_path / "evil" / name, folder / name)
        return found

    monkeypatch.setattr(opening, "read_patch_files", changed_right_after)
    assert torch.equal(open_patch(folder, trusted).vectors, good)
    monkeypatch.undo()
    with pytest.raises(SignatureError, match="is not what was signed"):
        open_patch(folder, trusted)


def test_a_pull_writes_what_was_checked_and_the_folder_verifies_later(hub, base, keys, trusted, tmp_path):
    put(signed(base, keys, beside=RESULTS) | {"README.md": CARD})
    opened = open_patch(REPO, trusted, optional=("README.md", SIGNATURE_NAME))
    evil = PatchLocation(tmp_path / "nowhere", REPO, opened.location.commit)
    pull_into(evil, tmp_path / "pulled", files=opened.files)
    found = open_patch(tmp_path / "pulled", trusted)
    assert torch.equal(found.vectors, opened.vectors) and (tmp_path / "pulled" / ".eval_results" / "tox.yaml").exists()
    put(files_of(new_patch(base, version="1.1.0", seed=1)))
    HfApi(token="hf_alice").delete_file(SIGNATURE_NAME, REPO)
    pull_into(open_patch(REPO, optional=("README.md", "evaluation.json")).location, tmp_path / "pulled")
    assert not (tmp_path / "pulled" / SIGNATURE_NAME).exists(), "the signature of the older version is gone"
    with pytest.raises(SignatureError, match="is not signed"):
        open_patch(tmp_path / "pulled", trusted)


def test_organisations_are_asked_before_any_request(hub, base, tmp_path, monkeypatch):
    put(files_of(new_patch(base)))
    policy = tmp_path / "policy-patch.toml"
    policy.write_text('[trust]\norganisations = ["acme"]\n')
    monkeypatch.setenv(POLICY_VARIABLE, str(policy))
    assert open_patch(REPO).location.repo_id == REPO
    since = len(hub.log)
    for other in ("Acme/tox-patch", "evil/tox-patch", str(tmp_path)):
        with pytest.raises(SignatureError, match="allows"):
            open_patch(other)
    assert requests(hub, since) == []
    monkeypatch.chdir(tmp_path)
    new_patch(base).save_pretrained(tmp_path / "acme" / "tox-patch")
    with pytest.raises(SignatureError, match="in no organisation"):
        open_patch(REPO)  # now it means a folder of that name


def test_a_policy_that_is_gone_lets_nothing_in(base, tmp_path, monkeypatch):
    new_patch(base).save_pretrained(tmp_path / "tox")
    monkeypatch.setenv(POLICY_VARIABLE, str(tmp_path / "gone.toml"))
    with pytest.raises(ConfigError, match="Cannot read the policy"):
        open_patch(tmp_path / "tox")


def test_a_report_is_asked_for_by_policy(hub, base, tmp_path):
    put(files_of(new_patch(base)))
    policy = tmp_path / "policy-patch.toml"
    policy.write_text("[evaluation]\nrequired = true\n")
    with pytest.raises(EvaluationError, match=r"has no evaluation.json"):
        open_patch(REPO, HubOptions(policy=policy))
    put({"evaluation.json": synthetic_report().to_json().encode()})
    assert "evaluation.json" in open_patch(REPO, HubOptions(policy=policy)).files


def test_a_subfolder_is_signed_by_itself(hub, base, keys):
    files = signed(base, keys, beside=RESULTS)
    put({f"tox/{name}": content for name, content in files.items()} | {"other.txt": b"x"})
    options = HubOptions(subfolder="tox", trusted_keys=keys / "ours.pub")
    assert open_patch(REPO, options).signed
    from policy_patch.release import verify_policy_patch

    assert verify_policy_patch(REPO, trusted_keys=keys / "ours.pub", hub=HubOptions(subfolder="tox"))


def test_checkpoints_that_the_signer_left_out_are_not_read_but_hide_nothing(base, keys, trusted, tmp_path):
    folder = tmp_path / "tox"
    new_patch(base).save_pretrained(folder)
    (folder / "checkpoints").mkdir()
    for number in range(150):
        (folder / "checkpoints" / str(number)).touch()
    sign_policy_patch(folder, private_key=keys / "ours.key")
    assert open_patch(folder, trusted).signed
    (folder / ".eval_results").mkdir()
    (folder / ".eval_results" / "tox.yaml").write_text("- value: 0\n")
    with pytest.raises(SignatureError, match=r"does not cover `.eval_results/tox.yaml`"):
        open_patch(folder, trusted)


def test_a_folder_without_a_signature_is_refused_before_anything_in_it_is_hashed(base, trusted, tmp_path, monkeypatch):
    new_patch(base).save_pretrained(tmp_path / "tox")
    monkeypatch.setattr(opening, "hashed_folder", lambda *_, **__: pytest.fail("hashed"))
    with pytest.raises(SignatureError, match="is not signed"):
        open_patch(tmp_path / "tox", trusted)


def test_a_location_is_a_path_to_its_folder(tmp_path):
    assert Path(PatchLocation(tmp_path, REPO, "0" * 40)) == tmp_path
