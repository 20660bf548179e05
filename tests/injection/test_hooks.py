"""Tests of `injection.hooks`: a copy or a pickle of a module gets hooks that do nothing, which can be taken off."""

import copy
import pickle

import torch
from torch import nn

from policy_patch.injection.hooks import Hook, forget_copies_of_hooks


def hooked():
    module, seen = nn.Linear(2, 2), []
    module.register_forward_pre_hook(Hook(lambda module, args: seen.append("before")))
    module.register_forward_hook(Hook(lambda module, args, output: output + 1))
    return module, seen


def test_a_hook_does_what_its_function_does():
    module, seen = hooked()
    assert torch.equal(module(torch.ones(1, 2)), nn.functional.linear(torch.ones(1, 2), *module.parameters()) + 1)
    assert seen == ["before"]


def test_in_a_copy_and_in_a_pickle_it_does_nothing():
    module, seen = hooked()
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(torch.ones(1, 2)) + 1, module(torch.ones(1, 2)))
    assert seen == ["before"] * 2, "of the original alone"


def test_what_a_copy_kept_of_hooks_is_taken_off_and_hooks_of_others_stay():
    module, _ = hooked()
    other = copy.deepcopy(module)
    own = other.register_forward_hook(lambda module, args, output: output * 2)
    assert (len(other._forward_pre_hooks), len(other._forward_hooks)) == (1, 2)
    forget_copies_of_hooks(other)
    assert (len(other._forward_pre_hooks), len(other._forward_hooks)) == (0, 1) and own.id in other._forward_hooks
    forget_copies_of_hooks(module)
    assert (len(module._forward_pre_hooks), len(module._forward_hooks)) == (1, 1), "the original keeps its hooks"
