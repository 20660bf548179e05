"""The settings of an evaluation in groups: the perplexity model, the alternatives to the patch, the sampling.

They hold only what the caller gave; `evaluate.py` fills in the defaults of the risk.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from policy_patch.errors import EvaluationError


@dataclass(frozen=True, kw_only=True)
class PerplexityModel:
    """The causal LM under which the perplexity of the answers is measured, conditional on the prompt.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model. It should be larger than the models that are compared.
        name (`str`):
            Its name, shown with every perplexity.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Its tokenizer. Defaults to the tokenizer of the patched model.

    Raises:
        EvaluationError: the name is empty.
    """

    model: Any
    name: str
    tokenizer: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise EvaluationError(
                f"`name={self.name!r}` of the `PerplexityModel` is empty or no text. Give the model's name: without it "
                "a perplexity means nothing."
            )


@dataclass(frozen=True, kw_only=True)
class Alternatives:
    """The systems that the patch is compared with, in addition to its base.

    Args:
        teacher ([`~transformers.PreTrainedModel`], [`Answering`] or `Callable[[], Any]`, *optional*):
            The safer model that the patch learned from.
        teacher_tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Its tokenizer. Defaults to the tokenizer of the patched model.
        safe_prompt (`str`, *optional*):
            Instruction that is written before each prompt of the base without a patch. Nothing is added between them.
        equal_length_prompt (`bool`, *optional*, defaults to `False`):
            Also measure the base with the safety sentence that the patch starts from before each prompt, repeated until
            it has as many tokens as the patch has vectors. Without such a sentence `safe_prompt` is repeated.
        untrained (`bool`, *optional*, defaults to `False`):
            Also measure the patch as it was before training.
        extra_systems (`Mapping[str, System or PreTrainedModel]`, *optional*, defaults to `{}`):
            Name -> another system to compare with.
    """

    teacher: Any = None
    teacher_tokenizer: Any = None
    safe_prompt: str | None = None
    equal_length_prompt: bool = False
    untrained: bool = False
    extra_systems: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EvaluationSampling:
    """The settings of sampling. None stands for the risk's own value.

    Args:
        num_samples (`int`, *optional*):
            Answers to each prompt. By default 25 for toxicity, 10 for gender bias, 1 for harmfulness.
        max_new_tokens (`int`, *optional*):
            Longest answer, in tokens. By default 20, but 64 for harmfulness.
        top_p (`float`, *optional*):
            Probability mass of nucleus sampling. By default 0.9, but 1.0 for harmfulness.
        temperature (`float`, *optional*):
            Divides the logits. By default 1.0; for harmfulness it is so small that decoding is greedy.
        batch_size (`int`, *optional*, defaults to `32`):
            Answers per forward pass.
        seed (`int`, *optional*, defaults to `0`):
            Seed of samples, resamples and permutations.
    """

    num_samples: int | None = None
    max_new_tokens: int | None = None
    top_p: float | None = None
    temperature: float | None = None
    batch_size: int = 32
    seed: int = 0


# Group -> keywords of earlier versions, with their names in the group.
_GROUPS = {
    "perplexity=PerplexityModel({}=...)": {
        "judge_model": "model",
        "judge_name": "name",
        "judge_tokenizer": "tokenizer",
    },
    "alternatives=Alternatives({}=...)": {name: name for name in Alternatives.__dataclass_fields__},
    "sampling=EvaluationSampling({}=...)": {name: name for name in EvaluationSampling.__dataclass_fields__},
}
MOVED = {old: group.format(new) for group, names in _GROUPS.items() for old, new in names.items()}


def takes_groups(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function so that it refuses keywords that now belong to a group, and names the group.

    Raises:
        EvaluationError: raised by the decorated function for such a keyword.
    """

    @functools.wraps(function)
    def checked(*args: Any, **options: Any) -> Any:
        moved = [name for name in options if name in MOVED]
        if moved:
            where = "; ".join(f"`{name}` is now `{MOVED[name]}`" for name in moved)
            raise EvaluationError(f"{function.__name__} takes its settings in groups: {where}.")
        return function(*args, **options)

    return checked


def check_perplexity_model(perplexity: Any) -> None:
    """Raise EvaluationError if `perplexity` is not a [`PerplexityModel`]."""
    if not isinstance(perplexity, PerplexityModel):
        raise EvaluationError(
            f"`perplexity` is a {type(perplexity).__name__}; expected `PerplexityModel(model=..., name=...)`."
        )
