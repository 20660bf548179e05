"""Holds an architecture that our tests have not seen against the definition of a patched model, on a few tokens.

Every base is exact or refused: refused if `concat` is not exact; without `cached` if only that is not; without rows
padded on the left if only those are not.
"""

import torch
from transformers import PreTrainedModel

from policy_patch.architecture import backbone_of
from policy_patch.errors import UnsupportedModelError
from policy_patch.injection import Injection, holds_states_alone
from policy_patch.stacks import BatchStacks, Stack

_NUM_VECTORS, _NUM_TOKENS = 3, 6
_FAILURES = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)  # what models raise on unknown inputs


def checked_injection(base: PreTrainedModel) -> Injection:
    """Return an injection into `base` that gives what the definition says.

    Raises:
        UnsupportedModelError: the definition does not hold on this architecture. Nothing is left on the base.
    """
    injection = Injection(base)
    if injection.verified:
        return injection
    training = [module for module in base.modules() if module.training]
    base.eval()
    try:
        with torch.no_grad():
            injection.cacheable = _cached_way_is_exact(base, injection)
    except BaseException:
        injection.remove()
        raise
    finally:
        for module in training:
            module.training = True
    return injection


def _cached_way_is_exact(base: PreTrainedModel, injection: Injection) -> bool:
    """Hold both ways against the definition: one call, and a step from its cache. Notes whether padding is exact too.

    Raises:
        UnsupportedModelError: `concat` is not exact.
    """
    # Half precision: noise that flips a choice of experts is no reason to refuse, a missing patch is.
    tolerance = 1e-3 if base.dtype == torch.float32 else 0.2
    try:
        row, stack = _input(base)
        expected = _logits_by_definition(base, injection, row, stack.vectors)
        injection.cacheable = False
        share = _share_off(_logits(base, injection, row, stack), expected)
        if not share <= tolerance:
            raise UnsupportedModelError(_not_exact(base, f"its logits are off by {share:.1%}"))
    except UnsupportedModelError:
        raise
    except (AssertionError, *_FAILURES) as error:
        raise UnsupportedModelError(_not_exact(base, f"{type(error).__name__}: {error}")) from error
    injection.paddable = _padding_is_exact(base, injection, row, stack, expected, tolerance)
    injection.cacheable = True
    try:
        difference = (_logits(base, injection, row, stack) - expected).abs().max()
    except _FAILURES:
        return False
    tolerance = 1e-4 if base.dtype == torch.float32 else 5e-2
    return bool(difference <= tolerance * expected.abs().max())


def _padding_is_exact(
    base: PreTrainedModel, injection: Injection, row: torch.Tensor, stack: Stack, expected: torch.Tensor, most: float
) -> bool:
    """Whether `concat` gives the same for a row padded on the left. Models that count places may not."""
    try:
        return bool(_share_off(_logits(base, injection, row, stack, padded=True), expected) <= most)
    except (AssertionError, *_FAILURES):
        return False


def _share_off(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().mean() / expected.abs().mean())


def _input(base: PreTrainedModel) -> tuple[torch.Tensor, Stack]:
    """Return ids `(1, tokens)`, with BOS if there is one, and vectors between tokens from all over the vocabulary."""
    embeddings = base.get_input_embeddings()
    table = next(embeddings.parameters())
    count = _NUM_VECTORS + _NUM_TOKENS
    ids = torch.arange(1, count + 1, device=table.device) * table.shape[0] // (count + 1)
    row = ids[_NUM_VECTORS:].unsqueeze(0)
    bos = base.config.get_text_config().bos_token_id
    if bos is not None:
        row[0, 0] = bos
    # Halfway between two tokens: Gemma 4 looks up which token an embedding is, and a patch's vector is none.
    vectors = (embeddings(ids[:_NUM_VECTORS]).float() + embeddings(ids[:_NUM_VECTORS] + 1).float()) / 2
    return row, Stack(("check",), vectors, "after_bos")


def _logits(
    base: PreTrainedModel, injection: Injection, row: torch.Tensor, stack: Stack, *, padded: bool = False
) -> torch.Tensor:
    """Return `(1, tokens, vocabulary)`, the last token in a step of its own if the backbone returns a cache."""
    padding = row[:, -1:].repeat(1, 2)  # (1, 2), any token
    ids = torch.cat([padding, row], dim=1)
    mask = torch.cat([torch.zeros_like(padding), torch.ones_like(row)], dim=1)
    if not padded:
        ids, mask = row, torch.ones_like(row)
    with injection.active(BatchStacks((stack,))):
        output = base(input_ids=ids[:, :-1], attention_mask=mask[:, :-1], use_cache=True)
        cache = getattr(output, injection.cache_name, None)
        if cache is None:
            logits = base(input_ids=ids, attention_mask=mask).logits
        else:
            seen = None if holds_states_alone(cache) else mask  # as `generate` gives it
            step = base(input_ids=ids[:, -1:], attention_mask=seen, **{injection.cache_name: cache})
            logits = torch.cat([output.logits, step.logits], dim=1)
    return logits[:, -row.shape[1] :].float()


def _logits_by_definition(
    base: PreTrainedModel, injection: Injection, row: torch.Tensor, vectors: torch.Tensor
) -> torch.Tensor:
    embeds = base.get_input_embeddings()(row)  # (1, tokens, hidden)
    at = int(base.config.get_text_config().bos_token_id is not None)
    parts = [embeds[:, :at], vectors.to(embeds.dtype).unsqueeze(0), embeds[:, at:]]
    inputs = {"inputs_embeds": torch.cat(parts, dim=1)}
    if getattr(backbone_of(base), "rope_deltas", None) is not None:  # Qwen2-VL counts on from the image it saw last
        inputs["position_ids"] = torch.arange(inputs["inputs_embeds"].shape[1], device=embeds.device).unsqueeze(0)
    with injection.active(None):
        output = base(**inputs, use_cache=False)
    return output.logits[:, vectors.shape[0] :].float()  # with BOS, the first is the output at the last vector


def _not_exact(base: PreTrainedModel, reason: str) -> str:
    return (
        f"`base` is a {type(base).__name__}, on which a patch does not give what the same vectors between its token "
        f"embeddings give ({reason}). Use another base."
    )
