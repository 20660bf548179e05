"""The head runs over labelled positions alone, and TRL's fused head gives out the same figures as over all of them."""

import pytest
import torch
from trl.trainer import utils
from trl.trainer.utils import add_fused_lm_head

from policy_patch.training._trl import drop_fused_head, score_labels_only
from tests.tiny_models import tiny_model
from tests.training.synthetic import patched

FIELDS = ("log_probs", "entropy", "mean_logits", "is_top1")
MODELS = {"patched": patched, "base": tiny_model}


def batch() -> dict[str, torch.Tensor]:
    """Return two rows, the second padded on the left, whose labels are scattered over the answer."""
    ids = torch.randint(3, 90, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    labels = ids.clone()
    labels[:, :4] = -100
    labels[0, 6] = labels[1, 8] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def scored(model: torch.nn.Module, *, labels_only: bool, **inputs: torch.Tensor):
    """Return what TRL's fused head gives out, over labelled positions alone or over all."""
    add_fused_lm_head(model, outputs=FIELDS)
    if labels_only:
        score_labels_only(model)
    try:
        return model(**inputs, fused_lm_head=True)
    finally:
        drop_fused_head(model)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("num_items_in_batch", [None, 7])
def test_every_figure_equals_that_of_all_positions(kind, num_items_in_batch):
    model = MODELS[kind]()
    inputs = {**batch(), "num_items_in_batch": num_items_in_batch}
    some, every = (scored(model, labels_only=only, **inputs) for only in (True, False))
    for name in (*FIELDS, "label_mask", "loss"):
        assert some[name].shape == every[name].shape
        torch.testing.assert_close(some[name], every[name], atol=1e-5, rtol=1e-5)


def test_the_vectors_get_the_same_gradient():
    gradients = []
    for only in (True, False):
        model = patched()
        scored(model, labels_only=only, **batch()).loss.backward()
        gradients.append(model.patches["default"].grad)
    assert gradients[1].abs().max() > 1e-3
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("labels_only", "rows"), [(True, 8), (False, 16)])
def test_the_head_sees_as_many_positions_as_there_are_labels(labels_only, rows, monkeypatch):
    seen = []
    apply = utils._ChunkedLogProbFunction.apply
    monkeypatch.setattr(
        utils._ChunkedLogProbFunction,
        "apply",
        lambda hidden, *args: seen.append(hidden.flatten(0, -2).shape[0]) or apply(hidden, *args),
    )
    inputs = batch()
    scored(patched(), labels_only=labels_only, **inputs)
    assert seen == [rows]
    assert (inputs["labels"][:, 1:] != -100).sum() == 8


def test_a_batch_without_labels_has_a_loss_of_zero_with_a_gradient():
    model = patched()
    inputs = batch()
    inputs["labels"] = torch.full_like(inputs["labels"], -100)
    output = scored(model, labels_only=True, **inputs)
    output.loss.backward()
    assert output.loss == 0
    assert model.patches["default"].grad.abs().max() == 0


def test_without_the_fused_head_the_model_gives_logits_as_before():
    model = patched()
    inputs = batch()
    expected = model(**inputs)
    add_fused_lm_head(model)
    score_labels_only(model)
    output = model(**inputs)
    drop_fused_head(model)
    torch.testing.assert_close(output.logits, expected.logits)
    torch.testing.assert_close(output.loss, expected.loss)
