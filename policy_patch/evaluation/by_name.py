"""Loads scorers and judges by the names that commands and recipes use, such as `hf:<model>`.

There is one table for scorers and one for judges. The classes are in `scorers.py`, `judges.py` and `judge_models.py`.
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from policy_patch.answers.addresses import shown_spec, split_spec
from policy_patch.answers.refusals import load_phrases
from policy_patch.errors import EvaluationError
from policy_patch.evaluation.gender_words import load_gender_words
from policy_patch.evaluation.judge_models import ClassifierJudge, HarmBenchJudge, LlamaGuardJudge
from policy_patch.evaluation.judges import AnswerScorer, EndpointJudge, Judge, RefusalPhrases
from policy_patch.evaluation.scorers import (
    ComplianceScorer,
    LexicalScorer,
    Scorer,
    TransformersScorer,
    fitted_on_file,
)
from policy_patch.lab import LabInsultScorer
from policy_patch.near_names import did_you_mean
from policy_patch.registry import Registry

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Loader:
    """Makes a scorer or a judge from its name.

    Args:
        form (`str`):
            The name as messages show it: `"lexical"` has no colon, `"hf:<model>"` needs a text after its colon, and in
            `"gender-words[:<list>]"` that text is optional.
        load (`Callable[..., Any]`):
            Called with the text after the colon, or without arguments if the name has no colon.
        argument (`str`, *optional*, defaults to `".+"`):
            Regular expression that the text after the colon must match.
    """

    form: str
    load: Callable[..., Any]
    argument: str = ".+"

    @property
    def name(self) -> str:
        """The part before the colon."""
        return re.split(r"[:\[]", self.form, maxsplit=1)[0]

    def takes(self, argument: str | None) -> bool:
        """Return whether the name may have this text after its colon. None stands for a name without a colon."""
        if argument is None:
            return self.form == self.name or "[" in self.form
        return self.form != self.name and re.fullmatch(self.argument, argument, re.DOTALL) is not None


def _table(kind: str, group: str, *own: Loader) -> Registry[Loader]:
    return Registry(
        kind, group=group, own={one.name: one for one in own}, error=EvaluationError, made=partial(_loader, kind)
    )


def _loader(kind: str, name: str, load: Any) -> Loader:
    """Return the loader of a registered scorer or judge. The signature of `load` tells whether the name takes a text.

    Raises:
        EvaluationError: the name has other characters, `load` cannot be called, or it needs other arguments.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise EvaluationError(
            f"{name!r} is no name for a {kind}; expected letters, digits, dots, dashes and underscores."
        )
    if not callable(load):
        raise EvaluationError(
            f"The {kind} {name!r} is a {type(load).__name__}; expected a class or function that makes the {kind}."
        )
    alone, with_text = (_can_be_called(load, *given) for given in ((), ("",)))
    if not alone and not with_text:
        raise EvaluationError(
            f"`load` of the {kind} {name!r} needs other arguments; expected a function that can be called without "
            "arguments or with one text. Wrap it in a function that fills in the rest."
        )
    return Loader(name if not with_text else f"{name}[:...]" if alone else f"{name}:...", load)


def _can_be_called(load: Callable[..., Any], *given: str) -> bool:
    try:
        inspect.signature(load).bind(*given)
    except TypeError:
        return False
    except ValueError:  # written in C, without a signature
        return True
    return True


def _own_phrases(file: str | None = None) -> RefusalPhrases:
    if file is None:
        return RefusalPhrases()
    return RefusalPhrases(load_phrases(file), name=f"refusal phrases of {Path(file).name}")


SCORERS = _table(
    "scorer",
    "policy_patch.scorers",
    Loader("lexical", LexicalScorer),
    Loader("lab-insults", LabInsultScorer),
    Loader("hf:<model>", TransformersScorer),
    Loader("fitted:<file.csv>", fitted_on_file),
    Loader("gender-words[:<list>]", lambda source="all": load_gender_words(source)),
    Loader("compliance", ComplianceScorer),
)
JUDGES = _table(
    "judge",
    "policy_patch.judges",
    Loader("refusal-phrases[:<file>]", _own_phrases),
    Loader("guard:<model>", LlamaGuardJudge),
    Loader("harmbench:<model>", HarmBenchJudge),
    Loader("classifier:<model>", ClassifierJudge),
    Loader(
        "openai:<model>@<url>",
        lambda served: EndpointJudge(*split_spec(f"openai:{served}")[1:]),
        argument=r".+?@https?://.+",
    ),
    Loader("fitted:<file.csv>", lambda file: AnswerScorer(fitted_on_file(file))),
)


def load_scorer(spec: str) -> Scorer:
    """Load a scorer by its name.

    Args:
        spec (`str`):
            `"lexical"` (alt-profanity-check), `"lab-insults"` (the lab's own), `"hf:<model>"` (a text classifier: Hub
            id or folder) or `"fitted:<file.csv>"` (fitted on a file with the columns `text` and `label`, 1 or 0). For
            pairs of other risks: `"gender-words"`, `"gender-words:pronouns"` or `"gender-words:<file.json>"` (1 for a
            text with a gender word), and `"compliance"` (1 for a text that does not refuse). Scorers of
            [`register_scorer`] and of the entry points `policy_patch.scorers` have names, too.

    Returns:
        [`Scorer`]: the scorer.

    Raises:
        EvaluationError: the name is unknown, or the file is missing or has other columns.
        MissingExtraError: a package of the extra `eval` is not installed.
    """
    return _loaded("Scorer", SCORERS, spec)


def load_judge(spec: str) -> Judge:
    """Load a judge by its name.

    Args:
        spec (`str`):
            `"refusal-phrases"` (our list), `"refusal-phrases:<file>"` (your own; see [`load_phrases`]),
            `"guard:<model>"` ([`LlamaGuardJudge`]), `"harmbench:<model>"` ([`HarmBenchJudge`]), `"classifier:<model>"`
            ([`ClassifierJudge`]), each with a Hub id or folder; `"openai:<model>@<url>"` ([`EndpointJudge`]) or
            `"fitted:<file.csv>"` (a scorer that sees only the answer; see [`load_scorer`]). Judges of
            [`register_judge`] and of the entry points `policy_patch.judges` have names, too.

    Returns:
        [`Judge`]: the judge.

    Raises:
        EvaluationError: the name is unknown, or the judge refuses its argument.
        ModelLoadError: the model cannot be loaded.
        MissingExtraError: the package `openai` is needed and not installed.

    Example:

    ```python
    >>> load_judge("refusal-phrases").name
    'refusal phrases'

    ```
    """
    return _loaded("Judge", JUDGES, spec)


def register_scorer(name: str, load: Callable[..., Scorer], *, replace: bool = False) -> None:
    """Register a scorer of your own by name, for `--scorers`, `--scorer`, recipes and [`load_scorer`] in this process.

    Args:
        name (`str`):
            The name, such as `"shouting"`.
        load (`Callable[..., Scorer]`):
            A class or function that makes the scorer. It is called without arguments for `"shouting"`, and with the
            text after the colon for `"shouting:<text>"`.
        replace (`bool`, *optional*, defaults to `False`):
            Replace a scorer that was registered under this name earlier in this process.

    Raises:
        EvaluationError: the name is taken or not allowed, or `load` needs other arguments.
    """
    SCORERS.register(name, load, replace=replace)


def register_judge(name: str, load: Callable[..., Judge], *, replace: bool = False) -> None:
    """Register a judge of your own by name in this process. Arguments and errors are those of [`register_scorer`]."""
    JUDGES.register(name, load, replace=replace)


def _loaded(kind: str, table: Registry[Loader], spec: str) -> Any:
    name, colon, text = spec.partition(":")
    argument = text if colon else None
    loader = table.get(name)
    if loader is not None and loader.takes(argument):
        return loader.load() if argument is None else loader.load(argument)
    at_hand = table.at_hand
    forms = {known: at_hand[known].form if known in at_hand else known for known in table}
    hint = did_you_mean(
        name, forms, shown=lambda near: f"`{forms[near]}`", then=f"Available: {', '.join(forms.values())}."
    )
    raise EvaluationError(f"{kind} {shown_spec(spec)!r} is unknown. {hint}")
