"""What an evaluation compares: the base, what users would do without a patch, and the patched model, in order.

Nothing is measured here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from policy_patch.errors import EvaluationError

BASE, TEACHER, SAFE_PROMPT, PATCH = "base", "teacher", "safe prompt", "patch"


@dataclass(frozen=True)
class System:
    """One way to get completions.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`PolicyPatchModel`]):
            Anything with the `generate` of transformers.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Defaults to the tokenizer of the patched model.
        instruction (`str`, *optional*):
            Text in front of every prompt.
    """

    model: Any
    tokenizer: Any = None
    instruction: str | None = None


def systems_to_compare(
    model: Any,
    tokenizer: Any,
    *,
    teacher: Any = None,
    teacher_tokenizer: Any = None,
    safe_prompt: str | None = None,
    extra_systems: Mapping[str, Any] | None = None,
) -> dict[str, System]:
    """Return the systems by name, each with its tokenizer: base, teacher, safe prompt, the extra ones, patch.

    Args:
        model ([`PolicyPatchModel`]):
            The patched model.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        teacher ([`~transformers.PreTrainedModel`], *optional*):
            The safer model that the patch learned from.
        teacher_tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Defaults to `tokenizer`.
        safe_prompt (`str`, *optional*):
            Instruction for the base without a patch.
        extra_systems (`Mapping[str, System or PreTrainedModel]`, *optional*):
            Others, by name.

    Raises:
        EvaluationError: `model` has no base, or an extra system has an empty name or one of ours.
    """
    if not hasattr(model, "get_base_model"):
        raise EvaluationError(
            f"`model` is a {type(model).__name__}; expected a `PolicyPatchModel`. Compare other models by "
            "`extra_systems={name: model}`."
        )
    base = model.get_base_model()
    systems = {BASE: System(base)}
    if teacher is not None:
        systems[TEACHER] = System(teacher, teacher_tokenizer)
    if safe_prompt:
        systems[SAFE_PROMPT] = System(base, instruction=safe_prompt)
    for name, system in (extra_systems or {}).items():
        if not name.strip() or name in (BASE, TEACHER, SAFE_PROMPT, PATCH):
            raise EvaluationError(
                f"`extra_systems` has the name {name!r}, which is taken or empty. Choose another one."
            )
        systems[name] = system if isinstance(system, System) else System(system)
    systems[PATCH] = System(model)
    return {
        name: System(system.model, system.tokenizer or tokenizer, system.instruction)
        for name, system in systems.items()
    }
