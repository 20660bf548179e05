"""Checks the names in a recipe before anything is loaded: models, files of prompts and pairs, scorers and patches.

A name that may be on the Hub passes, because no request is sent.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from policy_patch.data.files import PAIR_KINDS, PROMPT_KINDS
from policy_patch.data.public_sets import PUBLIC_PROMPTS
from policy_patch.errors import (
    ConfigError,
    DataError,
    EvaluationError,
    MissingExtraError,
    ModelLoadError,
    PatchNotFoundError,
)
from policy_patch.lab.checkpoints import lab_patch
from policy_patch.near_names import near_names
from policy_patch.recipes.models import check_has_weights, is_endpoint
from policy_patch.recipes.prompts import OCCUPATIONS, prompts_of

_MISSPELT = 0.85  # how like a known risk's a name is that counts as misspelt: `toxcity` is at 0.93, `toxic` at 0.77
_ON_HUB = re.compile(r"[\w.-]+/[\w.-]+(@\S+)?")
_OF_A_RISK = re.compile(r"\w+/(train|test|safe_test)")
# Loading one of these needs a model, a fit or a request, so only its name is checked in advance.
_LOADED_LATER = ("hf", "fitted", "guard", "harmbench", "classifier", "openai", "chat")


@contextmanager
def under(key: str) -> Iterator[None]:
    """Put the full path of a key in front of the errors that are raised within the context."""
    try:
        yield
    except (ConfigError, DataError, EvaluationError, ModelLoadError, PatchNotFoundError) as error:
        raise type(error)(f"`{key}`: {error}") from error


def check_model(key: str, name: str | None, *, may_be_endpoint: bool = False) -> None:
    """Raise `ModelLoadError` if the name of a model is impossible.

    Args:
        key (`str`):
            Full path of the key in the recipe, for the error.
        name (`str`, *optional*):
            Name of the model; None is accepted.
        may_be_endpoint (`bool`, *optional*, defaults to `False`):
            Accept an endpoint, because the weights are not needed.

    Raises:
        ModelLoadError: the lab has no such model, the folder does not exist, or the name is that of an endpoint.
        EndpointError: the name of an endpoint lacks the model or the address.
    """
    if name is None:
        return
    if may_be_endpoint and is_endpoint(name):
        from policy_patch.answers.addresses import addresses_in, check_address, split_spec

        for address in addresses_in(split_spec(name)[2]):
            check_address(address)
        return
    with under(key):
        check_has_weights(name)


def check_is_endpoint(key: str, name: str | None) -> None:
    """Raise `ConfigError` for a name that is not that of a served model.

    Raises:
        ConfigError: a Hub id, a folder or a `lab:` name.
        EndpointError: an endpoint without model or address in its name.
    """
    if name is not None and not is_endpoint(name):
        raise ConfigError(f"`{key}={name!r}` is no served model; expected `openai:<model>@<address>/v1` or `chat:...`.")
    check_model(key, name, may_be_endpoint=True)


def check_prompts(key: str, spec: str | None) -> None:
    """Raise `DataError` if a file of prompts is missing, or if the lab has no such set."""
    if spec is None or spec in PUBLIC_PROMPTS:
        return
    if occupations := OCCUPATIONS.fullmatch(spec):
        if occupations[1]:
            _check_file(key, occupations[1])
    elif spec.startswith("lab:") or _is_of_a_risk(spec):
        with under(key):
            prompts_of(spec)
    else:
        check_source(key, spec, PROMPT_KINDS)


def _is_of_a_risk(spec: str) -> bool:
    """Return whether a name, `<risk>/<split>`, is that of a registered risk's own prompts."""
    if not _OF_A_RISK.fullmatch(spec):
        return False
    from policy_patch.evaluation.risks import own_prompts

    return own_prompts(spec) is not None


def check_risk(key: str, name: str | None) -> None:
    """Raise `ConfigError` if the name of a risk, or one of several joined by `+`, is that of a known risk misspelt.

    A name that no known one is like, or that is a known one with more after it (`toxicity2`, `toxicity_de`), is that of
    a risk of the user's own, which a patch may have without being registered.
    """
    from policy_patch.config import DEFAULT_INIT_TEXTS

    parts = [part for part in (name or "").split("+") if part and part not in DEFAULT_INIT_TEXTS]
    if not parts:
        return  # without importing torch
    from policy_patch.evaluation.risks import RISKS

    for part in parts:
        near = [] if part in RISKS else near_names(part, RISKS, cutoff=_MISSPELT)
        if near and not re.match(rf"{re.escape(near[0])}[\d_.-]", part):
            whole = "" if part == name else f" in `{key}={name!r}`"
            raise ConfigError(
                f"`{key}={part!r}`{whole} is a risk that is not known. Did you mean {near[0]!r}? A risk of your own "
                "with a name so near to a known one has to be registered (docs/own_risk.md)."
            )


def check_risks_asked(key: str, given: Iterable[str], measured: Iterable[str]) -> None:
    """Raise an error for risks in a mapping of a recipe that are unknown, or that are not measured.

    Args:
        key (`str`):
            Key of the mapping.
        given (`Iterable[str]`):
            The risks in it.
        measured (`Iterable[str]`):
            The risks that the recipe measures and looks up there.

    Raises:
        EvaluationError: a risk is unknown.
        ConfigError: a risk is not measured, so the entry would have no effect.
    """
    from policy_patch.evaluation.risks import risk_named

    measured = list(measured)
    for name in given:
        with under(f"{key}.{name}"):
            risk_named(name)
        if name not in measured:
            raise ConfigError(f"`{key}.{name}` has no effect: the risk is not among `other_risks`. Add it there.")


def check_source(key: str, spec: str, kinds: tuple[str, ...] = PAIR_KINDS) -> None:
    """Raise `DataError` if a file of rows is missing."""
    if spec.endswith(kinds) or not _ON_HUB.fullmatch(spec):
        _check_file(key, spec)


def check_patch(key: str, spec: str) -> None:
    """Raise `PatchNotFoundError` if the folder of a patch is missing, or if the lab has no such patch."""
    with under(key):
        if lab_patch(spec) is not None:
            return
    if not os.path.exists(spec) and not _ON_HUB.fullmatch(spec.removesuffix("/")):
        raise PatchNotFoundError(f"`{key}`: `{spec}` does not exist.{near_file(spec)}")


def check_lora(key: str, spec: str) -> None:
    """Raise an error if a LoRA cannot be loaded, which otherwise shows only after the base was measured.

    Raises:
        PatchNotFoundError: the folder is missing, or PEFT did not write it.
        MissingExtraError: peft is not installed.
    """
    if os.path.isdir(spec) and not os.path.isfile(os.path.join(spec, "adapter_config.json")):
        raise PatchNotFoundError(
            f"`{key}`: `{spec}` has no adapter_config.json; expected the folder of a LoRA that PEFT saved. The page "
            "Evaluation, section A LoRA to compare with, trains one."
        )
    if not os.path.exists(spec) and not _ON_HUB.fullmatch(spec.removesuffix("/")):
        raise PatchNotFoundError(f"`{key}`: `{spec}` does not exist.{near_file(spec)}")
    if find_spec("peft") is None:
        raise MissingExtraError(f"`{key}`: comparing with a LoRA needs peft. Run: pip install peft")


def check_scorer(key: str, spec: str, load: Callable[[str], Any]) -> None:
    """Raise `EvaluationError` for an unknown scorer or judge, and `DataError` if its file is missing.

    Args:
        key (`str`):
            Full path of the key in the recipe, for the error.
        spec (`str`):
            Name of the scorer or judge.
        load (`Callable[[str], Any]`):
            Loads a scorer or judge by its name. It is called only for those that need no model.
    """
    kind, _, argument = spec.partition(":")
    if kind not in _LOADED_LATER or not argument:
        with under(key):
            load(spec)
    elif kind == "fitted":
        _check_file(key, argument)


def _check_file(key: str, path: str) -> None:
    if not os.path.exists(path):
        raise DataError(f"`{key}`: Cannot read `{path}`: there is no such file.{near_file(path)}")


def near_file(path: str) -> str:
    """Return the question whether the file beside a path with the nearest name was meant; else nothing."""
    folder, name = os.path.split(path)
    try:
        near = near_names(name, os.listdir(folder or "."))
    except OSError:
        return ""
    return f" Did you mean `{os.path.join(folder, near[0])}`?" if near else ""
