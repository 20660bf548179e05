"""The base's predictions on fixed token ids: the part of the fingerprint that covers more than the weights.

They reveal what weights and settings do not show: an active adapter, replaced code, a rotary module that was changed
by hand. They cost one forward pass of 2 rows of 16 tokens. The second row repeats the first with rounding noise of the
base's precision added to its embeddings; the difference of the outputs says how much noise to expect.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.utils import logging

from policy_patch.base.architecture import backbone_of, learned_position_limit
from policy_patch.base.token_embeddings import embedded
from policy_patch.base.undisturbed import undisturbed
from policy_patch.base.weight_samples import draw, is_int8, is_plain

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.get_logger(__name__)

_SLOW = 5.0  # seconds
TOKENS, PLACES, IDS = 16, 4, 32
# How far log-probabilities may be off, as a share of their spread: this much, or twice the base's own noise if that is
# more. Our choice, after benchmarks/base_probe.py, where a dropped layer was 0.07 and more.
_LEAST = {"float32": 2e-4, "float16": 0.01, "bfloat16": 0.03, "8 bits": 0.3}
_TIMES_NOISE, _MOST = 2.0, 0.3
_ROUNDED_BEFORE = 0.25  # both in fp32, one of them loaded from a file in half precision
_LEAST_SPREAD = 1e-2  # with less spread, a model predicts nothing
PRECISIONS = tuple(_LEAST)
_FAILURES = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Probe:
    """The predictions of a base.

    Args:
        precision (`str`):
            The lowest precision that the base computes with: `"float32"`, `"bfloat16"`, `"float16"`, `"8 bits"`.
        noise (`float`):
            How far rounding noise moved the log-probabilities, as a share of their spread; the median over places.
        log_probs (`torch.Tensor`):
            `(4, 32)` fp32: at 4 places of the sequence, log-probabilities of 32 candidates for the next token.
    """

    precision: str
    noise: float
    log_probs: torch.Tensor

    def differs_from(self, other: "Probe", *, same_weights: bool) -> float | None:
        """Return how far `other` is off, as a share of the spread; None if the precision explains the difference.

        In fp32 every place must agree. In lower precision the median over places counts: noise may change the choice of
        experts at one place.

        Args:
            other ([`Probe`]):
                Predictions of the base to compare.
            same_weights (`bool`):
                Whether all weights that were read are bit-identical. Two fp32 files of one base may differ if one of
                them was once rounded.
        """
        off = _off(self.log_probs, other.log_probs)
        tolerance = max(min(max(_LEAST[each.precision], _TIMES_NOISE * each.noise), _MOST) for each in (self, other))
        if self.precision == other.precision == "float32":
            if same_weights:
                return None if off.max() <= tolerance else float(off.max())
            tolerance = max(tolerance, _ROUNDED_BEFORE)
        return None if _middle(off) <= tolerance else _middle(off)


def _off(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return `(places,)`: the root mean square of the difference, as a share of the spread of `one`."""
    return (one - other).pow(2).mean(-1).sqrt() / one.std(-1).clamp(min=_LEAST_SPREAD)


def _middle(off: torch.Tensor) -> float:
    return float(off.sort().values[PLACES // 2 - 1 : PLACES // 2 + 1].mean())


_kept: ContextVar[dict[int, Probe | str] | None] = ContextVar("kept", default=None)


@contextmanager
def looking_once() -> Iterator[None]:
    """Open a context in which each base is run only once, however many patches are checked against it."""
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def why_not_comparable(base: "PreTrainedModel") -> str | None:
    """Return in words why the predictions of `base` cannot be compared; None if they can."""
    if any(hasattr(weight, "full_tensor") or hasattr(weight, "ds_id") for weight in base.parameters()):
        return "its weights are split over processes"
    return "its weights are packed into fewer than 8 bits" if _precision_of_weights(base) is None else None


def probe_of(base: "PreTrainedModel") -> Probe | str:
    """Return the predictions of `base` without any patch, or the reason in words if it cannot be run on the ids.

    Args:
        base ([`~transformers.PreTrainedModel`]):
            A causal language model that [`why_not_comparable`] does not exclude. Not changed.
    """
    kept = _kept.get()
    if kept is not None and id(base) in kept:
        return kept[id(base)]
    start = time.perf_counter()
    found = _run(base)
    took = time.perf_counter() - start
    if took > _SLOW:
        logger.warning(
            f"Checking the base's predictions took {took:.0f} s (one forward pass of 2 rows of {TOKENS} tokens). "
            "`base_probe=False` loads a patch without this check."
        )
    if kept is not None:
        kept[id(base)] = found
    return found


def _run(base: "PreTrainedModel") -> Probe | str:
    embeddings = base.get_input_embeddings()
    table = next(embeddings.parameters())
    rows, device = table.shape[0], table.device
    count = min(TOKENS, learned_position_limit(base) or TOKENS)
    # Special tokens lie at both ends of a vocabulary; image tokens would need images.
    first, last = rows // 10, max(rows * 8 // 10, rows // 10 + 1)
    ids, asked = (
        torch.from_numpy(draw(f"probe {name}/{rows}", number, last - first)) + first
        for name, number in (("ids", count), ("asked", IDS))
    )
    places = [(count * (place + 1)) // PLACES - 1 for place in range(PLACES)]
    try:
        # Compiled layers would otherwise be recompiled for this length.
        with undisturbed(base), torch.compiler.set_stance("force_eager"):
            own = embedded(embeddings, ids.to(device))  # (tokens, hidden_size)
            signs = torch.from_numpy(draw("probe noise", own.numel(), 2) * 2 - 1).reshape(own.shape).to(device)
            eps = torch.finfo(own.dtype).eps
            inputs: dict[str, Any] = {"inputs_embeds": torch.stack([own, own * (1 + eps * signs).to(own.dtype)])}
            if getattr(backbone_of(base), "rope_deltas", None) is not None:  # Qwen2-VL would continue its last image
                inputs["position_ids"] = torch.arange(count, device=device).expand(2, -1)
            logits = base(**inputs, use_cache=False).logits  # (2, tokens, vocabulary)
            log_probs = logits[:, places].float().log_softmax(-1)[..., asked.to(logits.device)].cpu()
            precision = _precision(base, table)
    except _FAILURES as error:
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
    if not log_probs.isfinite().all():
        return "it gives numbers that are not finite"
    return Probe(precision, _middle(_off(log_probs[0], log_probs[1])), log_probs[0])


def _precision(base: "PreTrainedModel", table: torch.Tensor) -> str:
    """Return the lowest precision that a base computes with now: of its weights, autocast, and fp32 products (TF32)."""
    kind = table.device.type
    if torch.is_autocast_enabled(kind):
        return str(torch.get_autocast_dtype(kind)).removeprefix("torch.")
    of_weights = _precision_of_weights(base)
    return "bfloat16" if of_weights == "float32" and not _is_exact_in_fp32(table.device) else of_weights


def _is_exact_in_fp32(device: torch.device) -> bool:
    """Return whether fp32 matrices are multiplied in full fp32; several torch settings can change that (TF32, bf16)."""
    one = (torch.arange(64 * 64, device=device, dtype=torch.float32) % 97 / 97).reshape(64, 64)
    return bool(((one @ one).double() - one.double() @ one.double()).abs().max() < 1e-4)


def _precision_of_weights(base: "PreTrainedModel") -> str | None:
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
    for dtype in (torch.bfloat16, torch.float16):
        if dtype in found:
            return str(dtype).removeprefix("torch.")
    return "float32"
