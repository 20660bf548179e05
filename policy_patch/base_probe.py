"""What a base predicts behind fixed token ids: the part of its fingerprint that no list of weights can give.

It sees what weights and settings do not show: an adapter that is switched on, code that was replaced, a rotary module
that was changed by hand. It costs one forward of 16 tokens.
"""

import time
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.utils import logging

from policy_patch.architecture import backbone_of, learned_position_limit
from policy_patch.base_state import BaseState, base_state
from policy_patch.hooks import Hook
from policy_patch.undisturbed import undisturbed
from policy_patch.weight_samples import draw, is_int8, is_plain

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.get_logger(__name__)

_SLOW = 5.0  # seconds
TOKENS, PLACES, IDS = 16, 4, 32
# How far log-probabilities may be off, as a share of their own spread at a place. Our choice, after
# benchmarks/base_probe.py: in the median over places, random models of 80 layers were off by up to 0.13 in bf16, 0.02 in
# fp16 and 0.18 in 8 bits, trained ones by 0.01; a dropped layer by 0.07 to 0.5.
_EXACT = 2e-4
_LEAST_SPREAD = 1e-2  # our choice: less is a model that predicts nothing
_TOLERANCE = {"float16": 0.05, "bfloat16": 0.25, "8 bits": 0.3}
PRECISIONS = ("float32", *_TOLERANCE)
_FAILURES = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Probe:
    """What a base predicted.

    Args:
        precision (`str`):
            `"float32"`, or the lowest precision of its weights: `"bfloat16"`, `"float16"`, `"8 bits"`.
        log_probs (`torch.Tensor`):
            `(4, 32)` fp32: at 4 places of the sequence, log-probabilities of 32 tokens to come next.
    """

    precision: str
    log_probs: torch.Tensor

    def differs_from(self, other: "Probe", *, same_weights: bool) -> float | None:
        """Return how far `other` is off, as a share of the spread, if precision does not explain it; else None.

        In fp32 no place may be off. In less, the median over places counts: noise may flip a choice of experts at one.

        Args:
            other ([`Probe`]):
                Of the base that is to be compared.
            same_weights (`bool`):
                Whether its weights are equal to the bit, as far as was read; two files of a base in fp32 may not be,
                if one of them was rounded before.
        """
        spread = self.log_probs.std(-1).clamp(min=_LEAST_SPREAD)
        off = (self.log_probs - other.log_probs).pow(2).mean(-1).sqrt() / spread  # (places,)
        tolerance = max(_TOLERANCE.get(each.precision, 0.0) for each in (self, other))
        if not same_weights:
            tolerance = max(tolerance, _TOLERANCE["bfloat16"])
        middle = off.sort().values[PLACES // 2 - 1 : PLACES // 2 + 1]
        share = float(middle.mean() if tolerance else off.max())
        return None if share <= (tolerance or _EXACT) else share


_KEPT: "weakref.WeakKeyDictionary[Any, tuple[BaseState, Probe | None]]" = weakref.WeakKeyDictionary()


def why_not_comparable(base: "PreTrainedModel") -> str | None:
    """Return in words why what `base` predicts cannot be compared; None if it can."""
    if any(hasattr(weight, "full_tensor") or hasattr(weight, "ds_id") for weight in base.parameters()):
        return "its weights are split over processes"
    return "its weights are packed into fewer than 8 bits" if _precision(base) is None else None


def probe_of(base: "PreTrainedModel") -> Probe | None:
    """Return what `base` predicts without any patch; None if it cannot be run on the ids, or gives no finite numbers.

    It runs again only if something of the base has changed since, so that a stack of patches costs one forward.

    Args:
        base ([`~transformers.PreTrainedModel`]):
            A causal language model that is comparable. Not changed.
    """
    state = base_state((base,), lambda hook: isinstance(hook, Hook))
    kept = _KEPT.get(base)
    if state is not None and kept is not None and state.same_as(kept[0]):
        return kept[1]
    start = time.perf_counter()
    found = _run(base)
    took = time.perf_counter() - start
    if took > _SLOW:
        logger.warning(
            f"It took {took:.0f} s to see what the base predicts, by one forward of {TOKENS} tokens, once for a base. "
            "`base_probe=False` loads a patch without it."
        )
    if state is not None:
        _KEPT[base] = state, found
    return found


def _run(base: "PreTrainedModel") -> Probe | None:
    rows = base.get_input_embeddings().weight.shape[0]
    count = min(TOKENS, learned_position_limit(base) or TOKENS)
    # Special tokens lie at both ends of a vocabulary; those of images want images.
    first, last = rows // 10, max(rows * 8 // 10, rows // 10 + 1)
    ids, asked = (
        torch.from_numpy(draw(f"probe {name}/{rows}", number, last - first)) + first
        for name, number in (("ids", count), ("asked", IDS))
    )
    places = [(count * (place + 1)) // PLACES - 1 for place in range(PLACES)]
    device = base.get_input_embeddings().weight.device
    inputs: dict[str, Any] = {"input_ids": ids.unsqueeze(0).to(device), "use_cache": False}
    if getattr(backbone_of(base), "rope_deltas", None) is not None:  # Qwen2-VL counts on from its last image
        inputs["position_ids"] = torch.arange(count, device=device).unsqueeze(0)
    try:
        with undisturbed(base), torch.autocast(device.type, enabled=False):
            logits = base(**inputs).logits[0]  # (tokens, vocabulary)
            log_probs = logits[places].float().log_softmax(-1)[:, asked.to(logits.device)].cpu()
    except _FAILURES:
        return None
    return Probe(_precision(base), log_probs) if log_probs.isfinite().all() else None


def _precision(base: "PreTrainedModel") -> str | None:
    """Return the lowest precision of the weight matrices; None if some are packed into fewer than 8 bits."""
    found = set()
    for module in base.modules():
        for weight in module._parameters.values():
            if weight is not None and weight.dim() > 1 and not weight.is_meta:
                if not is_plain(weight) and not is_int8(weight, module):
                    return None
                found.add(weight.dtype if is_plain(weight) else torch.int8)
    if torch.int8 in found:
        return "8 bits"
    if torch.bfloat16 in found or torch.get_float32_matmul_precision() != "highest":
        return "bfloat16"
    return "float16" if torch.float16 in found else "float32"
