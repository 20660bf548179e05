"""Finds a risk by its name: risks of the package, registered risks, and risks of other installed packages.

The class [`Risk`] is in `risk.py`; each risk of the package has a file of its own.
"""

from collections.abc import Sequence
from typing import Any

from policy_patch.config import DEFAULT_INIT_TEXTS, RISK_ENTRY_POINTS
from policy_patch.errors import EvaluationError
from policy_patch.evaluation import gender_bias, harmfulness, toxicity
from policy_patch.evaluation.risk import Risk
from policy_patch.near_names import did_you_mean
from policy_patch.registry import Registry
from policy_patch.report.notes import NOTES


def _known(name: str, risk: Any) -> Risk:
    """Check a risk of another package, and copy its `init_text` and `notes` to the rooms on lower floors.

    Raises:
        EvaluationError: the object is no risk, or has another name.
    """
    if not isinstance(risk, Risk):
        raise EvaluationError(f"{name!r} is a {type(risk).__name__}; expected a `policy_patch.evaluation.Risk`.")
    if risk.name != name:
        raise EvaluationError(f"{name!r} is the name of the risk {risk.name!r}; give both the same name.")
    if risk.init_text is not None:
        DEFAULT_INIT_TEXTS[name] = risk.init_text
    NOTES[name] = risk.notes
    return risk


RISKS: Registry[Risk] = Registry(
    "risk",
    group=RISK_ENTRY_POINTS,
    own={risk.name: risk for risk in (toxicity.RISK, gender_bias.RISK, harmfulness.RISK)},
    error=EvaluationError,
    made=_known,
)


def risk_named(name: str) -> Risk:
    """Return a risk by its name.

    Args:
        name (`str`):
            Name of a risk of the package, of [`register_risk`], or of an entry point `policy_patch.risks`.

    Raises:
        EvaluationError: there is no risk of that name, or the package that offers it cannot be imported.
    """
    if name not in RISKS:
        hint = did_you_mean(name, RISKS, shown=repr, then=f"Available: {', '.join(RISKS)}.")
        raise EvaluationError(
            f"`risk={name!r}` cannot be measured. {hint} A risk of your own has to be registered or installed "
            "(docs/own_risk.md)."
        )
    return RISKS[name]


def risk_of_patch(named: str | None) -> Risk:
    """Return the risk by which a patch is measured if nobody names one.

    Args:
        named (`str`, *optional*):
            The risk in the patch's configuration, or several joined by `+`: then the first known one is returned.
            Toxicity is returned for a patch that names none.

    Raises:
        EvaluationError: the patch names a risk that is not known here. Another risk would measure something else.
    """
    names = (named or "toxicity").split("+")
    for name in names:
        if name in RISKS:
            return RISKS[name]
    hint = did_you_mean(names[0], RISKS, shown=repr, then=f"Available: {', '.join(RISKS)}.")
    raise EvaluationError(
        f"The patch is for the risk {named!r}, which is not known here. {hint} A risk of your own has to be registered "
        "or installed (docs/own_risk.md). Give `risk` (`--risk`) to measure another one."
    )


def own_prompts(spec: str) -> str | Sequence[str] | None:
    """Return a risk's own prompts by their name, `<risk>/<split>`; see [`Risk.prompts_of`].

    Returns:
        `str`, `Sequence[str]` or `None`: a name that `--prompts` accepts, or the texts; None if `spec` names no risk or
        the risk has no such prompts.

    Example:

    ```python
    >>> from policy_patch.evaluation.risks import own_prompts
    >>> own_prompts("gender_bias/test"), own_prompts("prompts.txt")
    ('occupations/test', None)

    ```
    """
    name, _, split = spec.partition("/")
    return RISKS[name].prompts_of(split) if split and name in RISKS else None


def pair_scorer_of(name: str | None) -> str:
    """Return the name of the scorer that filters preference pairs for a risk, or for several risks joined by `+`.

    It is `"lexical"` if the risk is not known, or if the risks have different scorers.
    """
    found = {RISKS[part].pair_scorer for part in (name or "").split("+") if part in RISKS}
    return found.pop() if len(found) == 1 else "lexical"


def register_risk(risk: Risk, *, replace: bool = False) -> Risk:
    """Register a risk of your own in this process, for `risk=`, `PolicyPatchConfig(risk=)` and all commands.

    An installed package can offer a risk to every process, without this call, by an entry point:

    ```toml
    [project.entry-points."policy_patch.risks"]
    shouting = "my_package.shouting:RISK"
    ```

    Args:
        risk ([`Risk`]):
            The risk.
        replace (`bool`, *optional*, defaults to `False`):
            Replace a risk that was registered under this name earlier in this process, for example when a cell of a
            notebook is run again.

    Returns:
        [`Risk`]: `risk`.

    Raises:
        EvaluationError: `risk` is no [`Risk`], or its name is taken.
    """
    if not isinstance(risk, Risk):
        raise EvaluationError(f"`risk` is a {type(risk).__name__}; expected a `policy_patch.evaluation.Risk`.")
    RISKS.register(risk.name, risk, replace=replace)
    return risk
