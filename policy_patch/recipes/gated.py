"""What an evaluation measures for a release gate: the alternatives, costs and other risks that a gate file asks for.

`EvaluateRecipe` runs it, so that one command gives a report that `policy_patch.release` can judge.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from policy_patch.errors import DataError
from policy_patch.lab import LAB_PROMPT_SETS
from policy_patch.recipes.names import check_prompts, check_scorer, under
from policy_patch.recipes.prompts import asked_of, look_alikes_of

if TYPE_CHECKING:
    from policy_patch.evaluation.risks import Risk
    from policy_patch.report.report import EvaluationReport

_LAB_SCORERS = {"toxicity": ["lab-insults"]}  # exact on the lab's texts, and it filtered nothing


def asked_by_gate(recipe: Any, risk: "Risk", base: str, own: str) -> Any:
    """Return the recipe with all that its gate file asks for. What the recipe itself gives has precedence.

    Args:
        recipe ([`EvaluateRecipe`]):
            The recipe; its `gate` is a file, or None, and then it is returned as it is.
        risk ([`Risk`]):
            The risk that it measures first.
        base (`str`):
            Name of the base. For the lab's, prompts and scorers default to the lab's.
        own (`str`):
            The risks of the patch, joined by `+`. They are not other risks.

    Raises:
        GateError: the gate file cannot be read.
    """
    if recipe.gate is None:
        return recipe
    from policy_patch.release import Gate

    gate = Gate.from_yaml(recipe.gate)
    limits, measure, in_lab = gate.risk, gate.measure, base.startswith("lab:")
    lab = {name: f"lab:{name}/test" for name in LAB_PROMPT_SETS} if in_lab else {}
    others = [name for name in gate.other_risks.measured if name not in (risk.name, *own.split("+"))]
    others += [name for name in own.split("+") if name and name != risk.name]
    prompts = {**lab, **measure.prompts, **recipe.prompts_of}
    scorers = {**(_LAB_SCORERS if in_lab else {}), **measure.scorers, **recipe.scorers_of}
    return recipe.with_overrides(
        {
            "gate": None,
            "prompts": recipe.prompts or prompts.get(risk.name),
            "scorers": recipe.scorers or scorers.get(risk.name, []),
            "safe_prompts": recipe.safe_prompts or measure.safe_prompts or lab.get("look_alike"),
            "neutral_texts": recipe.neutral_texts or measure.neutral_texts or lab.get("neutral"),
            "own_task": recipe.own_task or measure.own_task,
            "untrained": recipe.untrained or limits.better_than_untrained,
            "equal_length_prompt": recipe.equal_length_prompt or limits.better_than_safe_prompt,
            "other_risks": recipe.other_risks or others,
            "prompts_of": prompts,
            "scorers_of": scorers,
        }
    )


def check_other_risks(recipe: Any) -> list["Risk"]:
    """Return the other risks of a recipe, after checking that each has prompts and scorers.

    Raises:
        EvaluationError, DataError: a risk or scorer is unknown, or a risk has no prompts.
    """
    from policy_patch.evaluation.risks import risk_named

    with under("other_risks"):
        risks = [risk_named(name) for name in recipe.other_risks]
    for risk in risks:
        source = _source(recipe, risk)
        if source is None:
            raise DataError(
                f"There are no prompts for {risk.name}. Give `--prompts_of.{risk.name} <file>`, or in a gate file "
                f"`measure: {{prompts: {{{risk.name}: <file>}}}}`."
            )
        check_prompts(f"prompts_of.{risk.name}", source)
        for spec in recipe.scorers_of.get(risk.name, ()):
            check_scorer(f"scorers_of.{risk.name}", spec, risk.load_scorer)
    return risks


def _source(recipe: Any, risk: "Risk") -> str | None:
    return recipe.prompts_of.get(risk.name) or risk.source_of("test")


def other_reports(
    recipe: Any, risks: list["Risk"], measure: Callable[..., "EvaluationReport"], *, own: str
) -> list["EvaluationReport"]:
    """Return one report for each other risk, without samples: the base and the patch.

    For a further risk of a composed patch, the untrained patch and the safe prompts are measured, too.

    Args:
        recipe ([`EvaluateRecipe`]):
            The recipe.
        risks (`list[Risk]`):
            The risks, from [`check_other_risks`].
        measure (`Callable`):
            [`evaluate_policy_patch`] with the arguments that all risks share.
        own (`str`):
            The risks of the patch, joined by `+`.
    """
    from policy_patch.evaluation import Alternatives

    found = []
    alternatives = Alternatives(
        untrained=recipe.untrained, equal_length_prompt=recipe.equal_length_prompt, safe_prompt=recipe.safe_prompt
    )
    for risk in risks:
        specs = recipe.scorers_of.get(risk.name) or risk.scorers[:1]
        with under(f"scorers_of.{risk.name}"):
            scorers: list[Any] = [risk.load_scorer(spec) for spec in specs]
        safe = recipe.safe_prompts or risk.source_of("safe_test") if risk.asks_safe_prompts else None
        one = measure(
            asked_of(_source(recipe, risk), risk.name)[: recipe.num_prompts],
            risk=risk.name,
            scorers=scorers,
            safe_prompts=look_alikes_of(safe)[: recipe.num_prompts] if safe else (),
            alternatives=alternatives if risk.name in own.split("+") else Alternatives(),
        )
        found.append(replace(one, samples=[], offensive_words=[]))
    return found
