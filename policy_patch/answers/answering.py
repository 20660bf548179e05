"""What answers prompts: a model of transformers in this process, a vLLM engine, or a model that is served elsewhere.

All of them look alike to those who sample: `name`, and `answer`. What is done with answers is not settled here.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from policy_patch.answers.sampling import Answer, sample_answers
from policy_patch.base.weight_samples import SampleRequest, read_samples
from policy_patch.errors import DataError

_ELEMENTS = 16  # of each weight in the name of a model; merging LoRA or training changes nearly all of a matrix


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How answers are sampled; see [`sample_answers`]."""

    num_samples: int
    max_new_tokens: int
    top_p: float
    temperature: float
    batch_size: int
    seed: int

    def identity(self) -> dict[str, Any]:
        """Return what decides which answers are sampled; batches do not."""
        return {name: value for name, value in asdict(self).items() if name != "batch_size"}


@runtime_checkable
class Answering(Protocol):
    """Answers prompts. Its `name` decides, with the settings, which answers are taken for the same."""

    name: str

    def answer(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        *,
        occurrences: Sequence[int],
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Answer]]:
        """Return `sampling.num_samples` answers to each prompt.

        Args:
            prompts (`Sequence[str]`):
                At least one.
            sampling (`Sampling`):
                Settings.
            occurrences (`Sequence[int]`):
                For each prompt, how many equal ones stand before it in the whole run: part of its randomness.
            on_progress (`Callable[[int, int], None]`, *optional*):
                Called with the number of answers done and wanted.
        """
        ...


class TransformersAnswers:
    """A model of transformers, or one with a patch, its tokenizer, and maybe an instruction in front of each prompt."""

    def __init__(self, model: Any, tokenizer: Any, instruction: str | None = None) -> None:
        self.model, self.tokenizer, self.instruction = model, tokenizer, instruction
        self.name = identity_of(model) + (f" told {instruction!r}" if instruction else "")

    def answer(self, prompts: Sequence[str], sampling: Sampling, **more: Any) -> list[list[Answer]]:
        """Return the answers of [`sample_answers`]: the same ones for the same randomness, whatever the batches."""
        return sample_answers(
            self.model, self.tokenizer, prompts, instruction=self.instruction, **asdict(sampling), **more
        )


def answering(model: Any, tokenizer: Any = None) -> Answering:
    """Return `model` as something that answers prompts.

    Args:
        model ([`~transformers.PreTrainedModel`], [`Answering`] or `vllm.LLM`):
            What is to answer.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The model's, needed for one of transformers only.

    Raises:
        DataError: none of these, or a model without its tokenizer.
    """
    if isinstance(model, Answering):
        return model
    if hasattr(model, "llm_engine"):
        from policy_patch.answers.vllm_engine import VLLMAnswers

        return VLLMAnswers(model)
    if not hasattr(model, "generate"):
        raise DataError(
            f"`{type(model).__name__}` cannot answer prompts; expected a model of transformers, a `vllm.LLM` or an "
            "`OpenAIEndpoint`."
        )
    if tokenizer is None:
        raise DataError(f"`{type(model).__name__}` needs its tokenizer to answer prompts. Give it.")
    return TransformersAnswers(model, tokenizer)


def identity_of(model: Any) -> str:
    """Return the name of a model and a hash over elements of all its weights, and over its active patches."""
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
