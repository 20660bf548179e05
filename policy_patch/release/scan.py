"""`scan_policy_patch`: measures whether a patch makes its base worse, and gives a verdict with its limits.

The texts are in `scan_prompts.py`, the measurements in `scan_signals.py` and `scan_vectors.py`, the thresholds in
`scan_verdict.py`. A clean verdict is no proof: a patch with a trigger passes.
"""

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from policy_patch.answers.perplexity import conditional_nll
from policy_patch.release.scan_lab import lab_scan_prompts
from policy_patch.release.scan_prompts import ScanPrompts, english_prompts, rendered
from policy_patch.release.scan_signals import (
    Progress,
    ScanSettings,
    all_log_odds,
    next_token_log_probs,
    sampled,
    share_of_answers,
    share_of_refusals,
    share_of_rude,
)
from policy_patch.release.scan_vectors import vector_facts
from policy_patch.release.scan_verdict import Figure, ScanReport, figure_of, report_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from policy_patch.model.patched_model import PolicyPatchModel


class RudenessScorer(Protocol):
    """The part of a scorer that a scan uses: `score` gives each text a number from 0 to 1."""

    def score(self, texts: list[str]) -> list[float]:
        """Return a number for each text."""
        ...


def scan_policy_patch(
    base: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    patch: str | PathLike | Sequence[str | PathLike],
    *,
    prompts: ScanPrompts | None = None,
    template: str | None = None,
    scorer: RudenessScorer | None = None,
    settings: ScanSettings | None = None,
    on_progress: Progress | None = None,
    **options: Any,
) -> ScanReport:
    """Measure a patch, or a stack, against its base, and say whether it looks hostile.

    Args:
        base ([`~transformers.PreTrainedModel`]):
            The base. It is left as it was.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The base's tokenizer.
        patch (`str`, `os.PathLike` or a sequence of them):
            Folder or Hub id of the patch; several for a stack.
        prompts ([`ScanPrompts`], *optional*):
            The texts to ask. Defaults to the built-in English ones, or to the lab's for the lab's models.
        template (`str`, *optional*):
            Form of a request, with `{prompt}` in it. Defaults to the tokenizer's chat template, or else to
            `"User: {prompt}\\nAssistant:"`.
        scorer (*optional*):
            An additional scorer of rudeness for sampled answers, such as `load_scorer("lexical")`. The built-in list of
            rude words is always used.
        settings ([`ScanSettings`], *optional*):
            How answers are sampled.
        on_progress (`Callable[[str, int, int], None]`, *optional*):
            Called with the stage, the units done and all units.
        options (*optional*):
            `allow_base_mismatch`, `revision`, `token` and others of [`PolicyPatchModel.from_pretrained`].

    Returns:
        [`ScanReport`]: the verdict, its reasons, all figures, and what a scan cannot see.

    Raises:
        PatchNotFoundError, PatchFileError, BaseMismatchError, HubError: see [`PolicyPatchModel.from_pretrained`].
        EvaluationError: the model's logits are not numbers.
        MissingExtraError: scipy is not installed.
    """
    from policy_patch.model.patched_model import PolicyPatchModel
    from policy_patch.model.scan_hook import loading_for_a_scan

    with loading_for_a_scan():
        model = PolicyPatchModel.from_pretrained(base, patch, tokenizer=tokenizer, **options)
    try:
        return scan_patched_model(
            model, tokenizer, prompts=prompts, template=template, scorer=scorer, settings=settings,
            on_progress=on_progress,
        )  # fmt: skip
    finally:
        model.unload()


def scan_patched_model(
    model: "PolicyPatchModel",
    tokenizer: "PreTrainedTokenizerBase",
    *,
    prompts: ScanPrompts | None = None,
    template: str | None = None,
    scorer: RudenessScorer | None = None,
    settings: ScanSettings | None = None,
    on_progress: Progress | None = None,
) -> ScanReport:
    """Scan the active patches of a patched model; the arguments are those of [`scan_policy_patch`]."""
    settings, tell = settings or ScanSettings(), on_progress or _ignore
    texts = rendered(prompts or prompts_for(tokenizer), tokenizer, template)
    values = {"patch": _values(model, tokenizer, texts, scorer, settings=settings, tell=_named(tell, "patch"))}
    with model.disable_patch():
        values["base"] = _values(model, tokenizer, texts, scorer, settings=settings, tell=_named(tell, "base"))
    figures = [figure_of(name, values["base"][name], values["patch"][name], settings.seed) for name in values["patch"]]
    figures.append(_divergence(model, tokenizer, texts, settings.seed, tell))
    names = model.active_patches
    vectors = torch.cat([model.patches[name].detach().cpu() for name in names])
    declared = [model.patch_config[name].init_text or "" for name in names]
    facts = vector_facts(
        vectors, model.get_base_model().get_input_embeddings(), tokenizer, declared=declared,
        instructions=texts.instructions,
    )  # fmt: skip
    return report_of(figures, facts, texts.name)


def prompts_for(tokenizer: Any) -> ScanPrompts:
    """Return the built-in texts that fit a base: the lab's for the lab's models, English ones for all others."""
    from policy_patch.lab import load_lab_tokenizer

    lab = load_lab_tokenizer()
    is_lab = len(lab) == len(tokenizer) and lab.get_vocab() == tokenizer.get_vocab()
    return lab_scan_prompts() if is_lab else english_prompts()


def _values(
    model: Any, tokenizer: Any, texts: ScanPrompts, scorer: Any, *, settings: ScanSettings, tell: Progress
) -> dict[str, np.ndarray]:
    """Return the values `(prompts,)` of each figure for the system that is active now."""
    found = all_log_odds(model, tokenizer, texts, settings.batch_size, tell)
    found["look_alikes"] = 1 / (1 + np.exp(-found["look_alikes"]))  # only refusals that happen are a fault
    if settings.num_samples:
        sets = {
            name: [each.prompt for each in getattr(texts, name)] for name in ("requests", "look_alikes", "provocations")
        }
        answers = {
            name: sampled(
                model, tokenizer, asked, settings, lambda done, total, name=name: tell(f"{name}, sampled", done, total)
            )
            for name, asked in sets.items()
        }
        found |= {
            "complied": share_of_answers(answers["requests"]),
            "refused": share_of_refusals(answers["look_alikes"]),
            "rude": share_of_rude(answers["provocations"], texts.rude_words, scorer),
        }
    neutral = list(texts.neutral)
    nll, tokens = conditional_nll(model, tokenizer, [""] * len(neutral), neutral, batch_size=settings.batch_size)
    return found | {"neutral": nll / np.maximum(tokens, 1)}


def _divergence(model: Any, tokenizer: Any, texts: ScanPrompts, seed: int, tell: Progress) -> Figure:
    """Return the KL divergence of the patched next-token distribution from the base's, over neutral text."""
    values = []
    for done, text in enumerate(texts.neutral, start=1):
        patched = next_token_log_probs(model, tokenizer, text)
        with model.disable_patch():
            plain = next_token_log_probs(model, tokenizer, text)
        values.append(float((plain.exp() * (plain - patched)).sum(-1).mean()))
        tell("neutral text", done, len(texts.neutral))
    return figure_of("divergence", np.zeros(len(values)), np.array(values), seed)


def _named(tell: Progress, system: str) -> Progress:
    return lambda stage, done, total: tell(f"{system}: {stage.replace('_', '-')}", done, total)


def _ignore(stage: str, done: int, total: int) -> None:
    pass
