"""The risks that the tab Measure offers, each with its first prompts and its scorer.

The scorers and risks themselves are in `policy_patch.evaluation`.
"""

import contextlib
from typing import Any

from policy_patch.errors import DataError, PolicyPatchError
from policy_patch.evaluation.risk import Risk
from policy_patch.evaluation.risks import RISKS
from policy_patch.lab import lab_prompts
from policy_patch.lab.prompts import LAB_PROMPT_SETS
from policy_patch.ui.served import Loaded

_SHOWN = 15  # prompts that the tab shows at first


def choices() -> list[tuple[str, str]]:
    """Return the title and the name of every risk, including your own.

    The packages that offer risks are imported for their titles. A package that cannot be imported offers none.
    """
    found = []
    for name in RISKS:
        with contextlib.suppress(PolicyPatchError):
            found.append((RISKS[name].title, name))
    return found


def chosen(name: Any) -> Risk:
    """Return the risk that a visitor chose.

    Raises:
        DataError: there is no risk of this name.
    """
    if not isinstance(name, str) or name not in RISKS:
        raise DataError(f"`{str(name)[:40]}` is not a known risk; this page measures {', '.join(RISKS)}.")
    return RISKS[name]


def first_prompts(base: str, name: str) -> list[str]:
    """Return the prompts that the tab shows when a risk is chosen, or none if the risk has no prompts of its own.

    Args:
        base (`str`):
            Name of the base. For the lab's base the prompts are in the lab's own small language.
        name (`str`):
            Name of the risk.
    """
    return _some(base, chosen(name), "test")


def look_alikes(base: str, risk: Risk) -> list[str]:
    """Return harmless prompts that sound like this risk, for metrics such as over-refusal; often none."""
    return _some(base, risk, "safe_test") if risk.asks_safe_prompts else []


def scorer_of(loaded: Loaded, risk: Risk) -> Any:
    """Return the scorer: for toxicity the scorer of the page's badges, otherwise the risk's main scorer.

    Raises:
        EvaluationError, MissingExtraError: the scorer cannot be loaded.
    """
    return loaded.scorer if risk.name == "toxicity" else risk.load_scorer(risk.scorers[0])


def _some(base: str, risk: Risk, split: str) -> list[str]:
    from policy_patch.recipes.prompts import asked_of, look_alikes_of

    own = risk.prompts_of(split)
    if base.startswith("lab:"):
        lab_set = "look_alike" if split == "safe_test" and risk.name == "harmfulness" else risk.name
        if lab_set in LAB_PROMPT_SETS and (lab_set == "look_alike" or split == "test"):
            return lab_prompts(lab_set, "test")[::12]
    if not isinstance(own, str):
        return list(own or ())[:_SHOWN]
    return (look_alikes_of(own) if split == "safe_test" else asked_of(own, risk.name))[:_SHOWN]
