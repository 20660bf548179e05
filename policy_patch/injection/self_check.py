"""Tests every base against the definition of a patched model, on a few tokens, before it carries a patch.

No list of architectures, no name and no version decides. The base itself runs in the ways that will be used (one row, a
batch with padding and patches of different lengths, a step from the cache), in its own dtype and attention
implementation. A base on which `concat` is not exact is refused. If only `cached` is not exact, it is not used; if only
rows padded on the left are not exact, they are refused. The test runs once per process for a model class, configuration
and version of the libraries, if possible on a copy of the base's first layers (`few_layers.py`).
"""

import json
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from policy_patch._compat import cache_of, warn_if_untested
from policy_patch.base.architecture import backbone_of
from policy_patch.base.token_embeddings import embedded
from policy_patch.base.undisturbed import undisturbed
from policy_patch.errors import PatchInputError, PatchNotAppliedError, UnsupportedModelError
from policy_patch.injection.caches import holds_states_alone
from policy_patch.injection.few_layers import few_layers
from policy_patch.injection.findings import Findings
from policy_patch.injection.injection import Injection
from policy_patch.injection.length_switch import length_switch
from policy_patch.injection.proof import not_applied
from policy_patch.injection.stacks import BatchStacks, Stack

_NUM_VECTORS = 3
# Limits in half precision: mean and worst token, as shares of the vectors' effect. Our choice: rounding reached 0.02
# and 0.035 on the models of our tests; a way that is wrong for one row was off by 0.02 and 0.08 or more. Without the
# vectors the error is about 1. Only that refuses a base, because noise may change a choice of experts.
_ROUNDING, _MISSING = (0.03, 0.06), (0.2, 0.5)
# Limits in fp32: worst token, as a share of the outputs. Noise reached 2e-6 in layers 4096 wide. A base that counts a
# wide gap as distance may be off by only 4e-5 (RoFormer).
_NOISE, _WRONG, _MISSING_IN_FP32 = 1e-5, 1e-4, 1e-3
_GAP = 512  # columns of padding; our choice, more than the windows of most models and still cheap
# Errors that models raise on unknown inputs. A failed proof is a finding, too.
_FAILURES = (
    AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, PatchInputError,
    PatchNotAppliedError,
)  # fmt: skip
_FOUND: dict[tuple, Findings] = {}  # kept for this process


def checked_injection(base: PreTrainedModel) -> Injection:
    """Return an injection into `base` that is exact by the definition.

    Raises:
        UnsupportedModelError: no way of injection is exact on this base. All hooks are removed from it again.
    """
    warn_if_untested()
    key = _key(base)
    if key not in _FOUND:
        _FOUND[key] = _findings(base)
    return Injection(base, _FOUND[key])


def _findings(base: PreTrainedModel) -> Findings:
    """Run the check on a small copy of `base`; on all of it if no copy can be made or the check fails on the copy."""
    small = few_layers(base)
    if small is not None:
        try:
            found = _Check.findings(small)
            if found.cacheable and found.unequal and found.paddable and found.many_at_once:
                return found
        except (UnsupportedModelError, *_FAILURES):
            pass  # the cut may be the reason
    return _Check.findings(base)


def _key(base: PreTrainedModel) -> tuple:
    """Return a key of everything that the findings depend on."""
    config = json.dumps(base.config.to_dict(), sort_keys=True, default=repr)
    embeddings = base.get_input_embeddings()
    classes = tuple(dict.fromkeys((_class_of(module), _forward_of(module)) for module in base.modules()))
    versions = transformers.__version__, torch.__version__
    return classes, config, base.config._attn_implementation, base.dtype, embeddings.weight.device.type, versions


def _class_of(module: nn.Module) -> type:
    """Return a module's class before FSDP2 replaced it: a sharded base cannot be run whole, so findings are reused."""
    return next(kind for kind in type(module).__mro__ if not kind.__name__.startswith("FSDP"))


def _forward_of(module: nn.Module) -> Any:
    return vars(module).get("forward", _class_of(module).forward)


def _rounds(base: PreTrainedModel) -> bool:
    """Return whether a base computes in half precision, or on weights in 8 bits: those round activations as well."""
    return base.dtype != torch.float32 or any(not weight.is_floating_point() for weight in base.parameters())


@dataclass(frozen=True)
class _Rows:
    """Two texts of different lengths, with stacks of different lengths, chosen so that both sums are equal.

    Both begin with BOS, and the vectors go after it. In a base without BOS, any token takes its place.

    Args:
        ids (`torch.Tensor`):
            `(2, tokens)` int64, the first row padded on the left by one token.
        mask (`torch.Tensor`):
            `(2, tokens)` int64, 0 at the padding.
        stacks (`tuple[Stack, Stack]`):
            Stacks of three vectors and of two.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    stacks: tuple[Stack, Stack]

    @classmethod
    def of(cls, base: PreTrainedModel) -> "_Rows":
        """Choose tokens from the whole vocabulary."""
        embeddings = base.get_input_embeddings()
        table = next(embeddings.parameters())
        count = _NUM_VECTORS + 7  # of vectors and tokens
        tokens = torch.arange(1, count + 1, device=table.device) * table.shape[0] // (count + 1)
        ids, mask = tokens[_NUM_VECTORS:].repeat(2, 1), torch.ones(2, 7, dtype=torch.long, device=table.device)
        mask[0, 0] = 0
        bos = getattr(base.config.get_text_config(), "bos_token_id", None)
        bos = bos if type(bos) is int and 0 <= bos < table.shape[0] else int(ids[0, 0])  # any token can take its place
        ids[0, 1] = ids[1, 0] = bos
        # Halfway between two embeddings: Gemma 4 looks up the token of an embedding, and a patch's vector has none.
        halves = [embedded(embeddings, tokens[:_NUM_VECTORS] + more).float() for more in (0, 1)]
        vectors = (halves[0] + halves[1]) / 2
        three, two = (Stack((name,), part, "after_bos", (), bos) for name, part in (("3", vectors), ("2", vectors[1:])))
        return cls(ids, mask, (three, two))


class _Check:
    """One check of one base."""

    def __init__(self, base: PreTrainedModel, injection: Injection) -> None:
        self._base = base
        self._injection = injection
        self._rows = _Rows.of(base)
        self.stateful = False  # the cache of the base holds only recurrent states
        self._expected = self._by_definition()
        # The effect of the vectors: in half precision, errors are compared with it to tell noise from a missing patch.
        self._effect = self._expected - self._without_vectors() if _rounds(base) else None

    @classmethod
    def findings(cls, base: PreTrainedModel) -> Findings:
        """Return the findings about `base`.

        Raises:
            UnsupportedModelError: `concat` is not exact.
        """
        injection = Injection(base, Findings(many_at_once=True))
        try:
            with undisturbed(base):
                return cls._of(base, injection)
        except (PatchInputError, PatchNotAppliedError) as error:
            raise UnsupportedModelError(_not_exact(base, str(error))) from error
        finally:
            injection.remove()

    @classmethod
    def _of(cls, base: PreTrainedModel, injection: Injection) -> Findings:
        try:
            check = cls(base, injection)
            off = check.off(batch=False)
        except _FAILURES as error:
            raise UnsupportedModelError(_not_exact(base, f"{type(error).__name__}: {error}")) from error
        if not check.is_near(off, _MISSING_IN_FP32, _MISSING):
            raise UnsupportedModelError(_not_exact(base, f"its logits are off by {off.mean():.1%}"))
        both = check.holds(_WRONG, batch=True, step=2)  # tested separately only if this fails
        paddable = both or check.holds(_WRONG, batch=True)
        many = both or check.holds(_WRONG, step=2)
        found = Findings(paddable=paddable, many_at_once=many, stateful=check.stateful)
        injection.findings = replace(found, cacheable=True, unequal=True, gaps=True, many_at_once=True)
        cacheable = check.holds(_NOISE)
        unequal = cacheable and check.holds(_NOISE, batch=True)
        gaps = unequal and check.holds(_NOISE, gap=True)
        switch, grows = length_switch(base)
        return replace(
            found,
            cacheable=cacheable,
            # A base that counts positions itself also counts gaps; the error of a small gap may not be visible.
            unequal=unequal and (gaps or injection.takes_positions),
            gaps=gaps,
            length_switch=switch,
            grows_beyond=grows,
        )

    def holds(self, in_fp32: float, *, batch: bool = False, gap: bool = False, step: int = 1) -> bool:
        """Return whether the injection, with its present settings, is exact by the definition."""
        try:
            return self.is_near(self.off(batch=batch, gap=gap, step=step), in_fp32, _ROUNDING)
        except _FAILURES:
            return False

    def is_near(self, off: torch.Tensor, in_fp32: float, in_half: tuple[float, float]) -> bool:
        """Return whether the errors `off` are small enough to be rounding.

        In fp32 no token may exceed `in_fp32`; in half precision mean and worst token may not exceed `in_half`.
        """
        if self._effect is None:
            return bool(off.max() <= in_fp32)
        return bool(off.mean() <= in_half[0] and off.max() <= in_half[1])

    def off(self, *, batch: bool, gap: bool = False, step: int = 1) -> torch.Tensor:
        """Return `(tokens,)`, fp32: the error of each token against the definition.

        It is a share of the definition's mean output or, in half precision, of the vectors' effect on it.
        """
        real = self._rows.mask == 1
        if gap:
            found, expected = self._after_a_gap(), self._expected[0, 2:]
        else:
            found = self._in_a_batch(step) if batch else self._one_row(step)
            expected = self._expected[real] if batch else self._expected[0, 1:]
        scale = (self._expected if self._effect is None else self._effect)[real].abs().mean()
        return (found - expected).abs().mean(-1) / scale.clamp(min=1e-12)

    # Outputs by the definition

    def _by_definition(self) -> torch.Tensor:
        """Return `(2, tokens, vocabulary)`, fp32: the outputs of real tokens; padding has arbitrary values."""
        rows, parts = self._rows, []
        for ids, mask, stack in zip(rows.ids, rows.mask, rows.stacks):
            own = embedded(self._base.get_input_embeddings(), ids[mask == 1])
            parts.append(torch.cat([own[:1], stack.vectors.to(own.dtype), own[1:]]))
        logits = self._plain(inputs_embeds=torch.stack(parts))
        return torch.stack([logits[0, 2:], logits[1, 2:]])

    def _without_vectors(self) -> torch.Tensor:
        """Return `(2, tokens, vocabulary)`, fp32: the outputs of the rows without a patch."""
        rows = self._rows
        logits = torch.zeros_like(self._expected)
        logits[0, 1:] = self._plain(input_ids=rows.ids[:1, 1:])[0]
        logits[1] = self._plain(input_ids=rows.ids[1:])[0]
        return logits

    def _plain(self, **inputs: torch.Tensor) -> torch.Tensor:
        if getattr(backbone_of(self._base), "rope_deltas", None) is not None:  # Qwen2-VL would continue its last image
            tokens = next(iter(inputs.values()))
            inputs["position_ids"] = torch.arange(tokens.shape[1], device=tokens.device).unsqueeze(0)
        with self._injection.active(None):
            return self._base(**inputs, use_cache=False).logits.float()

    # Outputs by the injection

    def _one_row(self, step: int) -> torch.Tensor:
        rows = self._rows
        stacks = BatchStacks(rows.stacks[:1])
        return self._in_two_calls(stacks, rows.ids[:1, 1:], rows.mask[:1, 1:], step)[0]  # (tokens, vocabulary)

    def _in_a_batch(self, step: int) -> torch.Tensor:
        rows = self._rows
        logits = self._in_two_calls(BatchStacks(rows.stacks, (0, 1)), rows.ids, rows.mask, step)
        return logits[rows.mask == 1]  # (all real tokens, vocabulary)

    def _in_two_calls(self, stacks: BatchStacks, ids: torch.Tensor, mask: torch.Tensor, step: int = 1) -> torch.Tensor:
        """Return `(batch, tokens, vocabulary)`, fp32; the last `step` tokens are run from the cache if there is one."""
        with self._injection.active(stacks):
            output = self._base(input_ids=ids[:, :-step], attention_mask=mask[:, :-step], use_cache=True)
            cache = cache_of(output)
            self.stateful = holds_states_alone(cache)
            if cache is None:
                return self._base(input_ids=ids, attention_mask=mask).logits.float()
            if self._injection.cache_name is None:
                raise PatchNotAppliedError(
                    not_applied(
                        "it returns a cache, but takes none under a name that this version of policy-patch knows"
                    )
                )
            seen = None if self.stateful else mask  # as `generate` gives it
            more = self._base(input_ids=ids[:, -step:], attention_mask=seen, **{self._injection.cache_name: cache})
        return torch.cat([output.logits, more.logits], dim=1).float()

    def _after_a_gap(self) -> torch.Tensor:
        """Return `(tokens after BOS, vocabulary)`, fp32, of the first row with a wide gap between vectors and text.

        The gap is written into the cache, because running so many tokens would take long. Layers with a sliding window,
        or that count distances in columns, lose sight of the vectors across it.
        """
        base, rows, name = self._base, self._rows, self._injection.cache_name
        limit = getattr(base.config.get_text_config(), "max_position_embeddings", None)
        gap = min(_GAP, limit - 16) if type(limit) is int else _GAP
        (prefix,) = self._injection.primed((rows.stacks[0],), with_bos=True)
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(prefix.keys_values):
            empty = (torch.zeros_like(part[:, :, :1]).expand(-1, -1, gap, -1) for part in (keys, values))
            cache.update(keys, values, layer)
            cache.update(*empty, layer)
        ids = rows.ids[:1, 2:]  # (1, tokens) after BOS
        start, end = 1 + len(rows.stacks[0]), ids.shape[1]
        mask = torch.ones(1, start + gap + end, dtype=torch.long, device=ids.device)
        mask[:, start : start + gap] = 0
        inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": True, name: cache}
        if self._injection.takes_positions:
            inputs["position_ids"] = torch.arange(start, start + end, device=ids.device).unsqueeze(0)
        with self._injection.active(None):
            return base(**inputs).logits[0].float()


def _not_exact(base: PreTrainedModel, reason: str) -> str:
    return (
        f"`base` is a {type(base).__name__}, on which a patch does not give what the same vectors between its token "
        f"embeddings give ({reason}). Use another base."
    )
