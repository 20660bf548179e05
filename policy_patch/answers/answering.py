"""Makes a source of answers from a transformers model, a vLLM engine, or a model on a server.

All sources have the same interface (`protocol.py`). The callers decide how the answers are used.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import torch

from policy_patch.answers.protocol import Answering, Sampling
from policy_patch.answers.sampling import Answer, sample_answers
from policy_patch.answers.vllm_engine import VLLMAnswers
from policy_patch.base.weight_samples import SampleRequest, read_samples
from policy_patch.errors import DataError

_ELEMENTS = 16  # hashed per weight; training, or merging LoRA, changes nearly all elements of a matrix


class TransformersAnswers:
    """A transformers model, with or without a patch, its tokenizer, and an optional instruction before each prompt."""

    def __init__(self, model: Any, tokenizer: Any, instruction: str | None = None) -> None:
        self.model, self.tokenizer, self.instruction = model, tokenizer, instruction
        self.name = identity_of(model) + (f" told {instruction!r}" if instruction else "")

    def answer(self, prompts: Sequence[str], sampling: Sampling, **more: Any) -> list[list[Answer]]:
        """Return the answers of [`sample_answers`]. They depend on the seed, and not on the batch size."""
        return sample_answers(
            self.model, self.tokenizer, prompts, instruction=self.instruction, **asdict(sampling), **more
        )


def answering(model: Any, tokenizer: Any = None) -> Answering:
    """Return `model` wrapped as an [`Answering`].

    Args:
        model ([`~transformers.PreTrainedModel`], [`Answering`] or `vllm.LLM`):
            The model that answers.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The model's tokenizer. Only a transformers model needs it.

    Raises:
        DataError: `model` is of another kind, or a transformers model comes without its tokenizer.
    """
    if isinstance(model, Answering):
        return model
    if hasattr(model, "llm_engine"):
        return VLLMAnswers(model)
    if not hasattr(model, "generate"):
        raise DataError(
            f"`{type(model).__name__}` cannot answer prompts; expected a model of transformers, a `vllm.LLM` or an "
            "`OpenAIEndpoint`."
        )
    if tokenizer is None:
        raise DataError(f"`{type(model).__name__}` needs its tokenizer to answer prompts. Give `tokenizer`.")
    return TransformersAnswers(model, tokenizer)


def identity_of(model: Any) -> str:
    """Return a text that identifies a model: its name, a hash of samples of its weights, a hash of its patches."""
    patches = getattr(model, "active_patches", [])
    base = model.get_base_model() if hasattr(model, "active_patches") else model
    requests = [
        SampleRequest(name, weight, base.get_submodule(name.rpartition(".")[0]), _ELEMENTS)
        for name, weight in base.named_parameters()
    ]
    samples = read_samples(requests)
    name = f"{base.config._name_or_path or type(base).__name__} {_hash(samples[key].values for key in sorted(samples))}"
    if not patches:
        return name
    placement = model.patch_config[patches[0]].placement
    return f"{name} behind {_hash(model.patches[patch] for patch in patches)} ({placement})"


def _hash(tensors: Iterable[torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]
