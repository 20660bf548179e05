"""Prompts in, preference pairs out: sampling from models, scoring, filtering, and files of prompts and pairs.

Names are loaded on first use, so importing this imports neither torch nor datasets.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_MODULE_OF = {
    "Answer": "policy_patch.data.sampling",
    "Answering": "policy_patch.data.answering",
    "OpenAIEndpoint": "policy_patch.data.endpoint",
    "PairCounts": "policy_patch.data.pairs",
    "add_counterfactuals": "policy_patch.data.counterfactuals",
    "build_helpful_pairs": "policy_patch.data.helpful_pairs",
    "build_preference_pairs": "policy_patch.data.pairs",
    "load_preference_pairs": "policy_patch.data.files",
    "load_prompts": "policy_patch.data.files",
    "mix_preference_pairs": "policy_patch.data.mixing",
    "occupation_prompts": "policy_patch.data.occupations",
    "public_prompts": "policy_patch.data.public_sets",
    "stream_answers": "policy_patch.data.streaming",
    "sample_answers": "policy_patch.data.sampling",
    "sample_completions": "policy_patch.data.sampling",
    "save_preference_pairs": "policy_patch.data.files",
}

__all__ = [
    "Answer",
    "Answering",
    "OpenAIEndpoint",
    "PairCounts",
    "add_counterfactuals",
    "build_helpful_pairs",
    "build_preference_pairs",
    "load_preference_pairs",
    "load_prompts",
    "mix_preference_pairs",
    "occupation_prompts",
    "public_prompts",
    "sample_answers",
    "sample_completions",
    "save_preference_pairs",
    "stream_answers",
]

if TYPE_CHECKING:
    from policy_patch.data.answering import Answering
    from policy_patch.data.counterfactuals import add_counterfactuals
    from policy_patch.data.endpoint import OpenAIEndpoint
    from policy_patch.data.files import load_preference_pairs, load_prompts, save_preference_pairs
    from policy_patch.data.helpful_pairs import build_helpful_pairs
    from policy_patch.data.mixing import mix_preference_pairs
    from policy_patch.data.occupations import occupation_prompts
    from policy_patch.data.pairs import PairCounts, build_preference_pairs
    from policy_patch.data.public_sets import public_prompts
    from policy_patch.data.sampling import Answer, sample_answers, sample_completions
    from policy_patch.data.streaming import stream_answers


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module `policy_patch.data` has no attribute `{name}`")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
