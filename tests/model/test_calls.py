"""Tests of `model.calls`: what `forward`, `generate` and the backbone return for the tokens that the caller gave.

That their numbers are those of the definition is the business of `tests/injection`.
"""

import copy

import pytest
import torch

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from policy_patch.errors import PatchInputError
from tests.definition import padded
from tests.tiny_models import BOS, PAD, VOCAB_SIZE, tiny_model

TOLERANCE = 1e-5
ROW = [BOS, *range(20, 32)]
IDS = torch.tensor([ROW])


def config(number: int = 4, **options) -> PolicyPatchConfig:
    return PolicyPatchConfig(num_virtual_tokens=number, **{"init": "vocab", **options})


def logits(model, ids=IDS, **options) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, **options).logits


def test_generated_scores_are_the_logits_of_forward(family):
    model = get_policy_patch_model(tiny_model(family), config()).eval()
    ids, mask = padded([ROW, ROW[:5]], "left")
    out = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=5,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=PAD,
        output_scores=True,
        return_dict_in_generate=True,
    )
    assert out.sequences.shape == (2, ids.shape[1] + 5) and len(out.scores) == 5
    for step, scores in enumerate(out.scores):
        end = ids.shape[1] + step
        longer = torch.cat([mask, torch.ones(2, step, dtype=torch.long)], dim=1)
        forward = logits(model, out.sequences[:, :end], attention_mask=longer)[:, -1]
        assert (scores - forward).abs().max() <= TOLERANCE


def test_the_backbone_as_the_patch_sees_it_gives_the_hidden_states_behind_the_logits(family):
    model = get_policy_patch_model(tiny_model(family), config()).eval()
    with torch.no_grad():
        hidden = model.base_model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).last_hidden_state
        head = model.get_base_model().lm_head(hidden)
        plain = model.get_base_model().base_model(input_ids=IDS).last_hidden_state
    assert hidden.shape == (1, len(ROW), 32) and not torch.allclose(hidden, plain)
    if family not in ("gemma2",):  # soft-caps its logits
        assert (head - logits(model)).abs().max() <= TOLERANCE


def test_no_cache_comes_back_where_none_is_wanted(family):
    model = get_policy_patch_model(tiny_model(family), config()).eval()
    with torch.no_grad():
        assert model(IDS, use_cache=False).past_key_values is None
        assert "past_key_values" not in model(IDS, use_cache=False)
        assert model(IDS, use_cache=True).past_key_values.get_seq_length() > 0


def test_loss_is_that_of_the_real_tokens(family):
    model = get_policy_patch_model(tiny_model(family), config()).eval()
    labels = IDS.masked_fill(torch.arange(len(ROW)) < 3, -100)
    with torch.no_grad():
        output = model(IDS, torch.ones_like(IDS), labels)
    predicted = output.logits[0, 2:-1].log_softmax(-1)
    expected = -predicted.gather(1, IDS[0, 3:].unsqueeze(1)).mean()
    assert output.logits.shape == (1, len(ROW), VOCAB_SIZE)
    assert output.loss.item() == pytest.approx(expected.item(), abs=1e-5)


def test_tuples_and_the_last_logits_alone_can_be_asked_for(family):
    model = get_policy_patch_model(tiny_model(family), config()).eval()
    expected = logits(model)
    with torch.no_grad():
        assert torch.equal(model(IDS, return_dict=False)[0], expected)
    assert torch.allclose(logits(model, logits_to_keep=2), expected[:, -2:], atol=TOLERANCE)


def test_generating_from_a_cache_that_the_base_filled_is_refused_but_not_when_disabled():
    model = get_policy_patch_model(tiny_model(), config()).eval()
    with torch.no_grad(), model.disable_patch():
        cache = model(IDS[:, :-1], use_cache=True).past_key_values
        options = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None, "pad_token_id": PAD}
        plain = model.get_base_model().generate(IDS, **options)
        assert torch.equal(model.generate(IDS, past_key_values=copy.deepcopy(cache), **options), plain)
    with pytest.raises(PatchInputError, match="was filled without the patch"):
        model.generate(IDS, past_key_values=cache, **options)
