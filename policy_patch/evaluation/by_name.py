"""Scorers and judges by the names that commands and recipes use, such as `hf:<model>`: one table for each.

What a scorer or a judge does is in `scorers.py`, `judges.py` and `judge_models.py`; which ones a risk takes, in
`risk.py`.
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from policy_patch.answers.addresses import shown_spec, split_spec
from policy_patch.errors import EvaluationError
from policy_patch.evaluation.gender_words import load_gender_words
from policy_patch.evaluation.judge_models import ClassifierJudge, HarmBenchJudge, LlamaGuardJudge
from policy_patch.evaluation.judges import AnswerScorer, EndpointJudge, Judge, RefusalPhrases
from policy_patch.evaluation.refusals import load_phrases
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
    """How a name becomes a scorer or a judge.

    Args:
        form (`str`):
            The name as messages show it: `"lexical"` stands alone, `"hf:<model>"` needs a text after its colon,
            `"gender-words[:<list>]"` may have one.
        load (`Callable[..., Any]`):
            Called with the text after the colon, or without arguments where there is none.
        argument (`str`, *optional*, defaults to `".+"`):
            Pattern of the text after the colon.
    """

    form: str
    load: Callable[..., Any]
    argument: str = ".+"

    @property
    def name(self) -> str:
        """The part before the colon."""
        return re.split(r"[:\[]", self.form, maxsplit=1)[0]

    def takes(self, argument: str | None) -> bool:
        """Whether the name may have this text after its colon; None: no colon."""
        if argument is None:
            return self.form == self.name or "[" in self.form
        return self.form != self.name and re.fullmatch(self.argument, argument, re.DOTALL) is not None


def _table(kind: str, group: str, *own: Loader) -> Registry[Loader]:
    return Registry(
        kind, group=group, own={one.name: one for one in own}, error=EvaluationError, made=partial(_loader, kind)
    )


def _loader(kind: str, name: str, load: Any) -> Loader:
    """Return the loader of what others register: with or without a text after the colon, as `load` can be called."""
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
            f"`load` of the {kind} {name!r} has to be called without arguments, or with one text. Give a function that "
            "settles the rest."
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
    """Return a scorer from its name on a command line.

    Args:
        spec (`str`):
            `"lexical"` (alt-profanity-check), `"lab-insults"` (the lab's own), `"hf:<model>"` (a text classifier, Hub
            id or folder) or `"fitted:<file.csv>"` (fitted on a file with the columns `text` and `label`, 1 or 0); for
            the pairs of other risks `"gender-words"`, `"gender-words:pronouns"` or `"gender-words:<file.json>"` (1 for
            a text with a gender word) and `"compliance"` (1 for a text that does not refuse); and what was registered
            by [`register_scorer`] or by the entry points `policy_patch.scorers` of installed packages.

    Raises:
        EvaluationError: an unknown name, or a file that is missing or has other columns.
        MissingExtraError: a package of the extra `eval` is not installed.
    """
    return _loaded("Scorer", SCORERS, spec)


def load_judge(spec: str) -> Judge:
    """Return a judge from its name on a command line.

    Args:
        spec (`str`):
            `"refusal-phrases"` (our list), `"refusal-phrases:<file>"` (your own; see [`load_phrases`]),
            `"guard:<model>"` ([`LlamaGuardJudge`]), `"harmbench:<model>"` ([`HarmBenchJudge`]), `"classifier:<model>"`
            ([`ClassifierJudge`]), each with a Hub id or folder, `"openai:<model>@<url>"` ([`EndpointJudge`]) or
            `"fitted:<file.csv>"` (a scorer, see [`load_scorer`], that judges the answer alone); and what was registered
            by [`register_judge`] or by the entry points `policy_patch.judges` of installed packages.

    Raises:
        EvaluationError: an unknown name, or what the judge itself refuses.
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
    """Give a scorer of your own a name in this process: for `--scorers`, `--scorer`, recipes and [`load_scorer`].

    Args:
        name (`str`):
            The name, such as `"shouting"`.
        load (`Callable[..., Scorer]`):
            A class or function that makes the scorer: without arguments for `"shouting"`, with the text after the
            colon for `"shouting:<text>"`.
        replace (`bool`, *optional*, defaults to `False`):
            Take the place of what was registered under this name before in this process.

    Raises:
        EvaluationError: a name that is taken or none, or a `load` that cannot be called so.
    """
    SCORERS.register(name, load, replace=replace)


def register_judge(name: str, load: Callable[..., Judge], *, replace: bool = False) -> None:
    """Give a judge of your own a name in this process; as [`register_scorer`]."""
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
