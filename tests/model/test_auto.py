"""Tests of `AutoPolicyPatchModel`: a patch brings the base that it names, at the commit that it names."""

from dataclasses import replace

import pytest
import torch
from huggingface_hub import CommitOperationAdd, HfApi

from policy_patch import AutoPolicyPatchModel, PolicyPatchConfig, get_policy_patch_model
from policy_patch.errors import BaseMismatchError, ModelLoadError, PatchNameError
from policy_patch.hub.fetch import locate_patch
from policy_patch.patch.folder import read_patch_folder, write_patch_folder
from tests.tiny_models import tiny_model

REPO, BASE = "acme/tox-patch", "acme/base"


def publish_base(model, folder) -> str:
    """Put a base on the Hub, and return the commit."""
    model.save_pretrained(folder)
    api = HfApi()
    api.create_repo(BASE, exist_ok=True)
    operations = [CommitOperationAdd(path.name, path) for path in folder.iterdir()]
    return api.create_commit(BASE, operations, commit_message="base").oid


@pytest.fixture
def published(hub, tmp_path):
    """A base and a patch for it, both on the Hub."""
    commit = publish_base(tiny_model("llama"), tmp_path / "base")
    config = PolicyPatchConfig(
        num_virtual_tokens=4, init="vocab", base_model_name_or_path=BASE, base_model_revision=commit
    )
    model = get_policy_patch_model(tiny_model("llama"), config)
    model.push_to_hub(REPO)
    return model


def test_base_and_patch_come_together(published, hub):
    ids = torch.arange(3, 15).view(2, 6)
    model = AutoPolicyPatchModel.from_pretrained(REPO)
    assert torch.equal(model(input_ids=ids).logits, published(input_ids=ids).logits)
    assert not model.get_base_model().training


def test_the_base_is_the_one_at_the_pinned_commit(published, hub, tmp_path):
    other = tiny_model("llama")
    with torch.no_grad():
        other.get_input_embeddings().weight.add_(1.0)
    publish_base(other, tmp_path / "other")
    assert AutoPolicyPatchModel.from_pretrained(REPO).active_patches == ["default"]
    with pytest.raises(BaseMismatchError):
        AutoPolicyPatchModel.from_pretrained(unpinned(tmp_path / "unpinned"))


def unpinned(folder):
    """Write the published patch into a folder as if it pinned no commit of its base."""
    config, vectors = read_patch_folder(locate_patch(REPO).folder)
    write_patch_folder(folder, replace(config, base_model_revision=None), vectors)
    return folder


def test_the_commit_of_a_base_from_the_hub_is_written_down(hub, tmp_path):
    from transformers import AutoModelForCausalLM

    commit = publish_base(tiny_model("llama"), tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(BASE)
    config = get_policy_patch_model(base, PolicyPatchConfig(num_virtual_tokens=2, init="vocab")).patch_config["default"]
    assert (config.base_model_name_or_path, config.base_model_revision) == (BASE, commit)


def test_no_commit_is_written_down_where_the_cache_holds_two(hub, tmp_path):
    from transformers import AutoModelForCausalLM

    for number in (1, 2):
        model = tiny_model("llama")
        model.config.pad_token_id = number
        publish_base(model, tmp_path / str(number))
        base = AutoModelForCausalLM.from_pretrained(BASE)
    config = get_policy_patch_model(base, PolicyPatchConfig(num_virtual_tokens=2, init="vocab")).patch_config["default"]
    assert config.base_model_revision is None, "it could be either"


def test_arguments_of_the_base_go_to_the_base(published):
    model = AutoPolicyPatchModel.from_pretrained(REPO, "tox", dtype=torch.bfloat16, is_trainable=True)
    assert model.get_base_model().dtype == torch.bfloat16 and model.active_patches == ["tox"]
    assert model.patches["tox"].dtype == torch.float32 and model.patches["tox"].requires_grad


def test_a_stack(published):
    published.push_to_hub("acme/bias-patch")
    model = AutoPolicyPatchModel.from_pretrained([f"{REPO}@v0.1.0", "acme/bias-patch"])
    assert model.active_patches == ["tox-patch", "bias-patch"]


def test_from_the_cache_alone(published, hub):
    AutoPolicyPatchModel.from_pretrained(REPO)
    hub.log.clear()
    assert AutoPolicyPatchModel.from_pretrained(REPO, local_files_only=True).active_patches == ["default"]
    assert not hub.log


def test_a_patch_that_names_no_base(tmp_path):
    model = get_policy_patch_model(tiny_model("llama"), PolicyPatchConfig(num_virtual_tokens=2, init="vocab"))
    model.patch_config["default"].base_model_name_or_path = None
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match=r"names no base.*PolicyPatchModel.from_pretrained"):
        AutoPolicyPatchModel.from_pretrained(tmp_path)


def test_a_base_that_is_not_there(hub, tmp_path):
    config = PolicyPatchConfig(num_virtual_tokens=2, init="vocab", base_model_name_or_path="acme/gone")
    get_policy_patch_model(tiny_model("llama"), config).save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match="acme/gone") as caught:
        AutoPolicyPatchModel.from_pretrained(tmp_path)
    assert caught.value.__cause__ is not None


def test_no_patch_at_all():
    with pytest.raises(PatchNameError, match="no patch in the list"):
        AutoPolicyPatchModel.from_pretrained([])
