"""All workarounds for differences between versions of transformers, each with the condition for its removal.

Nothing here decides whether a patch is applied; `self_check.py` and `proof.py` prove that.
"""

import functools
from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import Any

import transformers
from packaging.version import Version
from torch import nn
from transformers.utils import logging

from policy_patch.errors import PatchInputError

logger = logging.get_logger(__name__)

# The tested releases, as (first, last) of `major.minor`. Others work if the self-check passes.
TESTED_TRANSFORMERS = ("5.19", "5.24")

# Names of the argument and the output field for a cache. transformers 5.24 renamed `past_key_values` (attention) and
# `cache_params` (Mamba) to `cache`, and accepts the old names with a warning until 5.40; `generate` until 6.0.
# Remove the old names when the lowest supported transformers is 5.24.
CACHE_NAMES = ("cache", "past_key_values", "cache_params")


@functools.cache
def warn_if_untested(version: str = transformers.__version__) -> bool:
    """Warn, once per process, if this release of transformers is not a tested one.

    Returns:
        `bool`: whether it warned.
    """
    first, last = (Version(bound) for bound in TESTED_TRANSFORMERS)
    release = Version(Version(version).base_version)
    if first <= release and (release.major, release.minor) <= (last.major, last.minor):
        return False
    logger.warning(
        f"transformers {version} is outside the tested range {TESTED_TRANSFORMERS[0]} to {TESTED_TRANSFORMERS[1]}. "
        "Each base is checked before it carries a patch, and each call proves that the patch took part; whatever "
        "cannot be proved is refused."
    )
    return True


# The cache


def cache_argument(parameters: Mapping[str, Any]) -> str | None:
    """Return the name of the cache among the `parameters` of a function, or None."""
    return next((name for name in CACHE_NAMES if name in parameters), None)


def take_cache(inputs: dict[str, Any]) -> Any:
    """Remove the cache from keyword arguments, under whatever name it was given, and return it; None if there is none.

    Raises:
        PatchInputError: two different caches under two names.
    """
    given = {name: inputs.pop(name) for name in CACHE_NAMES if name in inputs}
    caches = {name: cache for name, cache in given.items() if cache is not None}
    cache = next(iter(caches.values()), None)
    if any(other is not cache for other in caches.values()):
        raise PatchInputError(
            f"Two caches were given, as {' and '.join(f'`{name}`' for name in caches)}. Give one: they are names of "
            "the same argument."
        )
    return cache


def cache_of(output: Any) -> Any:
    """Return the cache in a model's output, under whatever name; None if there is none."""
    fields = vars(type(output)).get("__dataclass_fields__", None) or getattr(type(output), "__dataclass_fields__", {})
    name = cache_argument(fields)
    return None if name is None else getattr(output, name, None)


def without_cache(output: Any) -> Any:
    """Return a copy of a model's output without its cache."""
    return type(output)(**{name: value for name, value in output.items() if name not in CACHE_NAMES})


# Features of transformers that depend on the name of a class


def register_causal_lm(class_name: str) -> None:
    """Register the name of a class of causal language models with transformers.

    For an unknown class, `pipeline("text-generation")` prints its whole list of models, and `Trainer` with label
    smoothing does not shift the labels. Remove when transformers checks the model instead of its class name
    (`Pipeline.check_model_type`, `Trainer.compute_loss`).
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[class_name] = class_name


# Signatures


def forward_parameters(module: nn.Module) -> dict[str, Parameter]:
    """Return the parameters that the original `forward` of `module` takes, by name, in order.

    Compiled modules (`torch.compile`) and wrappers of `forward` (`functools.wraps`, accelerate's hooks) have the
    signature `(*args, **kwargs)`; this function looks at the function that they wrap.

    Returns:
        `dict[str, inspect.Parameter]`: empty if no function with token inputs can be found inside the wrappers.
    """
    module = getattr(module, "_orig_mod", module)  # torch.compile(module)
    behind = getattr(module, "_old_forward", None)  # accelerate.hooks.add_hook_to_module
    for function in (module.forward, behind, type(module).forward):
        parameters = _parameters(function)
        if {"input_ids", "inputs_embeds"} & set(parameters):
            parameters.pop("self", None)
            return parameters
    return {}


def _parameters(function: Callable | None) -> dict[str, Parameter]:
    function = getattr(function, "_torchdynamo_orig_callable", function)  # torch.compile(module.forward)
    try:
        return {} if function is None else dict(signature(function).parameters)  # follows `__wrapped__`
    except (TypeError, ValueError):  # not a Python function
        return {}


def generation_cache_argument(base: Any) -> str:
    """Return the name under which `generate` of `base` takes a cache and passes it to each step."""
    prepare = getattr(base, "prepare_inputs_for_generation", None)
    return cache_argument(_parameters(prepare)) or "past_key_values"


# Activation checkpointing


def is_checkpointing(base: Any) -> bool:
    """Return whether activation checkpointing is on in `base`.

    transformers 5.23 renamed `is_gradient_checkpointing`, and warns about the old name. Remove when 5.23 is the lowest
    supported version.
    """
    names = ("is_activation_checkpointing", "is_gradient_checkpointing")
    return bool(next((getattr(base, name) for name in names if hasattr(type(base), name)), False))
