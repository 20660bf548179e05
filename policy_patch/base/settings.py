"""The settings of a base's configuration that change its output, as stored in the fingerprint.

A new release of transformers may add settings, so a setting that one side lacks is ignored; the base's predictions
(`probe.py`) cover that case.
"""

import json
import math
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MOST_ENTRIES, MOST_NESTED = 500, 6  # of lists and objects within settings; our choice
_MOST_BYTES = 64 * 1024  # of JSON; the models in transformers need under 6 kB

# Settings that no forward pass in eval mode depends on, or that the fingerprint holds elsewhere (sizes, tied head).
_NO_PART_IN_IT = re.compile(
    r"_.*|model_type|architectures|auto_map|transformers_version|.*name_or_path|d?type|torch_dtype|attn_implementation"
    r"|use_cache|use_return_dict|return_dict|output_(attentions|hidden_states|router_logits)|torchscript|problem_type|id2label|label2id|num_labels"
    r"|task_specific_params|finetuning_task|tokenizer_class|.*token_ids?|.*token_index|vocab_size|tie_.*"
    r"|is_encoder_decoder|add_cross_attention|chunk_size_feed_forward|pretraining_tp|gradient_checkpointing"
    r"|.*drop(out)?(_.*)?|.*pdrop|layerdrop|.*initializer.*|init_std|.*aux_loss.*|.*z_loss.*|quantization_config"
    r"|compression_config|generation_config|prefix|unsloth.*|base_model_.*_plan|sep_token|num_logits_to_keep|summary_.*"
    r"|use_mambapy|use_associative_scan|use_mamba_kernels"
)


def forward_settings(base: "PreTrainedModel") -> dict[str, Any]:
    """Return these settings by name, as plain JSON values: rotary embeddings, norms, windows, activations and so on.

    Args:
        base ([`~transformers.PreTrainedModel`]):
            A causal language model. Not changed.
    """
    config = {str(name): _plain(value) for name, value in base.config.get_text_config().to_dict().items()}
    found = {name: value for name, value in config.items() if not _NO_PART_IN_IT.fullmatch(name) and value is not ...}
    if not _turns_by_length(config):  # then it only records the text length in training
        found.pop("max_position_embeddings", None)
    small = len(json.dumps(found)) <= _MOST_BYTES
    return found if small else {name: value for name, value in found.items() if not isinstance(value, list | dict)}


def _plain(value: Any, depth: int = 0) -> Any:
    """Return a value as JSON, infinite numbers as strings; `...` for a value that JSON cannot hold or is too large."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if not isinstance(value, dict | list | tuple) or depth == MOST_NESTED or len(value) > MOST_ENTRIES:
        return ...
    if not isinstance(value, dict):
        inner = [_plain(each, depth + 1) for each in value]
        return ... if ... in inner else inner
    inner = {str(name): _plain(each, depth + 1) for name, each in value.items()}
    return {name: each for name, each in inner.items() if each is not ...}


def _turns_by_length(config: dict[str, Any]) -> bool:
    """Return whether the rotary embeddings may depend on the longest allowed text."""
    text = json.dumps([config.get("rope_parameters"), config.get("rope_scaling")], default=str)
    return any(f'"{kind}"' in text for kind in ("dynamic", "longrope", "yarn", "su"))


def changed_settings(recorded: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Return the settings that both sides have and that differ, in words; nested settings by their path."""
    changed = []
    for name in recorded.keys() & found.keys():
        one, other = recorded[name], found[name]
        if isinstance(one, dict) and isinstance(other, dict):
            changed += [f"`{name}.{inner[1:]}" for inner in changed_settings(one, other)]
        elif one != other:
            changed.append(f"`{name}` is {_short(other)}, expected {_short(one)}")
    return sorted(changed)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
