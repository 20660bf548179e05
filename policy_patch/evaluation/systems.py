"""Lists the systems that an evaluation compares, in order: the base, the alternatives, and the patched model.

Callers choose the alternatives in `settings.py`; the systems are measured in `evaluate.py`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from policy_patch.base.loading import check_has_values, loading
from policy_patch.errors import EvaluationError
from policy_patch.evaluation.equal_length import equal_length_prompt
from policy_patch.evaluation.settings import Alternatives
from policy_patch.report.system_names import BASE, EQUAL_LENGTH, PATCH, SAFE_PROMPT, TEACHER, UNTRAINED


@dataclass(frozen=True)
class System:
    """One model in one setting, which an evaluation compares with others.

    Args:
        model ([`~transformers.PreTrainedModel`], [`PolicyPatchModel`], [`Answering`] or `Callable[[], Any]`):
            A model with the `generate` of transformers, a served model, or a function that loads either. The function
            is called each time the evaluation comes to this system.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Its tokenizer. Defaults to the tokenizer of the patched model.
        instruction (`str`, *optional*):
            Text before every prompt.
        stack (`tuple[str, ...]`, *optional*):
            For a [`PolicyPatchModel`]: the patches that are active in this system. Defaults to its active patches.
    """

    model: Any
    tokenizer: Any = None
    instruction: str | None = None
    stack: tuple[str, ...] | None = None

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """Yield the model with this system's patches active. Afterwards, the previously active patches are restored."""
        is_loaded = hasattr(self.model, "generate") or hasattr(self.model, "answer")
        model = self.model if is_loaded else _loaded(self.model)
        if self.stack is None:
            yield model
            return
        before = list(model.active_patches)
        model.set_patch(list(self.stack), on_conflict="ignore")  # measuring is how one learns
        try:
            yield model
        finally:
            if before:  # `set_patch` refuses an empty list
                model.set_patch(before, on_conflict="ignore")


def _loaded(load: Callable[[], Any]) -> Any:
    """Load a model by calling a function, under the lock that lets this package load only one model at a time."""
    with loading():
        model = load()
    if hasattr(model, "named_modules"):  # false for a model that is served elsewhere
        check_has_values(model, "the model of a system")
    return model


def systems_to_compare(model: Any, tokenizer: Any, alternatives: Alternatives | None = None) -> dict[str, System]:
    """Return name -> system in this order: base, teacher, the safe prompts, untrained patch, extra systems, patch.

    Each system has its tokenizer.

    Args:
        model ([`PolicyPatchModel`]):
            The patched model.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        alternatives ([`Alternatives`], *optional*):
            The other systems to compare with. Defaults to none.

    Raises:
        EvaluationError: `model` is no patched model or has no active patch, or the name of an extra system is empty or
            taken; or a safe prompt of equal length is wanted and there is no sentence to repeat.
    """
    given = alternatives or Alternatives()
    if not hasattr(model, "get_base_model"):
        raise EvaluationError(
            f"`model` is a {type(model).__name__}; expected a `PolicyPatchModel`. Give other models as "
            "`extra_systems={name: model}`."
        )
    if not getattr(model, "active_patches", True):
        raise EvaluationError("`model` has no active patch, so there is nothing to measure. Call `set_patch` first.")
    base = model.get_base_model()
    systems = {BASE: System(base)}
    if given.teacher is not None:
        systems[TEACHER] = System(given.teacher, given.teacher_tokenizer)
    if given.safe_prompt:
        systems[SAFE_PROMPT] = System(base, instruction=given.safe_prompt)
    if given.equal_length_prompt:
        systems[EQUAL_LENGTH] = System(base, instruction=equal_length_prompt(model, tokenizer, given.safe_prompt))
    if given.untrained:
        systems[UNTRAINED] = System(lambda: untrained_patch(model, tokenizer))
    for name, system in given.extra_systems.items():
        if not name.strip() or name in (BASE, TEACHER, SAFE_PROMPT, EQUAL_LENGTH, UNTRAINED, PATCH):
            raise EvaluationError(
                f"`extra_systems` has the name {name!r}, which is taken or empty. Choose another one."
            )
        systems[name] = system if isinstance(system, System) else System(system)
    systems[PATCH] = System(model)
    return {name: replace(system, tokenizer=system.tokenizer or tokenizer) for name, system in systems.items()}


def untrained_patch(model: Any, tokenizer: Any) -> Any:
    """Return the base of `model` with its active patches as they were before training.

    Args:
        model ([`PolicyPatchModel`]):
            The patched model. It is not changed.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
    """
    from policy_patch import PolicyPatchModel

    untrained = PolicyPatchModel(model.get_base_model())
    for name in model.active_patches:
        bare = dict.fromkeys(("composed_from", "conflicts", "order", "interference"))  # rules of trained vectors
        untrained.add_patch(name, replace(model.patch_config[name], **bare), tokenizer=tokenizer)
    untrained.set_patch(list(model.active_patches))
    return untrained
