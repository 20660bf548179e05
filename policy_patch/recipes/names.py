"""Checks of the names in a recipe before anything is loaded: models, files of prompts and pairs, scorers and patches.

A name that may be one of the Hub passes: whether it is there, the Hub says.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from policy_patch.data.files import PAIR_KINDS, PROMPT_KINDS
from policy_patch.data.public_sets import PUBLIC_PROMPTS
from policy_patch.errors import ConfigError, DataError, EvaluationError, ModelLoadError, PatchNotFoundError
from policy_patch.near_names import near_names
from policy_patch.recipes.models import check_has_weights, is_endpoint
from policy_patch.recipes.prompts import OCCUPATIONS, prompts_of

_ON_HUB = re.compile(r"[\w.-]+/[\w.-]+(@\S+)?")
_OF_A_RISK = re.compile(r"\w+/(train|test|safe_test)")
# Loading one of these takes a model, a fit or a request, so its name alone is looked at beforehand.
_LOADED_LATER = ("hf", "fitted", "guard", "harmbench", "classifier", "openai", "chat")
DTYPES = ("auto", "float32", "bfloat16", "float16", "float64", "float", "half", "double")


@contextmanager
def under(key: str) -> Iterator[None]:
    """Within the context an error of ours about a value begins with the full path of its key."""
    try:
        yield
    except (ConfigError, DataError, EvaluationError, ModelLoadError, PatchNotFoundError) as error:
        raise type(error)(f"`{key}`: {error}") from error


def check_model(key: str, name: str | None, *, may_be_endpoint: bool = False) -> None:
    """Raise `ModelLoadError` for a name of a model that can't be one; `key` is where it stands in the recipe.

    Raises:
        ModelLoadError: no such model of the lab, no such folder, or one without weights where they are needed.
        EndpointError: an endpoint without model or address in its name.
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
    """Raise `DataError` for prompts that are not there: a missing file, or no such set of the lab."""
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
    """Return whether a name is that of a registered risk's own prompts, `<risk>/<split>`."""
    if not _OF_A_RISK.fullmatch(spec):
        return False
    from policy_patch.evaluation.risks import own_prompts

    return own_prompts(spec) is not None


def check_source(key: str, spec: str, kinds: tuple[str, ...] = PAIR_KINDS) -> None:
    """Raise `DataError` for a file of rows that is not there."""
    if spec.endswith(kinds) or not _ON_HUB.fullmatch(spec):
        _check_file(key, spec)


def check_patch(key: str, spec: str) -> None:
    """Raise `PatchNotFoundError` for a folder of a patch, or of a LoRA, that is not there."""
    if not os.path.exists(spec) and not _ON_HUB.fullmatch(spec.removesuffix("/")):
        raise PatchNotFoundError(f"`{key}`: `{spec}` does not exist.{_near_file(spec)}")


def check_scorer(key: str, spec: str, load: Callable[[str], Any]) -> None:
    """Raise `EvaluationError` for a scorer or a judge of an unknown name, or whose file is not there.

    Args:
        key (`str`):
            Full path of its key in the recipe.
        spec (`str`):
            Its name.
        load (`Callable[[str], Any]`):
            Loads one by its name. It is asked where that takes no model.
    """
    kind, _, argument = spec.partition(":")
    if kind not in _LOADED_LATER or not argument:
        with under(key):
            load(spec)
    elif kind == "fitted":
        _check_file(key, argument)


def _check_file(key: str, path: str) -> None:
    if not os.path.exists(path):
        raise DataError(f"`{key}`: Cannot read `{path}`: there is no such file.{_near_file(path)}")


def _near_file(path: str) -> str:
    folder, name = os.path.split(path)
    try:
        near = near_names(name, os.listdir(folder or "."))
    except OSError:
        return ""
    return f" Did you mean `{os.path.join(folder, near[0])}`?" if near else ""
