"""Builds preference pairs from prompts (sampling, scoring, filtering), and reads and writes files of both.

Names are loaded on first use, so importing this package imports neither torch nor datasets.
"""

from typing import TYPE_CHECKING

from policy_patch._lazy import lazy_names

_MODULE_OF = {
    "Answer": "policy_patch.answers.sampling",
    "Answering": "policy_patch.answers.protocol",
    "OpenAIEndpoint": "policy_patch.answers.endpoint",
    "PairCounts": "policy_patch.data.pairs",
    "add_counterfactuals": "policy_patch.data.counterfactuals",
    "build_helpful_pairs": "policy_patch.data.helpful_pairs",
    "build_preference_pairs": "policy_patch.data.pairs",
    "load_preference_pairs": "policy_patch.data.files",
    "load_prompts": "policy_patch.data.files",
    "mix_preference_pairs": "policy_patch.data.mixing",
    "occupation_prompts": "policy_patch.data.occupations",
    "public_prompts": "policy_patch.data.public_sets",
    "sample_answers": "policy_patch.answers.sampling",
    "sample_completions": "policy_patch.answers.sampling",
    "save_preference_pairs": "policy_patch.data.files",
    "stream_answers": "policy_patch.answers.streaming",
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
    from policy_patch.answers.endpoint import OpenAIEndpoint
    from policy_patch.answers.protocol import Answering
    from policy_patch.answers.sampling import Answer, sample_answers, sample_completions
    from policy_patch.answers.streaming import stream_answers
    from policy_patch.data.counterfactuals import add_counterfactuals
    from policy_patch.data.files import load_preference_pairs, load_prompts, save_preference_pairs
    from policy_patch.data.helpful_pairs import build_helpful_pairs
    from policy_patch.data.mixing import mix_preference_pairs
    from policy_patch.data.occupations import occupation_prompts
    from policy_patch.data.pairs import PairCounts, build_preference_pairs
    from policy_patch.data.public_sets import public_prompts

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
