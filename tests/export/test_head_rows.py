"""Tests of the head's rows for added tokens: what is proved about them holds on any state, and controls do not."""

import pytest
import torch
from torch import nn

from policy_patch.export.checkpoint import read_checkpoint
from policy_patch.export.head_rows import LOW, centroid_bound, head_rows
from tests.export.bases import load_base, save_base


def made(tmp_path, name, count=5):
    base, _ = load_base(save_base(tmp_path / "base", name))
    name = "lm_head.weight" if name == "llama untied" else "wte.weight"
    stored = read_checkpoint(base).find(name, base.get_output_embeddings().weight)[1]
    return base, head_rows(base, stored, count)


def test_the_centroid_is_the_mean_and_never_above_its_bound(tmp_path):
    base, rows = made(tmp_path, "llama untied")
    weight = base.get_output_embeddings().weight.double()
    assert rows.kind == "centroid" and torch.allclose(rows.row, weight.mean(0))
    assert rows.bound == 5 / (5 + len(weight))
    for scale in (0.1, 3.0, 100.0):
        states = torch.randn(500, 32, dtype=torch.float64) * scale
        old, new = states @ weight.T, states @ rows.row
        mass = 5 * new.exp() / (old - new[:, None]).exp().sum(1).add(5).mul(new.exp())
        assert mass.max() <= rows.bound and (new < old.max(1).values).all()
    vector = weight[7] * 3  # the control: a row that is no mean, such as the vector itself
    new = states @ vector
    assert (5 / (5 + (states @ weight.T - new[:, None]).exp().sum(1))).max() > rows.bound


def test_under_a_layer_norm_the_logit_is_one_constant(tmp_path):
    base, rows = made(tmp_path, "gpt2")
    assert rows.kind == "layer norm" and rows.bound == 0.0
    norm = base.transformer.ln_f
    states = torch.randn(500, 32) * torch.logspace(-3, 3, 500)[:, None]
    with torch.no_grad():
        logits = norm(states) @ rows.row.float()
    assert (logits - LOW).abs().max() < 1
    assert (states @ rows.row.float() - LOW).abs().max() > 1000, "the control: without the norm it is none"


def test_a_layer_norm_without_enough_bias_proves_nothing(tmp_path):
    base, _ = load_base(save_base(tmp_path / "base", "gpt2"))
    stored = read_checkpoint(base).find("wte.weight", base.lm_head.weight)[1]
    with torch.no_grad():
        base.transformer.ln_f.bias.zero_()
    assert head_rows(base, stored, 2).kind == "centroid"
    with torch.no_grad():
        base.transformer.ln_f.bias.fill_(1.0)
        base.transformer.ln_f.weight[3] = 0
    assert head_rows(base, stored, 2).kind == "centroid"


def test_a_layer_norm_that_something_follows_is_not_taken(tmp_path):
    base, _ = load_base(save_base(tmp_path / "base", "gpt2"))
    stored = read_checkpoint(base).find("wte.weight", base.lm_head.weight)[1]
    hook = base.lm_head.register_forward_pre_hook(lambda module, given: (given[0] * 2,))
    assert head_rows(base, stored, 2).kind == "centroid"
    hook.remove()
    assert head_rows(base, stored, 2).kind == "layer norm"
    assert not base.lm_head._forward_pre_hooks and not base.transformer.ln_f._forward_hooks


def test_a_head_with_a_bias_gets_it_low(tmp_path):
    base, _ = load_base(save_base(tmp_path / "base"))
    stored = read_checkpoint(base).find("lm_head.weight", base.lm_head.weight)[1]
    base.lm_head.bias = nn.Parameter(torch.zeros(259))
    rows = head_rows(base, stored, 2)
    assert (rows.kind, rows.bias, rows.bound) == ("bias", LOW, 0.0) and not rows.row.any()


@pytest.mark.parametrize(("name", "bound"), [("llama untied", 5 / 264), ("gemma2", 5 / 6)])
def test_the_bound_under_a_soft_cap_is_weaker(tmp_path, name, bound):
    base, _ = load_base(save_base(tmp_path / "base", name))
    assert centroid_bound(base, 259, 5) == bound
