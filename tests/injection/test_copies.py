"""Copies and pickles of a patched model and of its base: the copy works, and neither hangs on the other."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from policy_patch import PolicyPatchConfig, PolicyPatchModel, get_policy_patch_model
from policy_patch.errors import PatchInputError
from tests.definition import logits_by_definition
from tests.tiny_models import BOS, tiny_model

TOLERANCE = 1e-5
ROW = [BOS, 5, 9, 20, 31]
IDS = torch.tensor([ROW])


def by_pickle(thing):
    return pickle.loads(pickle.dumps(thing))


def by_torch(thing):
    stored = io.BytesIO()
    torch.save(thing, stored)
    stored.seek(0)
    return torch.load(stored, weights_only=False)


AGAIN = {"deepcopy": copy.deepcopy, "pickle": by_pickle, "torch.save": by_torch}


@pytest.fixture(params=AGAIN)
def again(request):
    """Each way to make a copy."""
    return AGAIN[request.param]


def patched(tokenizer=None) -> PolicyPatchModel:
    config = PolicyPatchConfig(num_virtual_tokens=4, init="random", patch_version="1.2.0")
    model = get_policy_patch_model(tiny_model(), config, tokenizer).eval()
    with torch.no_grad():
        model.patches["default"].mul_(3)
        model(IDS)  # keeps a prefix
    return model


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def hooks_of(base: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in base.modules())


# The model


def test_a_copy_gives_what_the_original_gives_and_has_all_it_had(again, tokenizer):
    model = patched(tokenizer)
    model.add_patch("other", PolicyPatchConfig(num_virtual_tokens=3, init="vocab"))
    twin = again(model)
    assert torch.equal(logits(twin), logits(model))
    assert twin.active_patches == ["default"] and twin.patch_config == model.patch_config
    assert repr(twin) == repr(model)
    assert twin.get_base_model() is not model.get_base_model()
    assert twin.training is False
    with torch.no_grad():
        expected = logits_by_definition(tiny_model(), twin.patches["default"], ROW)
    assert (logits(twin)[0] - expected).abs().max() <= TOLERANCE
    assert torch.equal(twin.generate(IDS, max_new_tokens=4), model.generate(IDS, max_new_tokens=4))


def test_a_copy_and_its_original_do_not_follow_each_other(again):
    model = patched()
    twin, before = again(model), logits(model)
    with torch.no_grad():
        twin.patches["default"].add_(1)
        twin.get_base_model().lm_head.weight.mul_(2)
    assert torch.equal(logits(model), before)
    changed = logits(twin)
    assert not torch.equal(changed, before)
    with model.disable_patch():
        assert torch.equal(logits(twin), changed), "the block is the original's"
    with twin.disable_patch():
        assert torch.equal(logits(model), before)
        assert torch.equal(logits(twin), logits(twin.get_base_model()))
    model.unload()
    assert torch.equal(logits(twin), changed)
    assert hooks_of(model.get_base_model()) == 0
    assert hooks_of(twin.get_base_model()) == 4


def test_a_copy_trains_alone_and_frees_its_own_base(again):
    model = patched()
    twin = again(model)
    before = model.patches["default"].detach().clone()
    twin(IDS, labels=IDS).loss.backward()
    assert twin.patches["default"].grad.abs().sum() > 0
    assert model.patches["default"].grad is None and torch.equal(model.patches["default"], before)
    base = twin.unload()
    assert all(parameter.requires_grad for parameter in base.parameters())
    assert not any(parameter.requires_grad for parameter in model.get_base_model().parameters())


def test_a_copy_of_a_copy_has_one_set_of_hooks(again):
    twin = again(again(patched()))
    assert hooks_of(twin.get_base_model()) == 4
    assert hooks_of(twin.unload()) == 0


def test_a_copy_within_a_block_is_not_within_it(again):
    model = patched()
    behind = logits(model)
    with model.disable_patch():
        twin = again(model)
        assert torch.equal(logits(twin), behind)


def test_an_unloaded_model_stays_unloaded_as_a_copy(again):
    model = patched()
    model.unload()
    model.set_patch("default")
    twin = again(model)
    assert hooks_of(twin.get_base_model()) == 0
    with pytest.raises(PatchInputError, match="This model was unloaded"):
        twin(IDS)


def test_two_wrappers_of_one_base_are_copied_as_two_wrappers_of_one(again):
    first = patched()
    second = first.frozen_copy().eval()
    twins = again([first, second])
    assert twins[0].get_base_model() is twins[1].get_base_model()
    assert hooks_of(twins[0].get_base_model()) == 8
    with torch.no_grad():
        twins[0].patches["default"].add_(1)
    assert torch.equal(logits(twins[1]), logits(second))
    assert not torch.equal(logits(twins[0]), logits(first))


def test_the_vectors_of_a_copy_are_saved_like_those_of_the_original(again, tmp_path):
    model = patched()
    again(model).save_pretrained(tmp_path / "copy")
    model.save_pretrained(tmp_path / "original")
    for file in ("policy_patch.safetensors", "policy_patch_config.json"):
        assert (tmp_path / "copy" / file).read_bytes() == (tmp_path / "original" / file).read_bytes()


# The base, while it is wrapped


def test_a_copy_of_the_base_is_plain(again):
    model = patched()
    twin = again(model.get_base_model())
    plain = tiny_model()
    assert torch.equal(logits(twin), logits(plain))
    assert torch.equal(twin.generate(IDS, max_new_tokens=4), plain.generate(IDS, max_new_tokens=4))
    # Called within a call of the model it was copied from, it is still plain.
    seen = []
    handle = model.get_base_model().model.layers[0].register_forward_pre_hook(lambda *args: seen.append(logits(twin)))
    logits(model)
    handle.remove()
    assert torch.equal(seen[0], logits(plain))


def test_a_copy_of_the_base_can_be_patched_in_its_turn(again):
    model = patched()
    twin = get_policy_patch_model(again(model.get_base_model()), model.patch_config["default"]).eval()
    with torch.no_grad():
        twin.patches["default"].copy_(model.patches["default"])
    assert torch.equal(logits(twin), logits(model))
    assert hooks_of(twin.get_base_model()) == 4, "what was left of the original's is gone"
    assert hooks_of(twin.unload()) == 0


def test_a_copy_of_the_backbone_alone_is_plain(again):
    model = patched()
    twin = again(model.get_base_model().model)
    with torch.no_grad():
        assert torch.equal(twin(IDS).last_hidden_state, tiny_model().model(IDS).last_hidden_state)


class WithoutThisPackage(pickle.Unpickler):
    """Reads a pickle as where policy-patch is not installed."""

    def find_class(self, module, name):
        if module.partition(".")[0] == "policy_patch":
            raise ModuleNotFoundError(f"No module named '{module}'")
        return super().find_class(module, name)


def test_a_pickle_of_the_base_opens_where_this_package_is_not_installed():
    model = patched()
    stored = pickle.dumps(model.get_base_model())
    twin = WithoutThisPackage(io.BytesIO(stored)).load()
    assert torch.equal(logits(twin), logits(tiny_model()))
    assert b"policy_patch" not in stored, "nothing that runs when it opens names this package"
    with pytest.raises(ModuleNotFoundError):  # the model itself needs it
        WithoutThisPackage(io.BytesIO(pickle.dumps(model))).load()
